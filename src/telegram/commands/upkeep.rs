//! `/soul`, `/update`, `/repair` and their buttons.

use super::agents::number;
use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::service::{self, Change, TakenUp};
use crate::agents::{Agent, Status, store};
use crate::telegram::markdown::{MESSAGE_LIMIT, utf16_len};
use crate::telegram::texts;
use crate::wake::Queue;

/// `/soul`: explains itself; with a number, shows that agent's personality; with words behind it, changes it to these.
pub(super) async fn soul(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    let place = speaker.place;
    let (id, words) = id_and_words(argument);
    if id.is_empty() {
        return handler.say(place, texts::soul_usage()).await;
    }
    let (owner, id) = (speaker.user.id, number(id));
    if words.is_empty() {
        let messages = match service::get_owned(handler.conn, owner, id).await {
            Ok(agent) => texts::soul(&agent),
            Err(error) => vec![Handler::refusal(error)?],
        };
        for message in messages {
            handler.say(place, message).await?;
        }
        return Ok(());
    }
    let change = Change { system_prompt: Some(words.to_owned()), ..Change::default() };
    let message = match service::change(handler.conn, handler.app, owner, id, change).await {
        Ok(changed) => {
            tracing::info!(
                agent.id = id,
                user.id = owner,
                version = changed.agent.wanted_version,
                "a personality was changed"
            );
            wake(handler);
            texts::soul_changed(&changed, is_cut(words))
        }
        Err(error) => Handler::refusal(error)?,
    };
    handler.say(place, message).await
}

/// `/update`.
pub(super) async fn update(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    match argument {
        "" => handler.say(speaker.place, texts::update_usage()).await,
        argument => update_now(handler, speaker, number(argument)).await,
    }
}

/// Puts the present program in place.
pub(super) async fn update_now(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let owner = speaker.user.id;
    let message = match service::update(handler.conn, handler.app, owner, id).await {
        Ok(changed) => {
            tracing::info!(agent.id = id, user.id = owner, "an agent is to be updated");
            wake(handler);
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
        return handler.say(speaker.place, texts::repair_usage()).await;
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
            wake(handler);
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
            wake(handler);
            Ok(Ok(agent))
        }
        Err(error) => Ok(Err(Handler::refusal(error)?)),
    }
}

fn wake(handler: &mut Handler<'_>) {
    handler.wake(Queue::Jobs);
    handler.wake(Queue::Outbox);
}

/// Whether a client may have cut these words off: it sends the rest of what is too long for a message as a second one.
fn is_cut(words: &str) -> bool {
    // The command and the number stand before them.
    (MESSAGE_LIMIT - 64..=MESSAGE_LIMIT).contains(&utf16_len(words))
}

/// Whether the messages of the agent's jobs appear in this chat.
fn is_told_here(agent: &Agent, speaker: &Speaker) -> bool {
    (agent.bot_id, agent.chat_id) == (speaker.place.bot_id, speaker.place.chat_id)
}

/// The number's word and the words behind it, as they were written: over several lines, and indented where they begin
/// on a line of their own.
fn id_and_words(argument: &str) -> (&str, &str) {
    let argument = argument.trim();
    let Some((id, rest)) = argument.find(char::is_whitespace).map(|end| argument.split_at(end)) else {
        return (argument, "");
    };
    let words = rest.trim_start();
    let space = &rest[..rest.len() - words.len()];
    match space.rfind('\n') {
        Some(line_end) => (id, &rest[line_end + 1..]),
        None => (id, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_personality_is_taken_as_it_was_written() {
        assert_eq!(id_and_words(""), ("", ""));
        assert_eq!(id_and_words(" #5 \n"), ("#5", ""));
        assert_eq!(
            id_and_words("5 You are  kind.\n\n  - and `$(brief)`\n"),
            ("5", "You are  kind.\n\n  - and `$(brief)`")
        );
        assert_eq!(id_and_words("agent_5\n\n  - first\n  - second"), ("agent_5", "  - first\n  - second"));
        assert_eq!(id_and_words("5 \u{a0}x /soul 6 y"), ("5", "x /soul 6 y"));
        assert_eq!(id_and_words("You are kind."), ("You", "are kind."));
    }

    #[test]
    fn words_that_fill_a_message_may_be_cut() {
        let cut = [4_000, 4_085, 4_200].map(|length| is_cut(&"é".repeat(length)));
        assert_eq!(cut, [false, true, false]);
    }

    #[test]
    fn numbers_are_understood_with_and_without_what_goes_before_them() {
        for (argument, id) in [("5", 5), ("#5", 5), ("agent_5", 5), ("five", -1), ("5.", -1), ("", -1)] {
            assert_eq!(number(argument), id, "{argument}");
        }
    }
}
