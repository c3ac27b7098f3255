//! What the bot says, in one place. Names and words of users go in as plain text, never as markup.

mod account;
mod agents;
mod chat;
mod external;
mod files;
mod invite;
mod operators;
mod overview;
mod privacy;
mod progress;
mod relay;
mod share;
mod soul;
mod upkeep;
mod visiting;
mod visitors;
mod wizard;

use super::callback::Press;
use super::markdown::Formatted;
use super::outbox::Call;
use super::text::{Buttons, Place, Text, send_message};
use crate::agents::model::{Agent, Status};
use teloxide_core::payloads::{AnswerCallbackQuery, AnswerCallbackQuerySetters};
use teloxide_core::types::{BotCommand, CallbackQueryId};

pub use account::*;
pub use agents::*;
pub use chat::*;
pub use external::*;
pub use files::*;
pub use invite::*;
pub use operators::*;
pub use overview::*;
pub use privacy::*;
pub use progress::*;
pub use relay::*;
pub use share::*;
pub use soul::*;
pub use upkeep::*;
pub use visiting::*;
pub use visitors::*;
pub use wizard::*;

/// The label of the button that asks an agent once more.
pub const TRY_AGAIN: &str = "🔁 Try again";
/// A fault of ours, without details.
pub const OUR_FAULT: &str = "Something went wrong on our side. Please try again in a minute.";
/// A base-protocol agent's connection broke.
pub const ANSWER_LOST: &str =
    "The connection broke before the answer came, and it isn't known whether the agent got your message.";

/// An answer that never ended.
pub const TOOK_TOO_LONG: &str = "The agent worked at this for an hour without coming to an end, so it was stopped.";

/// An answer without anything to see.
pub const NOTHING_TO_SAY: &str = "(The agent had nothing to say.)";

/// A text and its buttons.
pub type Message = (Formatted, Buttons);

/// The commands as the client's menu shows them.
pub fn command_menu() -> Vec<BotCommand> {
    menu(&COMMANDS)
}

/// The menu of operators.
pub fn operator_menu() -> Vec<BotCommand> {
    menu(&[&COMMANDS[..], &FOR_OPERATORS[..]].concat())
}

fn menu(commands: &[(&str, &str)]) -> Vec<BotCommand> {
    commands.iter().map(|(command, description)| BotCommand::new(*command, *description)).collect()
}

/// What everybody can do.
const COMMANDS: [(&str, &str); 20] = [
    ("create", "Create an agent"),
    ("list", "Your agents"),
    ("dashboard", "How your agents are doing"),
    ("manage", "Manage an agent"),
    ("soul", "Read or change an agent's personality"),
    ("share", "Share an agent"),
    ("new", "Let the agent forget this conversation"),
    ("stop", "Stop the answer under way"),
    ("account", "Your messages, key and agents"),
    ("login", "Connect your own LibertAI key"),
    ("logout", "Take your key back"),
    ("verbose", "Show or hide what agents do"),
    ("update", "Give an agent the newest program"),
    ("repair", "Repair an agent"),
    ("delete", "Delete an agent"),
    ("cancel", "Stop what you are doing"),
    ("privacy", "What is kept, where, for how long"),
    ("forgetme", "Delete everything about you"),
    ("help", "What this bot can do"),
    ("start", "Begin, or open a shared agent"),
];

/// What operators can do besides.
const FOR_OPERATORS: [(&str, &str); 2] = [("pool", "Machines, credits and failures"), ("invite", "Make an invitation")];

/// What an empty chat shows before START.
pub const DESCRIPTION: &str = "Create AI agents with a personality of your own, talk to them, and share them with a link. \
    Opened by somebody's link, this is a conversation with their agent, seen by you alone.";

/// What the bot's profile says, at most 120 characters.
pub const SHORT_DESCRIPTION: &str = "Create AI agents, talk to them, share them with a link.";

/// First contact.
pub fn welcome(name: &str) -> Message {
    let text = Text::plain("👋 Hello ")
        .then_bold(if name.is_empty() { "there" } else { name })
        .then("!\n\nHere you create AI agents with a personality of your own, talk to them, and share them with a link.\n\n")
        .then("It takes three questions and about a minute.");
    (
        text.done(),
        vec![
            vec![Press::Create.button("✨ Create an agent")],
            vec![Press::List.button("🗂 My agents"), Press::Help.button("❔ Help")],
        ],
    )
}

/// `/help`; `operator`: with what operators can do besides.
pub fn help(operator: bool) -> Message {
    let groups: [(&str, &[&str]); 4] = [
        ("Your agents", &["create", "list", "dashboard", "manage", "soul", "share", "update", "repair", "delete"]),
        ("In a chat", &["new", "stop", "verbose"]),
        ("You", &["account", "login", "logout", "privacy", "forgetme"]),
        ("Also", &["cancel", "start"]),
    ];
    let mut text = Text::bold("What you can do here");
    for (group, commands) in groups {
        text = text.then("\n\n").then_bold(group);
        for (command, description) in COMMANDS.iter().filter(|(command, _)| commands.contains(command)) {
            text = text.then(format!("\n/{command} – {description}"));
        }
    }
    if operator {
        text = text.then("\n\n").then_bold("For operators");
        for (command, description) in FOR_OPERATORS {
            text = text.then(format!("\n/{command} – {description}"));
        }
    }
    text = text
        .then("\n\nOpen an agent and simply write to it. Commands about an agent take its number as well: /soul 5. ")
        .then(
            "Whoever opens your agent's link has a conversation of their own with it; nobody sees what others write.",
        );
    (text.done(), vec![vec![Press::Create.button("✨ Create an agent"), Press::List.button("🗂 My agents")]])
}

/// A chat is now with this agent.
pub fn entered(agent: &Agent) -> Message {
    let name = Text::plain("💬 You are talking to ").then_bold(&agent.name).then(".");
    let text = match agent.status {
        Status::Running => name.then(" Write something!"),
        Status::Provisioning => name.then(" It is still being set up and will answer when that is done."),
        Status::Stopped => {
            name.then(" The people who run this bot have stopped it, so it doesn't answer at the moment.")
        }
        Status::Failed => name.then(" It isn't running. Its owner can repair it: /repair"),
        Status::Deleting | Status::Deleted => name.then(" It is being deleted."),
    };
    (text.done(), vec![])
}

/// An agent that may exist or not, and isn't for this user.
pub fn no_such_agent() -> Message {
    let text = Text::plain("There is no such agent. It may have been deleted, or the link is incomplete.");
    (text.done(), ways_on())
}

/// Words for nobody.
pub fn nobody_to_talk_to() -> Message {
    let text = Text::plain("You aren't talking to an agent yet. Pick one of yours, open a shared link, or create one.");
    (text.done(), ways_on())
}

/// What somebody can do who has come to an end.
fn ways_on() -> Buttons {
    vec![vec![Press::List.button("🗂 My agents"), Press::Create.button("✨ Create an agent")]]
}

/// Whoever has no agents can make one.
fn no_agents() -> Message {
    (Text::plain("You have no agents yet.").done(), vec![vec![Press::Create.button("✨ Create an agent")]])
}

/// In a group.
pub fn private_only() -> Message {
    (Text::plain("I only work in private chats. Please write to me directly.").done(), vec![])
}

/// A command that does not exist.
pub fn unknown_command() -> Message {
    (Text::plain("I don't know that command. /help lists those I know.").done(), vec![])
}

/// A refusal by the agent service.
pub fn refused(error: &impl std::fmt::Display) -> Message {
    (Text::plain(error.to_string()).done(), vec![])
}

/// The agent being talked to cannot answer.
pub fn agent_not_running(name: &str, status: &str) -> String {
    match status {
        "provisioning" => format!("{name} isn't running yet: it is still being set up. Try again in a moment."),
        "stopped" => format!("{name} was stopped by the people who run this bot, so it doesn't answer at the moment."),
        "failed" => format!("{name} isn't running: setting it up failed. Its owner can repair it."),
        _ => format!("{name} was deleted. /list shows your agents, /create makes a new one."),
    }
}

/// A name as Markdown that shows just that name: what its owner wrote must not be markup in the bot's own words.
pub fn plain(name: &str) -> String {
    let escape = |c: char| if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() };
    name.chars().map(escape).collect()
}

/// A turn's whole text: what the agent said, and what went wrong.
pub fn final_text(markdown: &str, error: Option<&str>) -> String {
    match error {
        None => markdown.to_owned(),
        Some(error) if markdown.trim().is_empty() => format!("⚠️ {error}"),
        // On its own even if the text ends within a code block.
        Some(error) => format!("{}\n\n⚠️ {error}", close_fence(markdown)),
    }
}

fn close_fence(markdown: &str) -> String {
    let fences = markdown.lines().filter(|line| line.trim_start().starts_with("```")).count();
    if fences % 2 == 1 { format!("{markdown}\n```") } else { markdown.to_owned() }
}

/// A handler that failed for good.
pub fn apology(bot_id: i64, chat_id: i64) -> Call {
    let place = Place { bot_id, chat_id, thread_id: None };
    Call::reply(bot_id, chat_id, &send_message(place, &Text::plain(OUR_FAULT).done(), vec![]))
}

/// An answer to a press: a short notice, or none.
pub fn answer_press(query: &str, notice: Option<&str>) -> AnswerCallbackQuery {
    let answer = AnswerCallbackQuery::new(CallbackQueryId(query.to_owned()));
    match notice {
        Some(notice) => answer.text(notice),
        None => answer,
    }
}

/// A button of an earlier step or dialogue.
pub const OLD_BUTTON: &str = "This button is from an earlier step.";

/// Whether a character changes the direction in which others are shown, so that a name can pass for another.
pub fn turns_around(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first characters of a text, with an ellipsis where there are more.
pub fn excerpt(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}
