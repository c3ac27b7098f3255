//! What the model is told: the system message and the history.

use crate::model::Message;
use chrono::NaiveDate;

/// The system message.
///
/// It changes with the day and not within it, and what changes comes last: providers reuse the work on a prompt's
/// unchanged beginning.
pub fn system_message(agent_name: &str, system_prompt: &str, today: NaiveDate) -> Message {
    let mut text = format!("You are {agent_name}.");
    let personality = system_prompt.trim();
    if !personality.is_empty() {
        text += "\n\n";
        text += personality;
    }
    text += "\n\nYou talk with people in a chat. You may format answers with Markdown.";
    text += &today.format("\n\nToday is %A, %Y-%m-%d (UTC).").to_string();
    Message::system(text)
}

/// The messages of one request: system, history, and what the user says now.
pub fn conversation(system: Message, history: Vec<Message>, said: &str) -> Vec<Message> {
    let mut messages = Vec::with_capacity(history.len() + 2);
    messages.push(system);
    // A window over the history may begin with an answer whose question is outside; models want the user to begin.
    messages.extend(history.into_iter().skip_while(|message| !message.is_from_user()));
    messages.push(Message::user(said.to_owned()));
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_message_is_the_same_all_day() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 22).expect("a date");
        let message = system_message("Ada", " Be kind. ", day);
        assert_eq!(
            message,
            Message::system(
                "You are Ada.\n\nBe kind.\n\nYou talk with people in a chat. You may format answers with Markdown.\
                 \n\nToday is Sunday, 2026-11-22 (UTC)."
                    .into()
            )
        );
    }

    #[test]
    fn a_conversation_begins_with_the_user() {
        let system = Message::system("s".into());
        let history =
            vec![Message::assistant("lost".into()), Message::user("a".into()), Message::assistant("b".into())];
        let messages = conversation(system.clone(), history, "c");
        let wanted = [system, Message::user("a".into()), Message::assistant("b".into()), Message::user("c".into())];
        assert_eq!(messages, wanted);
    }
}
