//! What the bot says about what it keeps, and about forgetting.

use super::{Message, count};
use crate::config::Config;
use crate::telegram::callback::{AccountPress, Press};
use crate::telegram::text::Text;

/// The word that confirms `/forgetme`.
pub const FORGET_WORD: &str = "FORGET";

/// `/privacy`.
pub fn privacy(config: &Config) -> Message {
    let days = |days: i32| count(i64::from(days), "day");
    let text = Text::bold("🔏 What is kept, where, and for how long")
        .then("\n\n")
        .then_bold("Conversations")
        .then(" are kept by the agent, on its own machine, until you send /new, until the agent is deleted, or until you send ")
        .then("/forgetme. What agents write down for themselves, and files that you send them, stay on that machine as long as ")
        .then("they do, also after /new and /forgetme where the agent is somebody else's. To answer, an agent sends your words to LibertAI, where the model runs.\n\n")
        .then_bold("Here")
        .then(" your words pass through encrypted and are deleted once they are handled; those of a failed answer stay for a ")
        .then(format!(
            "day, so that you can try again. A message that I couldn't handle is kept encrypted for up to {}, so that the fault \
             can be found; what you answered me without finishing, such as about a new agent, as long. That a message came or went, \
             without its words, is kept for up to {}; when you talked to which agent, and what that cost, for up to {}, and how \
             often, for as long as the agent is known.\n\n",
            days(config.retention_texts),
            days(config.retention_updates.max(config.retention_outbox)),
            days(config.retention_turns)
        ))
        .then_bold("Your account")
        .then(": your name, user name and number at Telegram, your language, your agents with their personalities and earlier versions ")
        .then(format!("of these (until {} after the agent is gone), links, ", days(config.retention_texts)))
        .then("and your key of LibertAI if you connected one, encrypted. /logout forgets the key, and takes ")
        .then("it away from your agents.\n\n")
        .then_bold("Who sees what")
        .then(": whoever owns an agent that you talk to sees your name, your user name, when you were there and how many messages you sent it, not what they say. ")
        .then("Whoever runs this bot runs the machines, and sees your account, your agents with their personalities and how much they are used. Logs hold numbers, no words.\n\n")
        .then_bold("/forgetme")
        .then(" deletes all of this here, your agents with their machines, and your conversations with agents of others. Three numbers stay a \
             while: how many messages you sent today, that somebody blocked, refused or limited you, and that updates were handled. What you see in this chat is kept by Telegram: delete the chat to remove it.");
    (text.done(), vec![vec![Press::Account(AccountPress::AskForget).button("🧹 Forget me")]])
}

/// `/forgetme`: the first question.
pub fn ask_forget(agents: &[String], connected: bool) -> Message {
    let mut text = Text::bold("🧹 Forget everything about you?").then("\n\nThis deletes for good:\n");
    match agents {
        [] => {}
        agents => {
            text = text.then("• your agents, with everything they remember and all their links: ");
            for (index, name) in agents.iter().enumerate() {
                text = text.then(if index > 0 { ", " } else { "" }).then_bold(name);
            }
            text = text.then("\n");
        }
    }
    text = text.then("• your conversations with agents of others (but not what these wrote down for themselves, or files that you sent them)\n");
    if connected {
        text = text.then("• your key of LibertAI\n");
    }
    text = text.then("• your account and how much you used\n\nIt can't be undone.");
    let buttons = vec![
        vec![Press::Account(AccountPress::Forget).button("🧹 Go on")],
        vec![Press::Account(AccountPress::Cancel).button("Keep everything")],
    ];
    (text.done(), buttons)
}

/// The second question.
pub fn confirm_forget() -> Message {
    let text = Text::plain("To be sure that it is you who wants this: send the word ")
        .then_bold(FORGET_WORD)
        .then(". Anything else, and nothing is deleted.");
    (text.done(), vec![vec![Press::Account(AccountPress::Cancel).button("Keep everything")]])
}

/// Another word came.
pub fn not_forgotten() -> Message {
    (Text::plain("That wasn't the word, so nothing was deleted. /forgetme begins anew.").done(), vec![])
}

/// It is under way.
pub fn forgetting(agents: i64, others: i64) -> Message {
    let mut text = Text::plain("🧹 Forgetting you…");
    if agents > 0 {
        text = text.then(format!(
            "\n• {} being deleted, with {}",
            format_args!("{} {}", count(agents, "agent"), if agents == 1 { "is" } else { "are" }),
            machines(agents)
        ));
    }
    if others > 0 {
        text = text.then(format!("\n• {} of others still to forget you", count(others, "agent")));
    }
    (text.then("\n\nThis goes on by itself; I say so here when it is done.").done(), vec![])
}

fn machines(agents: i64) -> &'static str {
    if agents == 1 { "its machine" } else { "their machines" }
}

/// Whatever somebody sends or presses who is being forgotten.
pub const BEING_FORGOTTEN: &str =
    "🧹 I am just forgetting you, as you asked. When that is done you can begin anew with /start.";

/// The same as a message.
pub fn being_forgotten() -> Message {
    (Text::plain(BEING_FORGOTTEN).done(), vec![])
}

/// It is done; `others` could not be reached yet.
pub fn forgotten(others: i64) -> Message {
    let mut text = Text::plain("🧹 ").then_bold("Done: you are forgotten here").then(
        "\n\nYour agents, your account and your conversations are deleted. What you see in this chat is kept by Telegram: \
         delete the chat to remove it.",
    );
    if others > 0 {
        text = text.then(format!(
            "\n\n{} of others can't be reached at the moment. As soon as that changes your conversation is deleted there too.",
            count(others, "agent")
        ));
    }
    (text.then("\n\nIf you write again you are new here.").done(), vec![])
}
