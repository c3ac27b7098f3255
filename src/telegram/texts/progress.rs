//! The card in which an owner watches an agent come to life: see [`Scene`].

use std::cmp::Ordering;
use std::time::Duration;

use super::{BEGIN_ANEW, Message, PERSONALITY, REPAIR, TRY_AGAIN};
use crate::agents::Agent;
use crate::config::CloudKind;
use crate::jobs::card::{Left, Progress, Scene};
use crate::jobs::cause::Cause;
use crate::jobs::details::Details;
use crate::jobs::expected::Clock;
use crate::jobs::model::{Kind, Step, way};
use crate::telegram::callback::{Press, SharePress, SoulPress};
use crate::telegram::text::{Buttons, Text};

/// Cells of the bar.
const CELLS: u32 = 10;

/// The card; `details` only where its reader is an operator.
pub fn progress(agent: &Agent, scene: &Scene, details: Option<&Details>) -> Message {
    let id = agent.id;
    let (repair, delete) = (|| Press::Repair(id).button(REPAIR), || Press::Delete(id).button("🗑 Delete"));
    let retry = || Press::Retry(id).button(TRY_AGAIN);
    let chat_or_manage = || vec![vec![Press::Chat(id).button("💬 Chat"), Press::Manage(id).button("🛠 Manage")]];
    let say = |before: &str, after: &str| Text::plain(before).then_bold(&agent.name).then(after);
    let (text, buttons) = match scene {
        Scene::Queued { kind } => (say("🤖 ", &format!(" is {}…", doing(*kind))), vec![]),
        Scene::Waiting { kind, place } => {
            let body = format!(
                " is {}…\n\nAll places are taken at the moment. It is number {place} in line and goes on by itself when a \
                 place is free; there is nothing to do but wait.",
                doing(*kind)
            );
            (say("🕗 ", &body), vec![])
        }
        Scene::Working { kind, cloud, step, progress } => (say("🤖 ", &steps(*kind, *cloud, *step, progress)), vec![]),
        Scene::Undoing => (say("🧹 ", ": clearing away what was set up…"), vec![]),
        Scene::Ready { link, instead } => {
            let mut text = match instead {
                None => say("✅ ", " is ready! Send it a message."),
                Some(other) => {
                    let text = say("✅ ", " is ready! You are still talking to ").then_bold(other);
                    text.then("; press Chat to talk to this one.")
                }
            };
            text = match link {
                Some(link) => text.then(format!(
                    "\n\nShare it: {link}\nWhoever follows this link gets a conversation of their own with it."
                )),
                None => text.then("\n\nOnly you can open it so far."),
            };
            let more = vec![
                Press::Soul(SoulPress::Show(id)).button(PERSONALITY),
                Press::Share(SharePress::Open(id)).button("📤 Share"),
            ];
            (text, vec![vec![Press::Chat(id).button("💬 Chat")], more])
        }
        Scene::Updated => (say("✅ ", " is up to date and runs."), chat_or_manage()),
        Scene::TakenOver => {
            let body =
                " is up to date and runs on the new program, with its files, its memory and everything that was said.";
            (say("✅ ", body), chat_or_manage())
        }
        Scene::Restored { reason } => {
            let body = format!(
                " could not be updated: {reason}.\n\nIt runs again as it did before; nothing of its memory is lost."
            );
            (say("↩️ ", &body), chat_or_manage())
        }
        Scene::Started => (say("▶️ ", " was started and runs, with everything that it knew."), chat_or_manage()),
        Scene::Repaired { memory_lost: false } => {
            (say("✅ ", " is repaired and runs, with everything that it knew."), chat_or_manage())
        }
        Scene::Repaired { memory_lost: true } => {
            let body = " runs again, but begins anew.\n\nIts machine was gone or had nothing of it \
                        left, so what it remembered and its files are lost. Its name, personality and model are the same.";
            (say("✅ ", body), chat_or_manage())
        }
        Scene::Failed { step, cause, reason } => {
            let body = format!(
                " could not be set up: {reason}.{}\n\nEverything that was started for it has been removed again. Its \
                 name, personality and model are kept, so you can try again.",
                why(*cause, *step)
            );
            (say("❌ ", &body), vec![vec![retry(), delete()]])
        }
        Scene::GivenUp { kind, step, cause, reason, left } => {
            let what = match kind {
                Kind::Redeploy | Kind::Takeover => "updated",
                Kind::Start => "started",
                _ => "repaired",
            };
            let (left, buttons) = match left {
                Left::AsBefore => {
                    ("It was left as it was before. If it does not answer, repair it.", vec![repair(), delete()])
                }
                Left::Unknown => (
                    "It may run as before, as you wanted it, or not at all: the change broke off in the middle. \
                     What it remembers was left alone. Repairing it puts it in order.",
                    vec![repair(), delete()],
                ),
                Left::Stopped => (
                    "It stays stopped, with everything that it knew. The people who run this bot can start it.",
                    vec![delete()],
                ),
                Left::Memory => (
                    "It does not run now. Its machine is kept, with what it remembers, so you can try to repair it \
                     again, also later. Or it begins anew on another machine: then everything it remembers is lost.",
                    vec![repair(), Press::BeginAnew(id).button(BEGIN_ANEW), delete()],
                ),
                Left::Nothing => (
                    "It does not run now, and its machine is gone, with what it remembered. Its name, personality and \
                     model are kept, so you can try again.",
                    vec![retry(), delete()],
                ),
            };
            let body = format!(" could not be {what}: {reason}.{}\n\n{left}", why(*cause, Some(*step)));
            (say("❌ ", &body), vec![buttons])
        }
        Scene::Deleted => (say("🗑 ", " was deleted."), vec![vec![Press::List.button("🗂 My agents")]]),
    };
    let text = match details {
        Some(details) => text.then("\n\n").then_italic(for_operators(details)),
        None => text,
    };
    (text.done(), buttons as Buttons)
}

fn steps(kind: Kind, cloud: CloudKind, step: Step, progress: &Progress) -> String {
    let doing = if progress.restoring { "going back to how it was" } else { doing(kind) };
    let mut body = format!(" is {doing}…\n");
    let way = way(kind, cloud);
    let current = way.iter().position(|s| *s == step).unwrap_or(way.len());
    for (place, step) in way.iter().enumerate() {
        let mark = match place.cmp(&current) {
            Ordering::Less => "✅",
            Ordering::Equal if progress.trouble.is_some() => "⚠️",
            Ordering::Equal => "⏳",
            Ordering::Greater => "▫️",
        };
        body.push_str(&format!("\n{mark} {}", label(*step)));
    }
    body.push_str(&format!("\n\n{}", clock(&progress.clock, current as f64 / way.len().max(1) as f64)));
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

/// The bar, the time that has passed and what is expected to be left; where nothing is known of that, the bar shows the
/// share of the steps.
fn clock(clock: &Clock, steps: f64) -> String {
    let elapsed = clock.elapsed.as_secs_f64();
    let share = clock.left.map_or(steps, |left| elapsed / (elapsed + left.as_secs_f64()).max(0.1));
    // The last cell is for what is ready.
    let full = ((share * f64::from(CELLS)).round() as u32).min(CELLS - 1) as usize;
    let bar = "▰".repeat(full) + &"▱".repeat(CELLS as usize - full);
    let left = match clock.left.map(|left| left.as_secs()) {
        None => String::new(),
        Some(0..5) => ", nearly there".into(),
        // No more exact than it is known.
        Some(seconds @ 5..55) => format!(", about {} s to go", seconds.div_ceil(10) * 10),
        Some(seconds) => format!(", about {} min to go", seconds.div_ceil(60)),
    };
    format!("{bar} {}{left}", exactly(clock.elapsed))
}

fn exactly(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// What it means, and what helps.
fn why(cause: Option<Cause>, step: Option<Step>) -> String {
    let words = match cause {
        Some(Cause::Credits) => {
            "💳 The account that pays for the machines is used up. The operators have been told; once it is filled up, \
             trying again works."
        }
        Some(Cause::Node) => "🗺 No place for another machine was found. That usually passes: try again in a while.",
        Some(Cause::Allocation) => "🖥 The cloud did not bring its machine up. Another try gets another machine.",
        Some(Cause::Ssh) => "🔑 Its machine was there but could not be set up from here. Try again in a few minutes.",
        Some(Cause::Health) => {
            "🩺 Its program was put in place but did not come up. If that happens again, tell the operators."
        }
        Some(Cause::Gateway) => {
            "🌐 It was set up but cannot be reached under its public address yet. Addresses may need a while: try again in \
             some minutes."
        }
        Some(Cause::Service) => {
            "⚙️ This lies in the service itself, so trying again helps only once its operators have looked."
        }
        None => return String::new(),
    };
    let at = step.map(|step| format!(" (It failed at: {}.)", label(step))).unwrap_or_default();
    format!("\n\n{words}{at}")
}

fn for_operators(details: &Details) -> String {
    let Details { job_id, step, tries, node } = details;
    let tries = if *tries == 1 { "1 try".into() } else { format!("{tries} tries") };
    let node = node.as_ref().map(|node| format!(", node {node}")).unwrap_or_default();
    format!("For operators: job {job_id}, step {step}, {tries}{node}")
}

fn doing(kind: Kind) -> &'static str {
    match kind {
        Kind::Redeploy => "being updated",
        Kind::Takeover => "being moved to the new program",
        Kind::Repair => "being repaired",
        Kind::Stop => "being stopped",
        Kind::Start => "being started",
        Kind::Deprovision | Kind::Retire => "being removed",
        Kind::Provision | Kind::Prepare => "being set up",
    }
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
        Step::Halt => "Stop it for now",
        Step::Rest => "Keep it stopped",
        Step::Stop => "Stop it",
        Step::Remove => "Remove it",
        Step::End => "Forget it",
    }
}

#[cfg(test)]
mod tests;
