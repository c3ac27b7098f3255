//! The questions of `/create`.

use super::{Message, excerpt, visibility};
use crate::config::{Config, Visibility};
use crate::telegram::callback::Press;
use crate::telegram::conversation::Dialogue;
use crate::telegram::markdown::Formatted;
use crate::telegram::text::{Buttons, Text};
use teloxide_core::types::InlineKeyboardButton;

/// The question of a wizard's step.
pub fn question(id: i64, dialogue: &Dialogue, config: &Config) -> Message {
    let models = &config.models;
    let press = |choice: &str| Press::Dialogue { id, step: dialogue.step().into(), choice: choice.into() };
    let cancel = press("cancel").button("❌ Cancel");
    match dialogue {
        Dialogue::Name => {
            let text = Text::bold("New agent, 1 of 3: the name")
                .then("\n\nWhat should it be called? Send 1 to 64 characters, or /cancel.");
            (text.done(), vec![vec![cancel]])
        }
        Dialogue::Personality { name } => {
            let text = Text::bold("New agent, 2 of 3: the personality")
                .then("\n\nHow should ")
                .then_bold(name)
                .then(" be? Describe who it is, how it speaks and what it is for, in your own words. ")
                .then("Or take a friendly all-rounder.");
            (text.done(), vec![vec![press("default").button("🙂 Friendly all-rounder")], vec![cancel]])
        }
        Dialogue::Model { name, .. } => {
            let mut text = Text::bold("New agent, 3 of 3: the model")
                .then("\n\nWhich model should ")
                .then_bold(name)
                .then(" think with?\n");
            let mut buttons = Buttons::new();
            let preferred = models.0.iter().position(|model| model.id == config.default_model);
            for (index, model) in models.0.iter().enumerate() {
                text = text.then("\n• ").then_bold(&model.name);
                if !model.description.is_empty() {
                    text = text.then(": ").then(&model.description);
                }
                // By number: a model's id may be longer than a button's data.
                let note = if Some(index) == preferred { " (suggested)" } else { "" };
                buttons.push(vec![press(&index.to_string()).button(format!("{}{note}", model.name))]);
            }
            buttons.push(vec![cancel]);
            (text.done(), buttons)
        }
        Dialogue::Confirm { name, prompt, model, visibility } => {
            let shared = visibility.unwrap_or(config.default_visibility);
            let (label, means) = self::visibility(shared);
            let model = models.get(model).map_or(model.as_str(), |model| &model.name);
            let text = Text::bold("Create this agent?")
                .then("\n\nName: ")
                .then_bold(name)
                .then("\nModel: ")
                .then_bold(model)
                .then("\nSharing: ")
                .then_bold(label)
                .then(": ")
                .then(means)
                .then("\n\nPersonality:\n")
                .then_quote(excerpt(prompt, 1_000));
            let others = [Visibility::Public, Visibility::Unlisted, Visibility::Private].into_iter();
            let others = others.filter(|other| *other != shared);
            let change = others.map(|other| press(other.as_str()).button(self::visibility(other).0));
            (text.done(), vec![vec![press("yes").button("✅ Create"), cancel], change.collect()])
        }
        _ => press_a_button(),
    }
}

/// A question that was answered in words, without its buttons.
pub fn answered(asked: &Dialogue, answer: &str, config: &Config) -> Formatted {
    let (question, _) = question(0, asked, config);
    Text::from(question).then("\n\n✅ ").then_bold(excerpt(answer, 64)).done()
}

/// A question that was not answered, without its buttons.
pub fn unanswered(asked: &Dialogue, config: &Config) -> Formatted {
    question(0, asked, config).0
}

/// The rest of a personality that a client cut has been added.
pub fn personality_rest(prompt: &str) -> Message {
    let words = format!(
        "➕ The rest was added: the personality has {} characters in all. Now choose the model above.",
        prompt.chars().count()
    );
    (Text::plain(words).done(), vec![])
}

/// The personality behind the one-tap choice.
pub fn default_personality(name: &str) -> String {
    format!(
        "You are {name}, a friendly and capable assistant. You answer clearly and briefly, ask back when something is \
         unclear, admit what you do not know, and speak the language of whoever writes to you."
    )
}

/// A step that wants a button got words.
pub fn press_a_button() -> Message {
    (Text::plain("Please press one of the buttons above, or /cancel.").done(), vec![])
}

/// A dialogue was left.
pub fn cancelled(dialogue: &Dialogue) -> Message {
    match dialogue.is_wizard() {
        true => (
            Text::plain("Cancelled. Nothing was created.").done(),
            vec![vec![Press::Create.button("✨ Create an agent")]],
        ),
        false => (Text::plain("Cancelled. Nothing was changed.").done(), vec![]),
    }
}

/// Something else began in the middle of creating an agent.
pub fn creation_given_up() -> Message {
    (Text::plain("The agent that you were creating was given up. /create begins anew.").done(), vec![])
}

/// The button that leaves this dialogue, given its number.
pub fn cancel((id, dialogue): (i64, &Dialogue)) -> InlineKeyboardButton {
    let press = Press::Dialogue { id, step: dialogue.step().to_owned(), choice: "cancel".to_owned() };
    press.button("❌ Cancel")
}

/// `/cancel` with nothing under way.
pub fn nothing_to_cancel() -> Message {
    (Text::plain("There is nothing to cancel.").done(), vec![])
}

/// What the confirmation turns into.
pub fn creating(name: &str) -> Formatted {
    Text::plain("⏳ Creating ").then_bold(name).then(".").done()
}
