//! What the bot says, in one place. Names and words of users go in as plain text, never as markup.

mod agents;
mod upkeep;

use teloxide_core::payloads::{AnswerCallbackQuery, AnswerCallbackQuerySetters};
use teloxide_core::types::{BotCommand, CallbackQueryId};

use super::callback::Press;
use super::conversation::Dialogue;
use super::markdown::Formatted;
use super::outbox::Call;
use super::text::{Buttons, Place, Text, send_message};
use crate::agents::model::{Agent, Status};
use crate::config::Models;
use crate::turns::agent_client::AgentError;
use crate::turns::store::Claimed;

pub use agents::*;
pub use upkeep::*;

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
    [
        ("create", "Create an agent"),
        ("list", "Your agents"),
        ("manage", "Manage an agent"),
        ("soul", "Change an agent's personality"),
        ("update", "Give an agent the newest program"),
        ("repair", "Repair an agent"),
        ("delete", "Delete an agent"),
        ("cancel", "Stop what you are doing"),
        ("help", "What this bot can do"),
        ("start", "Begin, or open a shared agent"),
    ]
    .map(|(command, description)| BotCommand::new(command, description))
    .into()
}

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

/// `/help`.
pub fn help() -> Message {
    let text = Text::bold("What you can do here")
        .then("\n\n/create – create an agent: a name, a personality, a model\n/list – your agents and how they are\n")
        .then("/manage – one agent's card: chat, share, repair, delete\n")
        .then("/soul – change an agent's personality: /soul 5 You are …\n/update – give an agent the newest program: /update 5\n")
        .then("/repair – repair an agent that does not answer: /repair 5\n")
        .then("/delete – delete an agent\n/cancel – stop what you are doing\n\n")
        .then("Open an agent and simply write to it. Whoever opens your agent's link has a conversation of their own with it; ")
        .then("nobody sees what others write.");
    (text.done(), vec![vec![Press::Create.button("✨ Create an agent"), Press::List.button("🗂 My agents")]])
}

/// A chat is now with this agent.
pub fn entered(agent: &Agent) -> Message {
    let name = Text::plain("💬 You are talking to ").then_bold(&agent.name).then(".");
    let text = match agent.status {
        Status::Running => name.then(" Write something!"),
        Status::Provisioning => name.then(" It is still being set up and will answer when that is done."),
        Status::Failed => name.then(" It isn't running: setting it up failed."),
        Status::Deleting | Status::Deleted => name.then(" It is being deleted."),
    };
    (text.done(), vec![])
}

/// An agent that may exist or not, and isn't for this user.
pub fn no_such_agent() -> Message {
    let text = Text::plain("There is no agent behind this link. It may have been deleted, or the link is incomplete.");
    (text.done(), vec![vec![Press::List.button("🗂 My agents"), Press::Create.button("✨ Create an agent")]])
}

/// Words for nobody.
pub fn nobody_to_talk_to() -> Message {
    let text = Text::plain("You aren't talking to an agent yet. Pick one of yours, open a shared link, or create one.");
    (text.done(), vec![vec![Press::List.button("🗂 My agents"), Press::Create.button("✨ Create an agent")]])
}

/// Something that is not text.
pub fn only_text() -> Message {
    (Text::plain("I can only pass on text so far. Please write it in words.").done(), vec![])
}

/// In a group.
pub fn private_only() -> Message {
    (Text::plain("I only work in private chats. Please write to me directly.").done(), vec![])
}

/// A command that does not exist.
pub fn unknown_command() -> Message {
    (Text::plain("I don't know that command. /help lists those I know.").done(), vec![])
}

/// The day's messages are used up.
pub fn limit_reached(limit: i32) -> Message {
    let text = match limit {
        0 => Text::plain("Messages are switched off here at the moment. Please ask whoever runs this bot."),
        _ => Text::plain(format!(
            "You have used all {limit} messages of today. The count starts anew at 00:00 UTC; your message wasn't sent."
        )),
    };
    (text.done(), vec![])
}

/// A refusal by the agent service.
pub fn refused(error: &impl std::fmt::Display) -> Message {
    (Text::plain(error.to_string()).done(), vec![])
}

/// The agent being talked to cannot answer.
pub fn agent_not_running(name: &str, status: &str) -> String {
    match status {
        "provisioning" => format!("{name} isn't running yet: it is still being set up. Try again in a moment."),
        "failed" => format!("{name} isn't running: setting it up failed. Its owner can try again under /list."),
        _ => format!("{name} was deleted. /list shows your agents, /create makes a new one."),
    }
}

/// The agent being talked to is not for this user any more.
pub fn closed(name: &str) -> Message {
    let text = Text::bold(name).then(
        " isn't shared any more: only its owner can talk to it now, and your message wasn't passed on. You can open \
         another agent by its link, or create one of your own.",
    );
    (text.done(), vec![vec![Press::List.button("🗂 My agents"), Press::Create.button("✨ Create an agent")]])
}

/// Why an agent did not answer.
pub fn agent_trouble(error: &AgentError, turn: &Claimed) -> String {
    let name = &plain(&turn.agent_name);
    match error {
        AgentError::NotRunning(status) => agent_not_running(name, status),
        AgentError::Refused(401 | 403) => {
            format!("{name} doesn't accept this bot any more. Its owner has to set it up again.")
        }
        AgentError::Refused(413) => "That message is too long for the agent. Please shorten it.".into(),
        AgentError::Refused(_) => format!("{name} couldn't take this message."),
        _ => format!("{name} isn't answering at the moment. It is being looked after; please try again in a minute."),
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

/// The question of a wizard's step.
pub fn question(id: i64, dialogue: &Dialogue, models: &Models, default_model: &str) -> Message {
    let press = |choice: &str| Press::Dialogue { id, step: dialogue.step().into(), choice: choice.into() };
    let cancel = press("cancel").button("❌ Cancel");
    match dialogue {
        Dialogue::Name => {
            let text = Text::bold("New agent, 1 of 3: the name")
                .then("\n\nWhat should it be called? Send 1 to 64 characters.");
            (text.done(), vec![vec![cancel]])
        }
        Dialogue::Personality { name } => {
            let text = Text::bold("New agent, 2 of 3: the personality")
                .then("\n\nHow should ")
                .then_bold(name)
                .then(" be? Describe who it is, how it speaks and what it is for, in your own words. ")
                .then("Or take a friendly all-rounder.");
            (text.done(), vec![vec![press("default").button("🙂 Friendly all-rounder")], vec![cancel]])
        }
        Dialogue::Model { name, .. } => {
            let mut text = Text::bold("New agent, 3 of 3: the model")
                .then("\n\nWhich model should ")
                .then_bold(name)
                .then(" think with?\n");
            let mut buttons = Buttons::new();
            let preferred = models.0.iter().position(|model| model.id == default_model);
            for (index, model) in models.0.iter().enumerate() {
                text = text.then("\n• ").then_bold(&model.name);
                if !model.description.is_empty() {
                    text = text.then(": ").then(&model.description);
                }
                // By number: a model's id may be longer than a button's data.
                let note = if Some(index) == preferred { " (suggested)" } else { "" };
                buttons.push(vec![press(&index.to_string()).button(format!("{}{note}", model.name))]);
            }
            buttons.push(vec![cancel]);
            (text.done(), buttons)
        }
        Dialogue::Confirm { name, prompt, model } => {
            let model = models.get(model).map_or(model.as_str(), |model| &model.name);
            let text = Text::bold("Create this agent?")
                .then("\n\nName: ")
                .then_bold(name)
                .then("\nModel: ")
                .then_bold(model)
                .then("\nPersonality:\n")
                .then_quote(excerpt(prompt, 1_000));
            (text.done(), vec![vec![press("yes").button("✅ Create"), cancel]])
        }
    }
}

/// The personality behind the one-tap choice.
pub fn default_personality(name: &str) -> String {
    format!(
        "You are {name}, a friendly and capable assistant. You answer clearly and briefly, ask back when something is \
         unclear, admit what you do not know, and speak the language of whoever writes to you."
    )
}

/// A step that wants a button got words.
pub fn press_a_button() -> Message {
    (Text::plain("Please press one of the buttons above, or /cancel.").done(), vec![])
}

/// The wizard was left.
pub fn cancelled() -> Message {
    (Text::plain("Cancelled. Nothing was created.").done(), vec![vec![Press::Create.button("✨ Create an agent")]])
}

/// `/cancel` with nothing under way.
pub fn nothing_to_cancel() -> Message {
    (Text::plain("There is nothing to cancel.").done(), vec![])
}

/// What the confirmation turns into.
pub fn creating(name: &str) -> Formatted {
    Text::plain("⏳ Creating ").then_bold(name).then(".").done()
}

/// The first characters of a text, with an ellipsis where there are more.
pub fn excerpt(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}
