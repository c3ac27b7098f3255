//! `/create`: the wizard. Its state is in the chat's row; its buttons carry the dialogue's number and step.

use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::service::{self, NewAgent};
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::texts;
use crate::wake::Queue;

/// Begins the wizard anew, whatever was under way.
pub(super) async fn begin(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let place = speaker.place;
    // Better told now than after three answers.
    let slots = service::slots(handler.conn, handler.app, speaker.user.id).await;
    if let Err(error) = slots.and_then(|slots| slots.check()) {
        let words = Handler::refusal(error)?;
        return handler.say(place, words).await;
    }
    let id = conversation::begin_dialogue(handler.conn, place.bot_id, place.chat_id, &Dialogue::Name).await?;
    let question = ask(handler, id, &Dialogue::Name);
    handler.say(place, question).await
}

/// `/cancel`.
pub(super) async fn cancel(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let place = speaker.place;
    if speaker.conversation.dialogue.is_none() {
        return handler.say(place, texts::nothing_to_cancel()).await;
    }
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    handler.say(place, texts::cancelled()).await
}

/// An answer in words.
pub(super) async fn on_text(handler: &mut Handler<'_>, speaker: &Speaker, text: &str) -> Handled {
    let place = speaker.place;
    let next = match &speaker.conversation.dialogue {
        Some(Dialogue::Name) => service::validate_name(text).map(|name| Dialogue::Personality { name }),
        Some(Dialogue::Personality { name }) => {
            service::validate_prompt(text).map(|prompt| Dialogue::Model { name: name.clone(), prompt })
        }
        Some(Dialogue::Model { name, prompt }) => {
            // A model's id or name may be typed as well.
            let typed = text.trim();
            let models = &handler.app.config.models;
            match models.0.iter().find(|m| m.id.eq_ignore_ascii_case(typed) || m.name.eq_ignore_ascii_case(typed)) {
                Some(model) => {
                    Ok(Dialogue::Confirm { name: name.clone(), prompt: prompt.clone(), model: model.id.clone() })
                }
                None => return handler.say(place, texts::press_a_button()).await,
            }
        }
        Some(Dialogue::Confirm { .. }) | None => return handler.say(place, texts::press_a_button()).await,
    };
    match next {
        Ok(next) => {
            conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, Some(&next)).await?;
            let question = ask(handler, speaker.conversation.dialogue_id, &next);
            handler.say(place, question).await
        }
        // The step stays; the next message is another try.
        Err(error) => {
            let words = Handler::refusal(error)?;
            handler.say(place, words).await
        }
    }
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
            handler.turn_into(pressed, texts::cancelled()).await?;
            return Ok(None);
        }
        (Dialogue::Personality { name }, "default") => {
            Dialogue::Model { name: name.clone(), prompt: texts::default_personality(name) }
        }
        (Dialogue::Model { name, prompt }, number) => {
            let Some(model) = number.parse().ok().and_then(|n: usize| handler.app.config.models.0.get(n)) else {
                return Ok(Some(texts::OLD_BUTTON));
            };
            Dialogue::Confirm { name: name.clone(), prompt: prompt.clone(), model: model.id.clone() }
        }
        (Dialogue::Confirm { name, prompt, model }, "yes") => {
            create(handler, speaker, pressed, (name, prompt, model)).await?;
            return Ok(None);
        }
        _ => return Ok(Some(texts::OLD_BUTTON)),
    };
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, Some(&next)).await?;
    let question = ask(handler, id, &next);
    handler.turn_into(pressed, question).await?;
    Ok(None)
}

async fn create(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    (name, prompt, model): (&str, &str, &str),
) -> Handled {
    let place = speaker.place;
    // The dialogue ends either way: what the service refuses now no other press will change.
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    handler.turn_into(pressed, (texts::creating(name), vec![])).await?;
    let new = NewAgent {
        owner_id: speaker.user.id,
        bot_id: place.bot_id,
        chat_id: place.chat_id,
        name: name.into(),
        system_prompt: prompt.into(),
        model: model.into(),
        visibility: handler.app.config.default_visibility,
    };
    match service::create(handler.conn, handler.app, new).await {
        Ok(agent) => {
            tracing::info!(agent.id, user.id = speaker.user.id, "an agent was created");
            handler.wake(Queue::Jobs);
            handler.wake(Queue::Outbox);
            Ok(())
        }
        Err(error) => {
            let words = Handler::refusal(error)?;
            handler.say(place, words).await
        }
    }
}

fn ask(handler: &Handler<'_>, id: i64, dialogue: &Dialogue) -> texts::Message {
    let config = &handler.app.config;
    texts::question(id, dialogue, &config.models, &config.default_model)
}
