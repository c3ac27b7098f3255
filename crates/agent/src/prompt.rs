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

/// The messages of one request: system and history, in which a turn's messages are whole.
pub fn conversation(system: Message, history: impl IntoIterator<Item = Message>) -> Vec<Message> {
    // A window over the history may begin with an answer whose question is outside, or between a call and its result; models
    // want the user to begin.
    let history = history.into_iter().skip_while(|message| !message.is_from_user());
    std::iter::once(system).chain(history).collect()
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
        let lost = [Message::tool("a".into(), "lost".into()), Message::assistant("lost".into())];
        let kept = [Message::user("a".into()), Message::assistant("b".into()), Message::user("c".into())];
        let messages = conversation(system.clone(), lost.into_iter().chain(kept.clone()));
        assert_eq!(messages, [vec![system], kept.to_vec()].concat());
    }
}
