//! `/start`, with or without a deep link's payload, and entering a chat with an agent.

use super::{Handled, Handler, Speaker};
use crate::agents::service;
use crate::telegram::{conversation, texts};

/// `/start`: the welcome; `/start agent_N` and `/start N`: to that agent.
pub(super) async fn on_start(handler: &mut Handler<'_>, speaker: &Speaker, payload: &str) -> Handled {
    if payload.is_empty() {
        return handler.say(speaker.place, texts::welcome(&speaker.user.first_name)).await;
    }
    match agent_number(payload) {
        Some(id) => enter(handler, speaker, id).await,
        None => handler.say(speaker.place, texts::no_such_agent()).await,
    }
}

fn agent_number(payload: &str) -> Option<i64> {
    let digits = payload.strip_prefix("agent_").unwrap_or(payload);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// From now on the chat talks to this agent, if this user may know of it.
pub(super) async fn enter(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let place = speaker.place;
    match service::open(handler.conn, speaker.user.id, id).await {
        Ok(agent) => {
            conversation::enter(handler.conn, place.bot_id, place.chat_id, agent.id).await?;
            handler.say(place, texts::entered(&agent)).await
        }
        Err(service::ServiceError::Database(error)) => Err(error),
        // Unknown, deleted and unlisted look the same.
        Err(_) => handler.say(place, texts::no_such_agent()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_name_agents_by_number() {
        for (payload, number) in
            [("agent_42", Some(42)), ("42", Some(42)), ("agent_-1", None), ("+1", None), ("", None)]
        {
            assert_eq!(agent_number(payload), number, "{payload}");
        }
        for payload in ["agent_", "agent_x", "99999999999999999999", "agent_agent_1"] {
            assert_eq!(agent_number(payload), None, "{payload}");
        }
    }
}
