//! The one message in which an owner watches an agent come to life: what it tells. Its words are in
//! [`texts::progress`].

use super::cause::Cause;
use super::details::Details;
use super::expected::Clock;
use super::model::{Kind, Step};
use crate::agents::Agent;
use crate::config::CloudKind;
use crate::telegram::markdown::Formatted;
use crate::telegram::outbox::Call;
use crate::telegram::text::{Buttons, Place, edit_message, send_message};
use crate::telegram::texts;

/// What the card tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scene {
    /// Nobody works at it yet.
    Queued {
        /// What the job is to bring about.
        kind: Kind,
    },
    /// There is no room for another machine at the moment.
    Waiting {
        /// What the job is to bring about.
        kind: Kind,
        /// Its place in the waiting list, from 1.
        place: i64,
    },
    /// The job is at this step of making the agent ready.
    Working {
        /// What the job is to bring about.
        kind: Kind,
        /// Where.
        cloud: CloudKind,
        /// What it is about to do, or is doing.
        step: Step,
        /// How that goes.
        progress: Progress,
    },
    /// The job takes away what it made.
    Undoing,
    /// The agent answers.
    Ready {
        /// The link to hand on, if there is one.
        link: Option<String>,
        /// The other agent that its owner's chat talks to, so that words there do not reach this one.
        instead: Option<String>,
    },
    /// It runs as it is wanted now.
    Updated,
    /// It was the Python system's, and runs as one of ours.
    TakenOver,
    /// It runs again as it did before, for what was wanted does not work.
    Restored {
        /// In words for the owner.
        reason: String,
    },
    /// It was stopped, and runs again.
    Started,
    /// It runs again.
    Repaired {
        /// Whether it had to be set up on another machine.
        memory_lost: bool,
    },
    /// It could not be made ready, and nothing of it is left.
    Failed {
        /// Where it failed, if known.
        step: Option<Step>,
        /// Of what kind of thing; none if it was cancelled.
        cause: Option<Cause>,
        /// In words for the owner.
        reason: String,
    },
    /// It could not be mended or changed, and what there is of it was left.
    GivenUp {
        /// What the job was to bring about.
        kind: Kind,
        /// Where it failed.
        step: Step,
        /// Of what kind of thing; none if it was cancelled.
        cause: Option<Cause>,
        /// In words for the owner.
        reason: String,
        /// What is left of it.
        left: Left,
    },
    /// It was deleted before it was ready.
    Deleted,
}

impl Scene {
    /// Where it failed, if it tells of a failure.
    pub fn failed_at(&self) -> Option<Step> {
        match self {
            Self::Failed { step, .. } => *step,
            Self::GivenUp { step, .. } => Some(*step),
            _ => None,
        }
    }
}

/// What is left of an agent that could not be mended or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It was left as it was before, and so may well run.
    AsBefore,
    /// The change broke off in the middle: its machine went out of reach, or an operator cancelled it.
    Unknown,
    /// Operators have stopped it, and so it stays.
    Stopped,
    /// It does not run; what it remembers is on a machine that is kept.
    Memory,
    /// Nothing but its name, personality and model.
    Nothing,
}

/// How a step goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Why the step has to be done again.
    pub trouble: Option<String>,
    /// How long the job has taken and may still take.
    pub clock: Clock,
    /// Machines that were given up.
    pub tried: u32,
    /// Whether the agent is going back to what it was.
    pub restoring: bool,
}

/// A message's text and buttons.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// What it says.
    pub text: Formatted,
    /// Rows of buttons.
    pub buttons: Buttons,
}

/// The card of an agent; `details` only where its reader is an operator.
pub fn card(agent: &Agent, scene: &Scene, details: Option<&Details>) -> Card {
    let (text, buttons) = texts::progress(agent, scene, details);
    Card { text, buttons }
}

impl Card {
    /// The call that sends it as a new message.
    pub fn message(self, bot_id: i64, chat_id: i64) -> Call {
        let place = Place { bot_id, chat_id, thread_id: None };
        Call::reply(bot_id, chat_id, &send_message(place, &self.text, self.buttons))
    }

    /// The call that puts it in place of the message that outbox row `edits` sent.
    pub fn edit(self, bot_id: i64, chat_id: i64, edits: i64) -> Call {
        let place = Place { bot_id, chat_id, thread_id: None };
        // The sender puts the message's id in, which is known only once Telegram has answered.
        Call::reply(bot_id, chat_id, &edit_message(place, 0, &self.text, self.buttons)).editing(edits)
    }
}
