//! Words for an agent: they become a turn, with agent and role fixed at this moment.

use baal_protocol::Role;
use uuid::Uuid;

use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::{Status, service};
use crate::telegram::texts;
use crate::turns::store::{self, NewTurn, Request};
use crate::wake::Queue;

/// A text to the agent being talked to.
pub(super) async fn on_text(handler: &mut Handler<'_>, speaker: &Speaker, text: &str) -> Handled {
    let Some(agent) = &speaker.conversation.agent else {
        return handler.say(speaker.place, texts::nobody_to_talk_to()).await;
    };
    let there = !matches!(agent.status, Status::Deleting | Status::Deleted);
    // Its owner may have closed it since this chat was opened.
    if there && !service::open_to(agent.owner_id, agent.visibility, agent.status, speaker.user.id) {
        return handler.say(speaker.place, texts::closed(&agent.name)).await;
    }
    if agent.status != Status::Running {
        let words = texts::agent_not_running(&agent.name, agent.status.as_str());
        return handler.say(speaker.place, texts::refused(&words)).await;
    }
    let request = Request {
        message: text.to_owned(),
        name: speaker.user.name().into_owned(),
        language_code: speaker.user.language_code.clone(),
    };
    enqueue(handler, speaker, agent.id, agent.owner_id, &request).await.map(drop)
}

/// Asks once more what failed. Returns what to show the presser for a moment.
pub(super) async fn retry(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    turn: Uuid,
) -> sqlx::Result<Option<&'static str>> {
    let vault = &handler.app.config.vault;
    let Some(retried) = store::failed_request(handler.conn, vault, turn, speaker.user.id).await? else {
        return Ok(Some("That was already tried again, or is too long ago."));
    };
    match service::open(handler.conn, speaker.user.id, retried.agent_id).await {
        Ok(agent) => {
            if !enqueue(handler, speaker, agent.id, agent.owner_id, &retried.request).await? {
                return Ok(None);
            }
            store::drop_request(handler.conn, turn).await?;
            Ok(Some("Asking again…"))
        }
        Err(error) => {
            let words = Handler::refusal(error)?;
            handler.say(pressed.place, words).await?;
            Ok(None)
        }
    }
}

/// Queues a turn; `false` if the user has been told that the day's messages are used up.
async fn enqueue(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    agent_id: i64,
    owner_id: i64,
    request: &Request,
) -> sqlx::Result<bool> {
    let config = &handler.app.config;
    let turn = NewTurn {
        place: speaker.place,
        agent_id,
        user_id: speaker.user.id,
        role: if owner_id == speaker.user.id { Role::Owner } else { Role::Visitor },
        request,
        daily_limit: config.free_tier_daily_messages,
    };
    let queued = store::enqueue(handler.conn, &config.vault, &turn).await?.is_some();
    match queued {
        true => handler.wake(Queue::Turns),
        false => handler.say(speaker.place, texts::limit_reached(config.free_tier_daily_messages)).await?,
    }
    Ok(queued)
}
