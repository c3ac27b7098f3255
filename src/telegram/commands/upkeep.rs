//! `/update`, `/repair` and their buttons.

use super::agents::number;
use super::agents::owned;
use super::soul::id_and_words;
use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::service::{self, TakenUp};
use crate::agents::{Agent, Status, store};
use crate::telegram::texts;

/// `/update`.
pub(super) async fn update(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    match argument {
        "" => {
            let agents = owned(handler, speaker).await?;
            handler.say(speaker.place, texts::update_which(&agents)).await
        }
        argument => update_now(handler, speaker, number(argument)).await,
    }
}

/// Puts the present program in place.
pub(super) async fn update_now(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let owner = speaker.user.id;
    let message = match service::update(handler.conn, handler.app, owner, id).await {
        Ok(changed) => {
            tracing::info!(agent.id = id, user.id = owner, "an agent is to be updated");
            handler.wake_jobs();
            // The job's own message tells all, where it can be seen.
            if changed.taken_up == TakenUp::ByNewJob && is_told_here(&changed.agent, speaker) {
                return Ok(());
            }
            texts::update_begun(&changed)
        }
        Err(error) => Handler::refusal(error)?,
    };
    handler.say(speaker.place, message).await
}

/// `/repair`: whoever types it wants it.
pub(super) async fn repair(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    if argument.is_empty() {
        let agents = owned(handler, speaker).await?;
        return handler.say(speaker.place, texts::repair_which(&agents)).await;
    }
    let message = match id_and_words(argument) {
        // Three words of one's own typing are as good as an answer to a question.
        (id, word) if word.eq_ignore_ascii_case("new") => {
            return begin_anew(handler, speaker, None, number(id)).await;
        }
        _ => begin_repair(handler, speaker, number(argument)).await?,
    };
    match message {
        Ok(agent) if is_told_here(&agent, speaker) => Ok(()),
        Ok(agent) => handler.say(speaker.place, texts::repair_begun(&agent)).await,
        Err(refusal) => handler.say(speaker.place, refusal).await,
    }
}

/// Asks whether to repair this agent; where there is nothing to lose, repairs it at once.
pub(super) async fn ask_repair(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed, id: i64) -> Handled {
    match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) if matches!(agent.status, Status::Running | Status::Failed) => {
            if store::has_machine(handler.conn, id).await? {
                return handler.say(speaker.place, texts::repair_really(&agent)).await;
            }
        }
        Ok(_) => {}
        Err(error) => {
            let words = Handler::refusal(error)?;
            return handler.say(speaker.place, words).await;
        }
    }
    confirm_repair_by(handler, speaker, pressed, id, false).await
}

/// Repairs it.
pub(super) async fn confirm_repair(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    id: i64,
) -> Handled {
    confirm_repair_by(handler, speaker, pressed, id, true).await
}

/// Repairs it; `asked`: the pressed message was the question, which has been answered.
async fn confirm_repair_by(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    id: i64,
    asked: bool,
) -> Handled {
    let message = match begin_repair(handler, speaker, id).await? {
        Ok(agent) if !asked && is_told_here(&agent, speaker) => return Ok(()),
        Ok(agent) => texts::repair_begun(&agent),
        Err(refusal) => refusal,
    };
    match asked {
        true => handler.turn_into(pressed, message).await,
        false => handler.say(speaker.place, message).await,
    }
}

/// Asks whether this agent is to begin anew, without what it remembers.
pub(super) async fn ask_begin_anew(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let message = match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) => texts::begin_anew_really(&agent),
        Err(error) => Handler::refusal(error)?,
    };
    handler.say(speaker.place, message).await
}

/// Lets it begin anew; `pressed` is the question, if there was one.
pub(super) async fn begin_anew(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: Option<&Pressed>,
    id: i64,
) -> Handled {
    let owner = speaker.user.id;
    let message = match service::begin_anew(handler.conn, handler.app, owner, id).await {
        Ok(agent) => {
            tracing::info!(agent.id = id, user.id = owner, "an agent is to begin anew");
            handler.wake_jobs();
            if pressed.is_none() && is_told_here(&agent, speaker) {
                return Ok(());
            }
            texts::anew_begun(&agent)
        }
        Err(error) => Handler::refusal(error)?,
    };
    match pressed {
        Some(pressed) => handler.turn_into(pressed, message).await,
        None => handler.say(speaker.place, message).await,
    }
}

/// The agent, if its repair has begun; else why not.
async fn begin_repair(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    id: i64,
) -> sqlx::Result<Result<Agent, texts::Message>> {
    let owner = speaker.user.id;
    match service::repair(handler.conn, handler.app, owner, id).await {
        Ok(agent) => {
            tracing::info!(agent.id = id, user.id = owner, "an agent is to be repaired");
            handler.wake_jobs();
            Ok(Ok(agent))
        }
        Err(error) => Ok(Err(Handler::refusal(error)?)),
    }
}

/// Whether the messages of the agent's jobs appear in this chat.
fn is_told_here(agent: &Agent, speaker: &Speaker) -> bool {
    (agent.bot_id, agent.chat_id) == (speaker.place.bot_id, speaker.place.chat_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_understood_with_and_without_what_goes_before_them() {
        for (argument, id) in [("5", 5), ("#5", 5), ("agent_5", 5), ("five", -1), ("5.", -1), ("", -1)] {
            assert_eq!(number(argument), id, "{argument}");
        }
    }
}
