//! The conversation of a running turn.

use super::budget::MESSAGE_BYTES;
use super::window::{self, Piece, Speaker, shortened};
use super::windows::{Kept, Window};
use super::{Contexts, compaction, lock, prompt};
use crate::model::{Message, ToolCall, Usage};
use crate::store::StoreError;
use crate::tools::Who;
use chrono::NaiveDate;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What an image counts as, in bytes: some 1,500 tokens, whatever the size of its file.
const IMAGE_BYTES: usize = 5_000;
/// What remains of a call's arguments where they are left out, in bytes at most.
const LEFT_OUT_BYTES: usize = 64;

/// The conversation of one turn: what came before it, made to fit before every round.
pub struct Conversation {
    pub(super) contexts: Contexts,
    pub(super) who: Who,
    pub(super) position: i64,
    pub(super) today: NaiveDate,
    system: String,
    pub(super) window: Window,
    generation: u64,
    /// Bytes of the request that was prepared last.
    sent_bytes: usize,
    /// Not counted in bytes, so nothing can be learned from such a request.
    has_images: bool,
    /// What compactions cost.
    pub(super) spent: Option<Usage>,
}

impl Conversation {
    pub(super) fn new(
        contexts: Contexts,
        who: Who,
        position: i64,
        today: NaiveDate,
        system: String,
        window: Window,
        generation: u64,
    ) -> Self {
        Self {
            contexts,
            who,
            position,
            today,
            system,
            window,
            generation,
            sent_bytes: 0,
            has_images: false,
            spent: None,
        }
    }

    /// The request of the next round: what came before as far as it fits, then the turn's `own` messages, the person's first.
    /// Every call in them has its result. When the conversation has outgrown its bounds, older messages become a summary first;
    /// where that fails, the request holds what fits. `None` where it was stopped meanwhile.
    ///
    /// # Errors
    /// The database failed.
    pub async fn prepare(
        &mut self,
        own: &[Message],
        tools: Option<&RawValue>,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Message>>, StoreError> {
        let tools_bytes = tools.map_or(0, |tools| tools.get().len());
        let own_bytes = window::own_bytes(&own_pieces(own));
        if self.has_outgrown(own_bytes, tools_bytes) && self.may_compact() {
            match stop.run_until_cancelled(compaction::run(self, own_bytes, tools_bytes)).await {
                None => return Ok(None),
                Some(compacted) => compacted?,
            }
        }
        Ok(Some(self.request(own, tools_bytes)))
    }

    /// What preparing cost since this was asked last: the answers that a compaction wanted, also of one that was stopped.
    pub fn take_spent(&mut self) -> Option<Usage> {
        self.spent.take()
    }

    /// Whether older messages are to become a summary: because they are too many or too large, not because of what the running
    /// turn brings.
    pub(super) fn has_outgrown(&self, own_bytes: usize, tools_bytes: usize) -> bool {
        let inner = &self.contexts.inner;
        let room = inner.max_bytes().saturating_sub(self.system().len() + tools_bytes);
        let history = window::least(&self.pieces());
        self.window.left_out
            || self.window.messages.len() > inner.settings.max_history
            || (history + own_bytes > room && history > window::share_of_history(room))
    }

    fn may_compact(&self) -> bool {
        lock(&self.contexts.inner.pauses).may_try(&self.who.chat_id, Instant::now())
    }

    /// The system message, with what stands for the messages that are no longer shown.
    pub(super) fn system(&self) -> String {
        match &self.window.summary {
            Some(summary) => format!("{}\n\n{}", self.system, prompt::earlier(&summary.content)),
            None => self.system.clone(),
        }
    }

    pub(super) fn pieces(&self) -> Vec<Piece> {
        self.window.messages.iter().map(|kept| piece(&kept.message, kept.begins_turn)).collect()
    }

    fn request(&mut self, own: &[Message], tools_bytes: usize) -> Vec<Message> {
        let system = self.system();
        let mut pieces = self.pieces();
        let settings = &self.contexts.inner.settings;
        // Where no compaction has done it.
        let first = if self.window.messages.len() > settings.max_history {
            window::cut(&pieces, settings.max_history, usize::MAX)
        } else {
            0
        };
        pieces.extend(own_pieces(own));
        let room = self.contexts.inner.max_bytes().saturating_sub(system.len() + tools_bytes + MESSAGE_BYTES);
        let fit = window::fit(&pieces[first..], room);
        let mut messages = Vec::with_capacity(pieces.len() - first + 2);
        messages.push(Message::system(system));
        let all = self.window.messages.iter().map(|kept| &kept.message).chain(own);
        messages.extend(all.skip(first + fit.from).cloned());
        for (at, bytes) in fit.shorten {
            if let Some(message) = messages.get_mut(at + 1 - fit.from) {
                shorten(message, bytes);
            }
        }
        for at in fit.without_arguments {
            if let Some(Message::Assistant { calls, .. }) = messages.get_mut(at + 1 - fit.from) {
                calls.iter_mut().for_each(leave_out_arguments);
            }
        }
        self.has_images = messages.iter().any(|message| images(message) > 0);
        let pieces = messages.iter().map(|message| piece(message, false));
        self.sent_bytes = tools_bytes + pieces.map(|piece| piece.bytes()).sum::<usize>();
        messages
    }

    /// The provider has counted the request that was prepared last.
    pub async fn counted(&self, usage: &Usage) {
        if !self.has_images {
            let inner = &self.contexts.inner;
            inner.learned.correct(&inner.store, self.sent_bytes, usage).await;
        }
    }

    /// The turn's end is committed, and these are all the messages that it left in the history.
    pub fn ended(self, own: Vec<Message>) {
        let mut window = self.window;
        let own = own.into_iter().enumerate().map(|(at, message)| Kept { id: 0, message, begins_turn: at == 0 });
        window.messages.extend(own);
        lock(&self.contexts.inner.windows).put(self.who.chat_id, window, self.generation);
    }
}

fn images(message: &Message) -> usize {
    match message {
        Message::User { images, .. } => images.len(),
        _ => 0,
    }
}

fn own_pieces(own: &[Message]) -> Vec<Piece> {
    own.iter().enumerate().map(|(at, message)| piece(message, at == 0)).collect()
}

/// What a call was given, where it is long: the model knows that it wrote it.
fn leave_out_arguments(call: &mut ToolCall) {
    if is_long(call) {
        // Still an object: services refuse anything else.
        call.arguments = format!("{{\"left_out\":\"{} bytes, to save space\"}}", call.arguments.len());
    }
}

fn is_long(call: &ToolCall) -> bool {
    call.arguments.len() > window::SHORT_RESULT
}

pub(super) fn piece(message: &Message, begins_turn: bool) -> Piece {
    let (speaker, text) = match message {
        Message::Tool { text, .. } => (Speaker::Tool, text.len()),
        Message::User { text, .. } => (Speaker::User, text.len()),
        Message::System(text) | Message::Assistant { text, .. } => (Speaker::Assistant, text.len()),
    };
    let (mut arguments, mut rest) = (0, images(message) * IMAGE_BYTES + MESSAGE_BYTES);
    match message {
        Message::Assistant { calls, .. } => {
            for call in calls {
                // Of what is left out a note stays.
                let stays = if is_long(call) { LEFT_OUT_BYTES } else { call.arguments.len() };
                arguments += call.arguments.len() - stays;
                rest += call.id.len() + call.name.len() + stays + MESSAGE_BYTES;
            }
        }
        Message::Tool { call_id, .. } => rest += call_id.len(),
        _ => {}
    }
    Piece { speaker, begins_turn, text, arguments, rest }
}

pub(super) fn shorten(message: &mut Message, bytes: usize) {
    match message {
        Message::System(text)
        | Message::User { text, .. }
        | Message::Assistant { text, .. }
        | Message::Tool { text, .. } => *text = shortened(text, bytes),
    }
}
