//! What is said to who writes to an agent and does not reach it.

use std::time::Duration;

use chrono::{DateTime, Timelike, Utc};

use super::{Message, REPAIR, agent_not_running, until, ways_on};
use crate::agents::Status;
use crate::agents::access::Refusal;
use crate::telegram::callback::{AccountPress, Press};
use crate::telegram::content::Trouble;
use crate::telegram::conversation::CurrentAgent;
use crate::telegram::text::Text;
use crate::turns::uploads::FileTrouble;

/// Something that no agent gets.
pub fn cannot_be_passed_on(trouble: &Trouble) -> Message {
    let text = match trouble {
        Trouble::TooBig { name, size } => Text::bold(name).then(format!(
            " has {} and wasn't passed on: Telegram gives bots files of up to 20 MB. Please send a smaller one, or a link to it.",
            megabytes(*size)
        )),
        Trouble::NoWords => Text::plain(
            "I can't pass this on: an agent gets words, photos, files, voice, video and places. Please write it in words.",
        ),
    };
    (text.done(), vec![])
}

/// A file of a turn that did not reach its agent; its name is Markdown.
pub fn file_trouble(name: &str, why: &FileTrouble) -> String {
    let why = match why {
        FileTrouble::TooBig => "Telegram gives bots files of up to 20 MB. Please send a smaller one, or a link to it.",
        FileTrouble::Gone(_) => "Telegram doesn't give it out any more. Please send it once more.",
        FileTrouble::NotNow(_) => "Telegram doesn't give it out at the moment. Please try again in a minute.",
    };
    format!("{name} couldn't be passed on, nor what came with it. {why}")
}

fn megabytes(size: u64) -> String {
    format!("{:.1} MB", size as f64 / (1024.0 * 1024.0))
}

/// Something that is not text, within a dialogue.
pub fn only_text() -> Message {
    (Text::plain("Please answer in words, or /cancel.").done(), vec![])
}

/// The day's free messages are used up.
pub fn limit_reached(limit: i32, now: DateTime<Utc>) -> Message {
    if limit == 0 {
        let text = Text::plain(
            "Messages are switched off here at the moment. Please ask whoever runs this bot, or connect a LibertAI key of \
             your own: agents on it don't count.",
        );
        return (text.done(), vec![vec![Press::Account(AccountPress::Show).button("👤 My account")]]);
    }
    let text = Text::plain(format!(
        "You have used all {limit} messages of today. The count starts anew at 00:00 UTC, in {}; your message wasn't sent.\n\n\
         With a LibertAI key of your own there is no such limit for your agents: /login",
        until_midnight(now)
    ));
    (text.done(), vec![vec![Press::Account(AccountPress::Show).button("👤 My account")]])
}

/// What a visitor's link allows is used up.
pub fn link_limit_reached(name: &str, per_day: i32, now: DateTime<Utc>) -> Message {
    let messages = if per_day == 1 { "one message".into() } else { format!("{per_day} messages") };
    let text = Text::plain(format!("The link that you came by allows {messages} a day to ")).then_bold(name).then(format!(
        ", and today's are used up. You can go on at 00:00 UTC, in {}; your message wasn't sent. An agent of your own has no \
         such limit.",
        until_midnight(now)
    ));
    (text.done(), ways_on())
}

/// Hours and minutes until the next 00:00 UTC, rounded up.
fn until_midnight(now: DateTime<Utc>) -> String {
    until(Duration::from_secs((86_400 - now.num_seconds_from_midnight()).into()))
}

/// A press in a group.
pub const PRIVATE_ONLY: &str = "I only work in private chats.";

/// A press of a button that this version does not know.
pub const DEAD_BUTTON: &str = "This button does nothing any more.";

/// A question is put once more.
pub const ASKING_AGAIN: &str = "Asking again…";

/// It was, or its words are gone.
pub const TRIED_ALREADY: &str = "That was already tried again, or is too long ago.";

/// What a press over the limit shows for a moment.
pub const TOO_FAST: &str = "That was too much within a minute. Please wait a little.";

/// Too much within a minute; the count starts anew in so many seconds.
pub fn too_fast(limit: i32, seconds: u32) -> Message {
    let text = Text::plain(format!(
        "That was more than {limit} messages and presses within a minute. What you send in the next {seconds} s isn't looked \
         at; please go on after that. /stop and /cancel work."
    ));
    (text.done(), vec![])
}

/// The agent being talked to is not running.
pub fn not_running(agent: &CurrentAgent, status: Status, owner: bool) -> Message {
    let (id, name) = (agent.id, &*agent.name);
    match status {
        Status::Failed if owner => {
            let text = Text::bold(name).then(" isn't running: setting it up failed. Your message wasn't passed on.");
            (text.done(), vec![vec![Press::Repair(id).button(REPAIR), Press::Manage(id).button("🛠 Manage")]])
        }
        Status::Deleting if owner => {
            let text = Text::bold(name).then(" is being deleted. /list shows your agents, /create makes a new one.");
            (text.done(), ways_on())
        }
        Status::Deleting | Status::Deleted => {
            (Text::plain(agent_not_running(name, Status::Deleted.as_str())).done(), ways_on())
        }
        status => (Text::plain(agent_not_running(name, status.as_str())).done(), vec![]),
    }
}

/// The agent being talked to runs, and is not to get messages.
pub fn paused(agent: &CurrentAgent, why: &str, owner: bool) -> Message {
    let text = Text::bold(&agent.name).then(" is paused, and your message wasn't passed on");
    match owner {
        true => {
            let buttons = vec![Press::Repair(agent.id).button(REPAIR), Press::Manage(agent.id).button("🛠 Manage")];
            (text.then(format!(": {why} Repairing it sets it going again.")).done(), vec![buttons])
        }
        false => (text.then(". Its owner can set it going again; please try later.").done(), vec![]),
    }
}

/// What follows the name of an agent that is not for this user, or not any more.
pub(super) fn shut(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unknown | Refusal::Closed => " isn't shared any more: only its owner can talk to it now",
        Refusal::Revoked => " can't be talked to by the link that you came by: its owner took it back",
        Refusal::Expired => " can't be talked to by the link that you came by: it has expired",
        Refusal::Blocked => " can't be talked to: its owner doesn't let you",
        Refusal::Asked => " can only be talked to once its owner has let you in, and they haven't answered yet",
    }
}

/// The agent being talked to is not for this user, or not any more.
pub fn shared_no_more(name: &str, refusal: Refusal) -> Message {
    let why = shut(refusal);
    let on = match refusal {
        Refusal::Asked => ". You will be told when they do; your message wasn't passed on.",
        Refusal::Revoked | Refusal::Expired => {
            ", and your message wasn't passed on. Please ask for a new link, or create an agent of your own."
        }
        _ => ", and your message wasn't passed on. You can open another agent by its link, or create one of your own.",
    };
    (Text::bold(name).then(why).then(on).done(), ways_on())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_until_midnight_is_rounded_up() {
        for (now, left) in [
            ("2026-11-23T00:00:00Z", "24 h"),
            ("2026-11-23T09:17:01Z", "14 h 43 min"),
            ("2026-11-23T23:00:00Z", "1 h"),
            ("2026-11-23T23:59:59Z", "1 min"),
        ] {
            assert_eq!(until_midnight(now.parse().expect("a time")), left, "{now}");
        }
    }
}
