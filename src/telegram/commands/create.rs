//! `/create`: the wizard. Its state is in the chat's row; its buttons carry the dialogue's number and step.

use super::{Handled, Handler, Pressed, Speaker, invite};
use crate::agents::service::{self, NewAgent};
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::cut::{Cut, cut};
use crate::telegram::markdown::Formatted;
use crate::telegram::outbox::Call;
use crate::telegram::text::edit_message;
use crate::telegram::texts;
use crate::telegram::update::Message;

/// Begins the wizard anew, whatever was under way.
pub(super) async fn begin(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let place = speaker.place;
    if !invite::admits(handler, speaker).await? {
        return Ok(());
    }
    // Better told now than after three answers.
    let slots = service::slots(handler.conn, handler.app, speaker.user.id).await;
    if let Err(error) = slots.and_then(|slots| slots.check()) {
        let words = Handler::refusal(error)?;
        return handler.say(place, words).await;
    }
    forget_question(handler, speaker).await?;
    let id = conversation::begin_dialogue(handler.conn, place.bot_id, place.chat_id, &Dialogue::Name).await?;
    ask(handler, speaker, id, &Dialogue::Name).await
}

/// `/cancel`.
pub(super) async fn cancel(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let place = speaker.place;
    let Some(dialogue) = speaker.conversation.dialogue.as_ref().filter(|d| !matches!(d, Dialogue::SoulRest { .. }))
    else {
        return handler.say(place, texts::nothing_to_cancel()).await;
    };
    forget_question(handler, speaker).await?;
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    handler.say(place, texts::cancelled(dialogue)).await
}

/// An answer in words.
pub(super) async fn on_text(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message, text: &str) -> Handled {
    let place = speaker.place;
    let Some(dialogue) = &speaker.conversation.dialogue else {
        return handler.say(place, texts::press_a_button()).await;
    };
    let next = match dialogue {
        Dialogue::Name => service::validate_name(text).map(|name| (name.clone(), Dialogue::Personality { name })),
        Dialogue::Personality { name } => service::validate_prompt(text)
            .map(|prompt| (prompt.clone(), Dialogue::Model { name: name.clone(), prompt, cut: cut(message, text) })),
        Dialogue::Model { name, prompt, cut } => {
            // A model's id or name may be typed as well.
            let typed = text.trim();
            let models = &handler.app.config.models;
            match models.0.iter().find(|m| m.id.eq_ignore_ascii_case(typed) || m.name.eq_ignore_ascii_case(typed)) {
                Some(model) => Ok((
                    model.name.clone(),
                    Dialogue::Confirm {
                        name: name.clone(),
                        prompt: prompt.clone(),
                        model: model.id.clone(),
                        visibility: None,
                    },
                )),
                None => {
                    return match cut.filter(|cut| cut.is_followed(message.date)) {
                        Some(cut) => add_rest(handler, speaker, message, (name, prompt, cut), text).await,
                        None => handler.say(place, texts::press_a_button()).await,
                    };
                }
            }
        }
        _ => return handler.say(place, texts::press_a_button()).await,
    };
    match next {
        Ok((answer, next)) => {
            let answered = texts::answered(dialogue, &answer, &handler.app.config);
            strip(handler, speaker, &answered).await?;
            conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, Some(&next)).await?;
            ask(handler, speaker, speaker.conversation.dialogue_id, &next).await
        }
        // The step stays; the next message is another try.
        Err(error) => {
            let words = Handler::refusal(error)?;
            handler.say(place, words).await
        }
    }
}

/// The rest of a personality that the client cut into several messages; the question for the model stays open.
async fn add_rest(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    message: &Message,
    (name, prompt, earlier): (&str, &str, Cut),
    text: &str,
) -> Handled {
    let place = speaker.place;
    let words = match service::validate_prompt(&earlier.join(prompt, text)) {
        Ok(prompt) => {
            let words = texts::personality_rest(&prompt);
            let whole = Dialogue::Model { name: name.to_owned(), prompt, cut: cut(message, text) };
            conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, Some(&whole)).await?;
            words
        }
        Err(error) => {
            // Better none than half of one.
            let again = Dialogue::Personality { name: name.to_owned() };
            conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, Some(&again)).await?;
            Handler::refusal(error)?
        }
    };
    handler.say(place, words).await
}

/// An answer by button. Returns what to show the presser for a moment.
pub(super) async fn on_press(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    id: i64,
    step: &str,
    choice: &str,
) -> sqlx::Result<Option<&'static str>> {
    let place = speaker.place;
    let conversation = &speaker.conversation;
    let Some(dialogue) = conversation.dialogue.as_ref().filter(|d| conversation.dialogue_id == id && d.step() == step)
    else {
        return Ok(Some(texts::OLD_BUTTON));
    };
    let next = match (dialogue, choice) {
        (_, "cancel") => {
            conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
            conversation::set_question(handler.conn, place.bot_id, place.chat_id, None).await?;
            handler.turn_into(pressed, texts::cancelled(dialogue)).await?;
            return Ok(None);
        }
        (Dialogue::Personality { name }, "default") => {
            Dialogue::Model { name: name.clone(), prompt: texts::default_personality(name), cut: None }
        }
        (Dialogue::Model { name, prompt, .. }, number) => {
            let Some(model) = number.parse().ok().and_then(|n: usize| handler.app.config.models.0.get(n)) else {
                return Ok(Some(texts::OLD_BUTTON));
            };
            Dialogue::Confirm { name: name.clone(), prompt: prompt.clone(), model: model.id.clone(), visibility: None }
        }
        (Dialogue::Confirm { name, prompt, model, visibility }, "yes") => {
            let new = NewAgent {
                owner_id: speaker.user.id,
                bot_id: place.bot_id,
                chat_id: place.chat_id,
                name: name.clone(),
                system_prompt: prompt.clone(),
                model: model.clone(),
                visibility: visibility.unwrap_or(handler.app.config.default_visibility),
            };
            create(handler, speaker, pressed, new).await?;
            return Ok(None);
        }
        (Dialogue::Confirm { name, prompt, model, .. }, visibility) => {
            let Ok(visibility) = visibility.parse() else { return Ok(Some(texts::OLD_BUTTON)) };
            Dialogue::Confirm {
                name: name.clone(),
                prompt: prompt.clone(),
                model: model.clone(),
                visibility: Some(visibility),
            }
        }
        _ => return Ok(Some(texts::OLD_BUTTON)),
    };
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, Some(&next)).await?;
    let question = texts::question(id, &next, &handler.app.config);
    handler.turn_into(pressed, question).await?;
    Ok(None)
}

async fn create(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed, new: NewAgent) -> Handled {
    let place = speaker.place;
    // The dialogue ends either way: what the service refuses now no other press will change.
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    conversation::set_question(handler.conn, place.bot_id, place.chat_id, None).await?;
    handler.turn_into(pressed, (texts::creating(&new.name), vec![])).await?;
    match service::create(handler.conn, handler.app, new).await {
        Ok(agent) => {
            tracing::info!(agent.id, user.id = speaker.user.id, "an agent was created");
            handler.wake_jobs();
            Ok(())
        }
        Err(error) => {
            let words = Handler::refusal(error)?;
            handler.say(place, words).await
        }
    }
}

/// Asks a question, and notes which message it is.
async fn ask(handler: &mut Handler<'_>, speaker: &Speaker, id: i64, dialogue: &Dialogue) -> Handled {
    let place = speaker.place;
    let row = handler.post(place, texts::question(id, dialogue, &handler.app.config)).await?;
    conversation::set_question(handler.conn, place.bot_id, place.chat_id, Some(row)).await
}

/// Something else begins: who was creating an agent is told that this is over.
pub(super) async fn give_up(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    if !speaker.conversation.dialogue.as_ref().is_some_and(Dialogue::is_wizard) {
        return Ok(());
    }
    forget_question(handler, speaker).await?;
    handler.say(speaker.place, texts::creation_given_up()).await
}

/// Takes the buttons from a question that nobody will answer any more.
async fn forget_question(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let Some(dialogue) = speaker.conversation.dialogue.as_ref().filter(|d| d.is_wizard()) else { return Ok(()) };
    let unanswered = texts::unanswered(dialogue, &handler.app.config);
    strip(handler, speaker, &unanswered).await?;
    conversation::set_question(handler.conn, speaker.place.bot_id, speaker.place.chat_id, None).await
}

/// Puts these words, without buttons, in place of the open question.
async fn strip(handler: &mut Handler<'_>, speaker: &Speaker, text: &Formatted) -> Handled {
    let (place, Some(row)) = (speaker.place, speaker.conversation.question) else { return Ok(()) };
    let edit = edit_message(place, 0, text, vec![]);
    handler.call(&Call::reply(place.bot_id, place.chat_id, &edit).editing(row)).await.map(drop)
}
