//! `/soul`: reading and changing a personality.

use super::agents::{number, owned};
use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::service::{self, Change};
use crate::telegram::callback::SoulPress;
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::cut::{Cut, cut};
use crate::telegram::texts;
use crate::telegram::update::Message;

/// `/soul`: asks which; with a number, shows that agent's personality; with words behind it, changes it to these.
pub(super) async fn soul(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message, argument: &str) -> Handled {
    let (id, words) = id_and_words(argument);
    if id.is_empty() {
        return ask_which(handler, speaker).await;
    }
    match words {
        "" => show(handler, speaker, number(id)).await,
        words => write(handler, speaker, message, number(id), words).await,
    }
}

async fn ask_which(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let agents = owned(handler, speaker).await?;
    handler.say(speaker.place, texts::soul_which(&agents)).await
}

async fn show(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let messages = match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) => match service::earlier_soul(handler.conn, &agent).await {
            Ok(earlier) => texts::soul(&agent, earlier),
            Err(error) => vec![Handler::refusal(error)?],
        },
        Err(error) => vec![Handler::refusal(error)?],
    };
    for message in messages {
        handler.say(speaker.place, message).await?;
    }
    Ok(())
}

/// Another personality in words, asked for by the button.
pub(super) async fn on_text(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    message: &Message,
    agent_id: i64,
    text: &str,
) -> Handled {
    write(handler, speaker, message, agent_id, text).await
}

async fn write(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message, id: i64, words: &str) -> Handled {
    let (place, owner) = (speaker.place, speaker.user.id);
    let changed = match service::get_owned(handler.conn, owner, id).await {
        Ok(before) => change(handler, speaker, id, words.to_owned()).await.map(|changed| (before, changed)),
        Err(error) => Err(error),
    };
    let (before, changed) = match changed {
        Ok(changed) => changed,
        // A dialogue stays; the next message is another try.
        Err(error) => {
            let words = Handler::refusal(error)?;
            return handler.say(place, words).await;
        }
    };
    let cut = cut(message, words);
    let next = cut.map(|cut| Dialogue::SoulRest { agent_id: id, cut, before: before.wanted_version });
    let asked = matches!(speaker.conversation.dialogue, Some(Dialogue::Soul { .. } | Dialogue::SoulRest { .. }));
    match &next {
        Some(next) => drop(handler.begin(speaker, next).await?),
        None if asked => conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?,
        None => {}
    }
    let undo = (before.system_prompt != changed.agent.system_prompt).then_some(before.wanted_version);
    handler.say(place, texts::soul_changed(&changed, undo, cut.is_some())).await
}

/// The rest of a personality that the client cut; `before`: the version whose personality it took the place of.
pub(super) async fn on_rest(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    message: &Message,
    (id, before, earlier): (i64, i32, Cut),
    text: &str,
) -> Handled {
    let place = speaker.place;
    let changed = match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) => change(handler, speaker, id, earlier.join(&agent.system_prompt, text)).await,
        Err(error) => Err(error),
    };
    let next = cut(message, text).filter(|_| changed.is_ok());
    let next = next.map(|cut| Dialogue::SoulRest { agent_id: id, cut, before });
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, next.as_ref()).await?;
    let words = match changed {
        Ok(changed) => texts::soul_rest(&changed, before),
        Err(error) => Handler::refusal(error)?,
    };
    handler.say(place, words).await
}

async fn change(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    id: i64,
    words: String,
) -> Result<service::Changed, service::ServiceError> {
    let owner = speaker.user.id;
    let change = Change { system_prompt: Some(words), ..Change::default() };
    let changed = service::change(handler.conn, handler.app, owner, id, change).await?;
    tracing::info!(agent.id = id, user.id = owner, version = changed.agent.wanted_version, "a personality was changed");
    handler.wake_jobs();
    Ok(changed)
}

/// A pressed button. Returns what to show the presser for a moment.
pub(super) async fn on_press(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    press: SoulPress,
) -> sqlx::Result<Option<&'static str>> {
    match press {
        SoulPress::Show(id) => show(handler, speaker, id).await?,
        SoulPress::Edit(id) => edit(handler, speaker, id).await?,
        SoulPress::Undo { id, from, to } => return undo(handler, speaker, pressed, id, (from, to)).await,
    }
    Ok(None)
}

/// Asks for another personality.
async fn edit(handler: &mut Handler<'_>, speaker: &Speaker, id: i64) -> Handled {
    let place = speaker.place;
    let message = match service::get_owned(handler.conn, speaker.user.id, id).await {
        Ok(agent) if agent.external => texts::changed_elsewhere(&agent),
        Ok(agent) => {
            let dialogue = Dialogue::Soul { agent_id: id };
            let dialogue_id = handler.begin(speaker, &dialogue).await?;
            texts::soul_edit(&agent, dialogue_id)
        }
        Err(error) => Handler::refusal(error)?,
    };
    handler.say(place, message).await
}

async fn undo(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    id: i64,
    versions: (i32, i32),
) -> sqlx::Result<Option<&'static str>> {
    let message = match service::undo_soul(handler.conn, handler.app, speaker.user.id, id, versions).await {
        Ok(Some(changed)) => {
            tracing::info!(agent.id = id, user.id = speaker.user.id, "an earlier personality is wanted again");
            handler.wake_jobs();
            texts::soul_undone(&changed)
        }
        Ok(None) => return Ok(Some(texts::ANOTHER_SOUL)),
        Err(error) => Handler::refusal(error)?,
    };
    handler.turn_into(pressed, message).await?;
    Ok(None)
}

/// The number's word and the words behind it, as they were written: over several lines, and indented where they begin
/// on a line of their own.
pub(super) fn id_and_words(argument: &str) -> (&str, &str) {
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
}
