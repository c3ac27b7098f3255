//! The one message in which an owner watches an agent come to life: a pure function of what is known.

use teloxide_core::types::InlineKeyboardButton;

use super::model::{Kind, Step, way};
use crate::agents::Agent;
use crate::config::{CloudKind, Visibility};
use crate::telegram::callback::Press;
use crate::telegram::markdown::Formatted;
use crate::telegram::outbox::Call;
use crate::telegram::text::{Buttons, Place, Text, edit_message, send_message};
use crate::telegram::texts::BEGIN_ANEW;

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
        /// The bot's user name, if known.
        bot_username: Option<String>,
    },
    /// It runs as it is wanted now.
    Updated,
    /// It runs again as it did before, for what was wanted does not work.
    Restored {
        /// In words for the owner.
        reason: String,
    },
    /// It runs again.
    Repaired {
        /// Whether it had to be set up on another machine.
        memory_lost: bool,
    },
    /// It could not be made ready, and nothing of it is left.
    Failed {
        /// Where it failed, if known.
        step: Option<Step>,
        /// In words for the owner.
        reason: String,
    },
    /// It could not be mended or changed, and what there is of it was left.
    GivenUp {
        /// What the job was to bring about.
        kind: Kind,
        /// Where it failed.
        step: Step,
        /// In words for the owner.
        reason: String,
        /// What is left of it.
        left: Left,
    },
    /// It was deleted before it was ready.
    Deleted,
}

/// What is left of an agent that could not be mended or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It was left as it was before, and so may well run.
    AsBefore,
    /// Its machine went out of reach in the middle.
    Unknown,
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
    /// Minutes for which it has been waiting.
    pub minutes: u64,
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

/// The card of an agent.
pub fn card(agent: &Agent, scene: &Scene) -> Card {
    let name = &agent.name;
    let (repair, delete) =
        (|| Press::Repair(agent.id).button("🔧 Repair"), || Press::Delete(agent.id).button("🗑 Delete"));
    let retry = || Press::Retry(agent.id).button("🔁 Try again");
    let chat_or_manage = || vec![Press::Chat(agent.id).button("💬 Chat"), Press::Manage(agent.id).button("🛠 Manage")];
    match scene {
        Scene::Queued { kind } => build("🤖 ", name, &format!(" is {}…", doing(*kind)), vec![]),
        Scene::Waiting { kind, place } => {
            let body = format!(
                " is {}…\n\nAll places are taken at the moment. It is number {place} in line and goes on by itself when a \
                 place is free; there is nothing to do but wait.",
                doing(*kind)
            );
            build("🕗 ", name, &body, vec![])
        }
        Scene::Working { kind, cloud, step, progress } => {
            build("🤖 ", name, &steps(*kind, *cloud, *step, progress), vec![])
        }
        Scene::Undoing => build("🧹 ", name, ": clearing away what was set up…", vec![]),
        Scene::Ready { bot_username } => {
            let body = match (agent.visibility, bot_username) {
                (Visibility::Public, Some(bot)) => format!(
                    " is ready! Send it a message.\n\nShare it: https://t.me/{bot}?start=agent_{}\nWhoever follows \
                     this link gets a conversation of their own with it.",
                    agent.id
                ),
                (Visibility::Public, None) => " is ready! Send it a message.".to_owned(),
                (Visibility::Unlisted, _) => " is ready! Send it a message. Only you can open it.".to_owned(),
            };
            build("✅ ", name, &body, chat_or_manage())
        }
        Scene::Updated => build("✅ ", name, " is up to date and runs.", chat_or_manage()),
        Scene::Restored { reason } => {
            let body = format!(
                " could not be updated: {reason}.\n\nIt runs again as it did before; nothing of its memory is lost."
            );
            build("↩️ ", name, &body, chat_or_manage())
        }
        Scene::Repaired { memory_lost: false } => {
            build("✅ ", name, " is repaired and runs, with everything that it knew.", chat_or_manage())
        }
        Scene::Repaired { memory_lost: true } => {
            let body = " runs again, but begins anew.\n\nIts machine was gone or had nothing of it \
                        left, so what it remembered and its files are lost. Its name, personality and model are the same.";
            build("✅ ", name, body, chat_or_manage())
        }
        Scene::Failed { step, reason } => {
            let body = format!(
                " could not be set up: {reason}.{}\n\nEverything that was started for it has been removed again. Its \
                 name, personality and model are kept, so you can try again.",
                failed_at(*step)
            );
            build("❌ ", name, &body, vec![retry(), delete()])
        }
        Scene::GivenUp { kind, step, reason, left } => {
            let what = if *kind == Kind::Redeploy { "updated" } else { "repaired" };
            let (left, buttons) = match left {
                Left::AsBefore => {
                    ("It was left as it was before. If it does not answer, repair it.", vec![repair(), delete()])
                }
                Left::Unknown => (
                    "It may run as before, as you wanted it, or not at all: its machine went out of reach in the middle. \
                     What it remembers was left alone. Repairing it puts it in order.",
                    vec![repair(), delete()],
                ),
                Left::Memory => (
                    "It does not run now. Its machine is kept, with what it remembers, so you can try to repair it \
                     again, also later. Or it begins anew on another machine: then everything it remembers is lost.",
                    vec![repair(), Press::BeginAnew(agent.id).button(BEGIN_ANEW), delete()],
                ),
                Left::Nothing => (
                    "It does not run now, and its machine is gone, with what it remembered. Its name, personality and \
                     model are kept, so you can try again.",
                    vec![retry(), delete()],
                ),
            };
            let body = format!(" could not be {what}: {reason}.{}\n\n{left}", failed_at(Some(*step)));
            build("❌ ", name, &body, buttons)
        }
        Scene::Deleted => build("🗑 ", name, " was deleted.", vec![]),
    }
}

fn steps(kind: Kind, cloud: CloudKind, step: Step, progress: &Progress) -> String {
    let doing = if progress.restoring { "going back to how it was" } else { doing(kind) };
    let mut body = format!(" is {doing}…\n");
    let way = way(kind, cloud);
    let current = way.iter().position(|s| *s == step).unwrap_or(way.len());
    for (place, step) in way.iter().enumerate() {
        let mark = match place.cmp(&current) {
            std::cmp::Ordering::Less => "✅",
            std::cmp::Ordering::Equal if progress.trouble.is_some() => "⚠️",
            std::cmp::Ordering::Equal => "⏳",
            std::cmp::Ordering::Greater => "▫️",
        };
        body.push_str(&format!("\n{mark} {}", label(*step)));
        if place == current && progress.minutes > 0 {
            body.push_str(&format!(" ({} min)", progress.minutes));
        }
    }
    match progress.tried {
        0 => {}
        1 => body.push_str("\n\nThe first place did not work; trying another."),
        n => body.push_str(&format!("\n\n{n} places did not work; trying another.")),
    }
    if let Some(trouble) = &progress.trouble {
        body.push_str(&format!("\n\nThat did not work yet: {trouble}. Trying again shortly."));
    }
    body
}

fn doing(kind: Kind) -> &'static str {
    match kind {
        Kind::Redeploy => "being updated",
        Kind::Repair => "being repaired",
        Kind::Deprovision | Kind::Retire => "being removed",
        Kind::Provision | Kind::Prepare => "being set up",
    }
}

fn failed_at(step: Option<Step>) -> String {
    step.map(|step| format!(" (It failed at: {}.)", label(step))).unwrap_or_default()
}

fn label(step: Step) -> &'static str {
    match step {
        Step::Place => "Find a place for it",
        Step::Create => "Get a machine",
        Step::Reach => "Wait for the machine",
        Step::Prepare => "Prepare the machine",
        Step::Install => "Install it",
        Step::Start => "Start it",
        Step::Health => "Wait until it answers",
        Step::Finish => "Open it for you",
        Step::Store => "Keep it ready",
        Step::Stop => "Stop it",
        Step::Remove => "Remove it",
        Step::End => "Forget it",
    }
}

/// The agent's name in bold between plain words, for names are hostile.
fn build(before: &str, name: &str, after: &str, buttons: Vec<InlineKeyboardButton>) -> Card {
    Card {
        text: Text::plain(before).then_bold(name).then(after).done(),
        buttons: if buttons.is_empty() { vec![] } else { vec![buttons] },
    }
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

#[cfg(test)]
mod tests;
