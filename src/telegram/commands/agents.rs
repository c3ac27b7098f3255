//! `/list`, `/manage`, `/delete` and their buttons.

use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::{Agent, links, service};
use crate::telegram::texts::{self, Message};
use crate::wake::Queue;

/// `/list`.
pub(super) async fn list(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let message = listing(handler, speaker).await?;
    handler.say(speaker.place, message).await
}

/// The list, in place of the pressed message.
pub(super) async fn show_list(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed) -> Handled {
    let message = listing(handler, speaker).await?;
    handler.turn_into(pressed, message).await
}

async fn listing(handler: &mut Handler<'_>, speaker: &Speaker) -> sqlx::Result<Message> {
    let owner = speaker.user.id;
    let agents = owned(handler, speaker).await?;
    let slots = service::slots(handler.conn, handler.app, owner).await.or_else(database_error)?;
    let standings = service::standings(handler.conn, &agents).await.or_else(database_error)?;
    Ok(texts::list(&agents, &standings, slots, speaker.conversation.agent.as_ref().map(|agent| agent.id)))
}

/// The speaker's agents.
pub(super) async fn owned(handler: &mut Handler<'_>, speaker: &Speaker) -> sqlx::Result<Vec<Agent>> {
    service::owned(handler.conn, speaker.user.id).await.or_else(database_error)
}

/// Where the service can only fail by the database.
pub(super) fn database_error<T>(error: service::ServiceError) -> sqlx::Result<T> {
    Err(match error {
        service::ServiceError::Database(error) => error,
        other => sqlx::Error::Protocol(other.to_string()),
    })
}

/// `/manage`: the list, or with a number that agent's card.
pub(super) async fn manage(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    if argument.is_empty() {
        return list(handler, speaker).await;
    }
    let message = card(handler, speaker, number(argument)).await?;
    handler.say(speaker.place, message).await
}

/// An agent's card, in place of the pressed message.
pub(super) async fn show_card(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed, id: i64) -> Handled {
    let message = card(handler, speaker, id).await?;
    handler.turn_into(pressed, message).await
}

async fn card(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> sqlx::Result<Message> {
    match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) => {
            let username = crate::telegram::setup::username(handler.conn, speaker.place.bot_id).await?;
            let standing = service::standing(handler.conn, &agent).await.or_else(database_error)?;
            let config = &handler.app.config;
            let link = links::ready_link(handler.conn, &config.vault, &username, &agent).await?;
            Ok(texts::card(&agent, &standing, link.as_deref(), &config.models))
        }
        Err(error) => Handler::refusal(error),
    }
}

/// `/delete`: asks which, or with a number whether.
pub(super) async fn delete(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    if !argument.is_empty() {
        return ask_delete(handler, speaker, None, number(argument)).await;
    }
    let agents = owned(handler, speaker).await?;
    handler.say(speaker.place, texts::delete_which(&agents)).await
}

/// Asks whether to delete this agent.
pub(super) async fn ask_delete(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: Option<&Pressed>,
    id: i64,
) -> Handled {
    let message = match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) => texts::delete_really(&agent),
        Err(error) => Handler::refusal(error)?,
    };
    match pressed {
        Some(pressed) => handler.turn_into(pressed, message).await,
        None => handler.say(speaker.place, message).await,
    }
}

/// Deletes it.
pub(super) async fn confirm_delete(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    id: i64,
) -> Handled {
    let message = match service::delete(handler.conn, speaker.user.id, id).await {
        Ok(agent) => {
            tracing::info!(agent.id, user.id = speaker.user.id, "an agent is being deleted");
            handler.wake(Queue::Jobs);
            handler.wake(Queue::Turns);
            texts::deleting(&agent)
        }
        Err(error) => Handler::refusal(error)?,
    };
    handler.turn_into(pressed, message).await
}

/// Keeps it after all.
pub(super) async fn keep(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed, id: i64) -> Handled {
    let message = match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) => texts::kept(&agent),
        Err(error) => Handler::refusal(error)?,
    };
    handler.turn_into(pressed, message).await
}

/// Provisions a failed agent again.
pub(super) async fn retry(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    match service::retry(handler.conn, speaker.user.id, id).await {
        Ok(_) => {
            handler.wake_jobs();
            Ok(())
        }
        Err(error) => {
            let words = Handler::refusal(error)?;
            handler.say(speaker.place, words).await
        }
    }
}

/// The number in a command's argument, with or without `agent_` or `#`; what is none is no agent's.
pub(super) fn number(argument: &str) -> i64 {
    argument.trim_start_matches("agent_").trim_start_matches('#').parse().unwrap_or(-1)
}
