//! `/start`, with or without a deep link's payload, and entering a chat with an agent.

use super::{Handled, Handler, Speaker, create, invite};
use crate::agents::opening::{self, Opened, Payload};
use crate::telegram::{conversation, texts};
use crate::wake::Queue;

/// `/start`: the welcome; with a payload, what that names.
pub(super) async fn on_start(handler: &mut Handler<'_>, speaker: &Speaker, payload: &str) -> Handled {
    let place = speaker.place;
    if payload.is_empty() {
        return handler.say(place, texts::welcome(&speaker.user.first_name)).await;
    }
    match Payload::parse(payload) {
        Some(Payload::Number(id)) => enter(handler, speaker, id).await,
        Some(Payload::Token(token)) => {
            let opened = opening::by_token(handler.conn, place.bot_id, speaker.user.id, token).await?;
            // The owner may have been asked.
            handler.wake(Queue::Outbox);
            answer(handler, speaker, opened).await
        }
        Some(Payload::Invitation(code)) => invite::redeem(handler, speaker, code).await,
        None => handler.say(place, texts::no_such_agent()).await,
    }
}

/// From now on the chat talks to this agent, if this user may know of it.
pub(super) async fn enter(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let opened = opening::by_number(handler.conn, speaker.place.bot_id, speaker.user.id, id).await?;
    answer(handler, speaker, opened).await
}

async fn answer(handler: &mut Handler<'_>, speaker: &Speaker, opened: Opened) -> Handled {
    let place = speaker.place;
    let message = match opened {
        Opened::Entered(agent, access) => {
            create::give_up(handler, speaker).await?;
            conversation::enter(handler.conn, place.bot_id, place.chat_id, agent.id).await?;
            texts::entered_as(&agent, access)
        }
        Opened::Refused(agent, refusal) => texts::not_entered(&agent.name, refusal),
        Opened::DeadLink(refusal) => texts::dead_link(refusal),
        // Unknown, deleted, unlisted and private look the same.
        Opened::Unknown => texts::no_such_agent(),
    };
    handler.say(place, message).await
}
