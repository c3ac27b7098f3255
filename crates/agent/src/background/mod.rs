//! What works without a person: heartbeats, subagents, and the tokens that they may spend together.
//!
//! Both are turns like any other: taken in as rows, gone on with after a restart, cancelled alike. What they say at their end
//! becomes a pending message in the same transaction, and part of the history of the chat that they work for.

mod heartbeat;
mod todo;

pub use heartbeat::{Heartbeat, is_ok};

use crate::store::{NewTurn, Store, StoreError};
use crate::tools::TurnKind;
use baal_protocol::{ChatRequest, Mode, Role, Sender};

/// The day's cap on tokens. Clones share it.
#[derive(Clone)]
pub struct Budget {
    store: Store,
    cap: i64,
    owner_chat_id: String,
}

impl Budget {
    /// `cap` tokens a day (UTC); the owner is told in `owner_chat_id`, if that is not empty.
    pub fn new(store: Store, cap: u64, owner_chat_id: String) -> Self {
        Self { store, cap: i64::try_from(cap).unwrap_or(i64::MAX), owner_chat_id }
    }

    /// Whether nothing may be spent at all.
    pub fn is_off(&self) -> bool {
        self.cap == 0
    }

    /// Whether the background may ask the model once more today; the first time that it may not, the owner is told.
    ///
    /// # Errors
    /// The database failed.
    pub async fn is_left(&self) -> Result<bool, StoreError> {
        if self.store.read().spent_today().await? < self.cap {
            return Ok(true);
        }
        // Nobody waits for tomorrow where that changes nothing.
        if self.is_off() {
            return Ok(false);
        }
        self.store.tell_cap_reached(self.cap, self.owner_chat_id.clone()).await?;
        Ok(false)
    }

    /// Why nothing more is done today, in words for model and user.
    pub fn reached(&self) -> String {
        if self.is_off() {
            return "Work in the background is switched off: the configuration's background_tokens_per_day is 0."
                .into();
        }
        format!(
            "The {} tokens that may be spent in one day on work in the background are used up. It can go on after midnight (UTC).",
            self.cap
        )
    }
}

/// A turn that no person's message began.
fn turn(kind: TurnKind, chat_id: String, message: String, role: Role, deliver_to: &str) -> NewTurn {
    let request = ChatRequest {
        message,
        chat_id,
        turn_id: None,
        sender: Some(Sender { id: 0, name: String::new(), role, tools: None }),
        language_code: None,
        stream: false,
        mode: Mode::Queue,
        edit_of: None,
        attachments: Vec::new(),
    };
    NewTurn::background(kind, request, deliver_to.to_owned())
}

/// The turn of a subagent that works for the chat `deliver_to`, with the rights of whoever had it spawned.
pub fn subagent(chat_id: String, task: &str, role: Role, deliver_to: &str) -> NewTurn {
    let message = format!(
        "{task}\n\n[The agent: you work on this task in the background. Nobody reads along and nobody can answer a \
         question, so decide by yourself. Your last message is all that will be delivered: say there what came out, \
         complete and understandable without anything before it.]"
    );
    turn(TurnKind::Subagent, chat_id, message, role, deliver_to)
}
