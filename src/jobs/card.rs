//! The one message in which an owner watches an agent come to life: a pure function of what is known.

use teloxide_core::types::InlineKeyboardButton;

use super::model::Step;
use crate::agents::Agent;
use crate::config::Visibility;
use crate::telegram::callback::Press;
use crate::telegram::markdown::Formatted;
use crate::telegram::outbox::Call;
use crate::telegram::text::{Buttons, Place, Text, edit_message, send_message};

const WAY: [Step; 5] = [Step::Place, Step::Install, Step::Start, Step::Health, Step::Finish];

/// What the card tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scene {
    /// The job is at this step of making the agent ready.
    Working {
        /// What it is about to do, or is doing.
        step: Step,
        /// Why it has to do it again.
        trouble: Option<String>,
    },
    /// The job takes away what it made.
    Undoing,
    /// The agent answers.
    Ready {
        /// The bot's user name, if known.
        bot_username: Option<String>,
    },
    /// It could not be made ready.
    Failed {
        /// In words for the owner.
        reason: String,
    },
    /// It was deleted before it was ready.
    Deleted,
}

/// A message's text and buttons.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// What it says.
    pub text: Formatted,
    /// Rows of buttons.
    pub buttons: Buttons,
}

/// The card of an agent.
pub fn card(agent: &Agent, scene: &Scene) -> Card {
    let name = &agent.name;
    match scene {
        Scene::Working { step, trouble } => {
            let mut body = String::from(" is being set up…\n");
            let current = WAY.iter().position(|s| s == step).unwrap_or(WAY.len());
            for (place, step) in WAY.iter().enumerate() {
                let mark = match place.cmp(&current) {
                    std::cmp::Ordering::Less => "✅",
                    std::cmp::Ordering::Equal if trouble.is_some() => "⚠️",
                    std::cmp::Ordering::Equal => "⏳",
                    std::cmp::Ordering::Greater => "▫️",
                };
                body.push_str(&format!("\n{mark} {}", label(*step)));
            }
            if let Some(trouble) = trouble {
                body.push_str(&format!("\n\nThat did not work yet: {trouble}. Trying again shortly."));
            }
            build("🤖 ", name, &body, vec![])
        }
        Scene::Undoing => build("🧹 ", name, ": clearing away what was set up…", vec![]),
        Scene::Ready { bot_username } => {
            let body = match (agent.visibility, bot_username) {
                (Visibility::Public, Some(bot)) => format!(
                    " is ready! Send it a message.\n\nShare it: https://t.me/{bot}?start=agent_{}\nWhoever follows \
                     this link gets a conversation of their own with it.",
                    agent.id
                ),
                (Visibility::Public, None) => " is ready! Send it a message.".to_owned(),
                (Visibility::Unlisted, _) => " is ready! Send it a message. Only you can open it.".to_owned(),
            };
            let buttons = vec![Press::Chat(agent.id).button("💬 Chat"), Press::Manage(agent.id).button("🛠 Manage")];
            build("✅ ", name, &body, buttons)
        }
        Scene::Failed { reason } => {
            let body = format!(
                " could not be set up: {reason}.\n\nEverything that was started for it has been removed again. Its \
                 name, personality and model are kept, so you can try again."
            );
            let buttons =
                vec![Press::Retry(agent.id).button("🔁 Try again"), Press::Delete(agent.id).button("🗑 Delete")];
            build("❌ ", name, &body, buttons)
        }
        Scene::Deleted => build("🗑 ", name, " was deleted.", vec![]),
    }
}

fn label(step: Step) -> &'static str {
    match step {
        Step::Place => "Find a place for it",
        Step::Create => "Get a machine",
        Step::Reach => "Wait for the machine",
        Step::Prepare => "Prepare the machine",
        Step::Store => "Keep it ready",
        Step::Restore => "Go back to what worked",
        Step::Install => "Install it",
        Step::Start => "Start it",
        Step::Health => "Wait until it answers",
        Step::Finish => "Open it for you",
        Step::Stop => "Stop it",
        Step::Remove => "Remove it",
        Step::End => "Forget it",
    }
}

/// The agent's name in bold between plain words, for names are hostile.
fn build(before: &str, name: &str, after: &str, buttons: Vec<InlineKeyboardButton>) -> Card {
    Card {
        text: Text::plain(before).then_bold(name).then(after).done(),
        buttons: if buttons.is_empty() { vec![] } else { vec![buttons] },
    }
}

impl Card {
    /// The call that sends it as a new message.
    pub fn message(self, bot_id: i64, chat_id: i64) -> Call {
        let place = Place { bot_id, chat_id, thread_id: None };
        Call::reply(bot_id, chat_id, &send_message(place, &self.text, self.buttons))
    }

    /// The call that puts it in place of the message that outbox row `edits` sent.
    pub fn edit(self, bot_id: i64, chat_id: i64, edits: i64) -> Call {
        let place = Place { bot_id, chat_id, thread_id: None };
        // The sender puts the message's id in, which is known only once Telegram has answered.
        Call::reply(bot_id, chat_id, &edit_message(place, 0, &self.text, self.buttons)).editing(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::model::tests::agent;

    #[test]
    fn steps_are_shown_as_done_current_and_to_come() {
        let working = |trouble: Option<&str>| {
            card(&agent("Ada"), &Scene::Working { step: Step::Start, trouble: trouble.map(str::to_owned) }).text.text
        };
        assert_eq!(
            working(None),
            "🤖 Ada is being set up…\n\n✅ Find a place for it\n✅ Install it\n⏳ Start it\n▫️ Wait until it answers\n▫️ Open it for you"
        );
        assert!(
            working(Some("the disk is full"))
                .ends_with("That did not work yet: the disk is full. Trying again shortly.")
        );
        assert!(working(Some("x")).contains("⚠️ Start it"));
    }

    #[test]
    fn a_hostile_name_is_plain_text_in_bold() {
        let name = "<b>*_[x](tg://user?id=1) 👩\u{200d}🚀";
        for scene in [Scene::Undoing, Scene::Deleted, Scene::Ready { bot_username: None }] {
            let card = card(&agent(name), &scene);
            let entity = &card.text.entities[0];
            let units: Vec<u16> = card.text.text.encode_utf16().skip(entity.offset).take(entity.length).collect();
            assert_eq!(String::from_utf16(&units).expect("whole characters"), name);
            let payload: serde_json::Value = serde_json::from_str(&card.edit(1, 2, 3).payload).expect("JSON");
            assert_eq!((payload.get("parse_mode"), &payload["message_id"]), (None, &0.into()));
        }
    }

    #[test]
    fn the_link_is_there_only_if_it_would_work() {
        let ready = |visibility, bot: Option<&str>| {
            let mut agent = agent("Ada");
            agent.visibility = visibility;
            card(&agent, &Scene::Ready { bot_username: bot.map(str::to_owned) }).text.text
        };
        assert!(ready(Visibility::Public, Some("baal_bot")).contains("https://t.me/baal_bot?start=agent_5"));
        assert!(!ready(Visibility::Public, None).contains("t.me"));
        assert!(!ready(Visibility::Unlisted, Some("baal_bot")).contains("t.me"));
    }

    #[test]
    fn a_failure_says_what_happened_and_what_can_be_done() {
        let card = card(&agent("Ada"), &Scene::Failed { reason: "the disk is full".into() });
        assert!(card.text.text.starts_with("❌ Ada could not be set up: the disk is full."));
        let buttons = serde_json::to_string(&card.buttons).expect("JSON");
        assert!(buttons.contains("retry:5") && buttons.contains("delete:5"), "{buttons}");
    }

    #[test]
    fn even_the_longest_card_fits_a_message() {
        let agent = agent(&"👩".repeat(64));
        let scene = Scene::Working { step: Step::Finish, trouble: Some("x".repeat(200)) };
        assert!(card(&agent, &scene).text.text.encode_utf16().count() < 4096);
    }
}
