//! `/stop` and `/new`.

use baal_protocol::Role;
use uuid::Uuid;

use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::Status;
use crate::agents::access::{Access, Refusal};
use crate::telegram::conversation::CurrentAgent;
use crate::telegram::texts;
use crate::turns::stopping;
use crate::turns::store::{self, Kind, Request};
use crate::wake::Queue;

/// `/stop`: whatever runs or waits in this chat, whichever agent it is with.
pub(super) async fn stop(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let stopped = stopping::stop_all(handler.conn, speaker.place, speaker.user.id).await?;
    if stopped == stopping::Stopped::default() {
        return handler.say(speaker.place, texts::nothing_to_stop()).await;
    }
    wake(handler);
    handler.say(speaker.place, texts::stopping(stopped)).await
}

/// Stops a turn.
pub(super) async fn stop_turn(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    turn: Uuid,
) -> sqlx::Result<Option<&'static str>> {
    if !stopping::stop_one(handler.conn, turn, speaker.user.id).await? {
        return Ok(Some(texts::ALREADY_OVER));
    }
    wake(handler);
    Ok(Some(texts::STOPPING))
}

/// Those that run end, and so do those that wait.
fn wake(handler: &mut Handler<'_>) {
    handler.wake(Queue::Stops);
    handler.wake(Queue::Turns);
}

/// `/new`.
pub(super) async fn new(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let words = match &speaker.conversation.agent {
        None => texts::nobody_to_talk_to(),
        Some(agent) => why_not(agent).unwrap_or_else(|| texts::ask_new(agent.id, &agent.name)),
    };
    handler.say(speaker.place, words).await
}

/// Lets the agent forget this chat.
pub(super) async fn new_confirmed(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    agent_id: i64,
) -> sqlx::Result<Option<&'static str>> {
    // Only of the agent that the chat is with: this is about what both see here.
    let Some(agent) = speaker.conversation.agent.as_ref().filter(|agent| agent.id == agent_id) else {
        return Ok(Some(texts::OLD_BUTTON));
    };
    if let Some(words) = why_not(agent) {
        handler.say(pressed.place, words).await?;
        return Ok(None);
    }
    let (place, user_id) = (speaker.place, speaker.user.id);
    if store::is_resetting(handler.conn, place, agent_id).await? {
        return Ok(Some(texts::BEING_CLEARED));
    }
    let role = if agent.access == Access::Owner { Role::Owner } else { Role::Visitor };
    let request = Request {
        message: String::new(),
        name: speaker.user.name().into_owned(),
        language_code: speaker.user.language_code.clone(),
    };
    let vault = &handler.app.config.vault;
    store::enqueue_special(handler.conn, vault, place, (agent_id, user_id, role), Kind::Reset, &request).await?;
    handler.wake(Queue::Turns);
    handler.turn_into(pressed, texts::clearing(&agent.name)).await?;
    Ok(None)
}

/// Goes on as before.
pub(super) async fn kept(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed) -> Handled {
    let name = speaker.conversation.agent.as_ref().map(|agent| agent.name.as_str());
    handler.turn_into(pressed, texts::chat_kept(name)).await
}

/// Why this agent cannot be asked to forget now.
fn why_not(agent: &CurrentAgent) -> Option<texts::Message> {
    match (agent.access, agent.status) {
        (_, Status::Deleting | Status::Deleted) | (Access::Refused(Refusal::Unknown), _) => {
            Some(texts::nobody_to_talk_to())
        }
        (Access::Refused(refusal), _) => Some(texts::shared_no_more(&agent.name, refusal)),
        (_, Status::Running) => None,
        (access, status) => Some(texts::not_running(agent, status, access == Access::Owner)),
    }
}
