//! What the bot says around a conversation with an agent.

use super::{Message, agent_not_running, close_fence, file_trouble, plain};
use crate::agents::access;
use crate::telegram::callback::Press;
use crate::telegram::markdown::Formatted;
use crate::telegram::text::Text;
use crate::turns::agent_client::AgentError;
use crate::turns::stopping::Stopped;
use crate::turns::store::Claimed;
use baal_protocol::Role;

/// What a new agent is asked, in nobody's name.
pub const INTRODUCE_YOURSELF: &str = "(You have just been created, and this is your first contact with the person who \
    made you. Introduce yourself to them in one or two short sentences, in character and in their language, and invite \
    them to write to you. Use no tools and no headings.)";

/// The label of the button that stops a turn.
pub const STOP: &str = "⏹ Stop";

/// An agent that has been silent for long.
pub const STILL_AT_WORK: &str = "⏳ Still at work on this…";

/// Shown to who stops a turn.
pub const STOPPING: &str = "Stopping…";
/// A turn that has ended already.
pub const ALREADY_OVER: &str = "That has ended already.";

/// An answer of which the rest is left out.
pub const ANSWER_TOO_LONG: &str = "The answer grew too long and was cut off.";

/// An answer that the user stopped, as Markdown.
pub fn stopped(markdown: &str) -> String {
    match markdown.trim().is_empty() {
        true => "⏹ Stopped.".into(),
        false => format!("{}\n\n⏹ Stopped.", close_fence(markdown)),
    }
}

/// An answer that brought more files than are passed on.
pub fn with_files_left_out(markdown: String, count: usize) -> String {
    let files = if count == 1 { "One more file wasn't".into() } else { format!("{count} more files weren't") };
    format!("{}\n\n({files} sent: an answer brings 20 at most. Ask for the rest.)", close_fence(&markdown))
}

/// `/stop` with something to stop.
pub fn stopping(stopped: Stopped) -> Message {
    let done = if stopped.running > 0 { "Stopping…" } else { "Stopped." };
    let waiting = match stopped.waiting {
        0 => String::new(),
        1 => " One message that was waiting won't be answered either.".into(),
        count => format!(" {count} messages that were waiting won't be answered either."),
    };
    (Text::plain(format!("⏹ {done}{waiting}")).done(), vec![])
}

/// `/stop` with nothing to stop.
pub fn nothing_to_stop() -> Message {
    (Text::plain("Nothing is running here. /cancel leaves a dialogue, /new clears this chat's history.").done(), vec![])
}

/// Whether to clear the chat's history with this agent.
pub fn ask_new(agent_id: i64, name: &str) -> Message {
    let text = Text::plain("🧹 Start afresh with ").then_bold(name).then(
        "?\n\nIt forgets everything that was said in this chat. Notes that it made for itself stay, and so do the messages \
         that you see here.",
    );
    let buttons = vec![Press::NewChat(agent_id).button("🧹 Start afresh"), Press::KeepChat.button("Go on as before")];
    (text.done(), vec![buttons])
}

/// The history is being cleared.
pub fn clearing(name: &str) -> Message {
    (Text::plain("🧹 Asking ").then_bold(name).then(" to forget what was said here…").done(), vec![])
}

/// The history stays.
pub fn chat_kept(name: Option<&str>) -> Message {
    let text = match name {
        Some(name) => Text::plain("Nothing was cleared. Simply go on writing to ").then_bold(name).then("."),
        None => Text::plain("Nothing was cleared."),
    };
    (text.done(), vec![])
}

/// Shown to who confirms twice.
pub const BEING_CLEARED: &str = "That is being done already.";

/// The agent has forgotten the chat.
pub fn fresh_start(name: &str) -> Formatted {
    Text::plain("✨ A fresh start: ")
        .then_bold(name)
        .then(" has forgotten what was said here. Notes that it made for itself stay.")
        .done()
}

/// The agent could not be told to forget the chat.
pub fn not_fresh(name: &str) -> Formatted {
    Text::bold(name)
        .then(" couldn't be reached, so it still remembers what was said here. Please try again in a minute.")
        .done()
}

/// Why an agent that runs gets no messages, as Markdown.
pub fn agent_paused(turn: &Claimed, why: &str) -> String {
    let name = plain(&turn.agent_name);
    match turn.role {
        Role::Owner => format!("{name} is paused: {} Repair it to go on.", plain(why)),
        Role::Visitor => format!("{name} is paused at the moment. Its owner has to look after it first."),
    }
}

/// A message waited, and meanwhile its author was shut out, as Markdown.
pub fn shut_out(name: &str, why: access::Refusal) -> String {
    format!("{}{}, and your message wasn't passed on.", plain(name), super::relay::shut(why))
}

/// A message waited, and meanwhile its agent went back to the operator's key, where messages count, as Markdown.
pub fn used_up_meanwhile(name: &str, limit: i32) -> String {
    format!(
        "{} doesn't run on its owner's key any more, and you have used all {limit} messages of today, so this one wasn't \
         passed on. The count starts anew at 00:00 UTC.",
        plain(name)
    )
}

/// The agent is of a version that would give a visitor tools whom its owner gave none, as Markdown.
pub fn cannot_withhold_tools(name: &str, external: bool) -> String {
    format!(
        "{} runs an older version that can't keep its tools from visitors, so your message wasn't passed on. {}",
        plain(name),
        if external {
            "Its owner can let visitors use them under /share."
        } else {
            "Its owner can update it with /update."
        }
    )
}

/// Why an agent did not answer, as Markdown.
pub fn agent_trouble(error: &AgentError, turn: &Claimed) -> String {
    let name = &plain(&turn.agent_name);
    let owner = turn.role == Role::Owner;
    match error {
        AgentError::NotRunning(status) => agent_not_running(name, status),
        AgentError::Refused(401 | 403) if turn.agent_external => super::refuses_elsewhere(name),
        AgentError::Barred(_) | AgentError::Unreachable(_) | AgentError::Broken(_) | AgentError::Unwell(_)
            if turn.agent_external =>
        {
            super::silent_elsewhere(name)
        }
        AgentError::Refused(401 | 403) if owner => {
            format!("{name} doesn't accept this bot any more. Repair it, and it will know this bot again.")
        }
        AgentError::Refused(401 | 403) => {
            format!("{name} doesn't accept this bot any more. Its owner has to repair it.")
        }
        AgentError::File { name, why } => file_trouble(&plain(name), why),
        AgentError::Refused(413) => "That message is too long for the agent. Please shorten it.".into(),
        AgentError::Refused(_) | AgentError::UnknownTurn => format!("{name} couldn't take this message."),
        _ if owner => format!(
            "{name} isn't answering at the moment. Please try again in a minute; if it stays like this, repair it."
        ),
        _ => format!(
            "{name} isn't answering at the moment. Please try again in a minute; if it stays like this, its owner can \
             repair it."
        ),
    }
}
