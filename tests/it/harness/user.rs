//! A Telegram user.

use std::panic::Location;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{POLL, Simulator};

/// A user and the private chat with the bot.
#[derive(Clone, Copy)]
pub struct User<'a> {
    simulator: &'a Simulator,
    pub id: i64,
}

/// A message as the user sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Message {
    pub message_id: i64,
    pub from: From,
    pub text: String,
    #[serde(default)]
    pub entities: Vec<Value>,
    #[serde(default)]
    pub reply_markup: Option<Value>,
    /// Earlier states, as the simulator keeps them.
    #[serde(default)]
    pub edits: Value,
    #[serde(default)]
    pub deleted: bool,
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct From {
    pub id: i64,
    pub is_bot: bool,
}

/// An inline button.
#[derive(Debug, Clone, PartialEq)]
pub struct Button {
    pub label: String,
    pub data: String,
}

impl Message {
    /// Whether the bot wrote it, and it is still there.
    pub fn is_reply(&self) -> bool {
        self.from.is_bot && !self.deleted
    }

    /// The buttons that press something.
    pub fn buttons(&self) -> Vec<Button> {
        let rows = self.reply_markup.as_ref().and_then(|markup| markup["inline_keyboard"].as_array());
        let buttons = rows.into_iter().flatten().filter_map(Value::as_array).flatten();
        buttons
            .filter_map(|button| {
                let (label, data) = (button["text"].as_str()?, button["callback_data"].as_str()?);
                Some(Button { label: label.into(), data: data.into() })
            })
            .collect()
    }
}

impl<'a> User<'a> {
    pub(super) fn new(simulator: &'a Simulator, id: i64) -> Self {
        Self { simulator, id }
    }

    /// Sends a text; gives its `message_id` and `update_id`.
    #[track_caller]
    pub fn says(&self, text: &str) -> impl Future<Output = Value> + use<> {
        self.simulator.post(&format!("/sim/users/{}/messages", self.id), json!({ "text": text }))
    }

    /// Sends a text and waits for an answer below it that contains `part`.
    #[track_caller]
    pub fn asks(&self, text: &str, part: &str) -> impl Future<Output = Message> {
        let caller = Location::caller();
        let said = self.says(text);
        async move {
            let below = said.await["message_id"].as_i64().unwrap();
            self.waits(caller, |messages| {
                messages.iter().find(|m| m.is_reply() && m.message_id > below && m.text.contains(part)).cloned()
            })
            .await
        }
    }

    /// Presses the button with this `callback_data`; gives the `query_id`.
    #[track_caller]
    pub fn press(&self, message_id: i64, data: &str) -> impl Future<Output = String> + use<'a> {
        self.send_press(json!({ "message_id": message_id, "data": data }))
    }

    /// Presses a button that isn't there, as a hostile client can; gives the `query_id`.
    #[track_caller]
    pub fn forges(&self, message_id: i64, data: &str) -> impl Future<Output = String> + use<'a> {
        self.send_press(json!({ "message_id": message_id, "data": data, "forge": true }))
    }

    #[track_caller]
    fn send_press(&self, body: Value) -> impl Future<Output = String> + use<'a> {
        let simulator = self.simulator;
        let press = simulator.post(&format!("/sim/users/{}/press", self.id), body);
        async move {
            let query = press.await["query_id"].as_str().unwrap().to_owned();
            simulator.presses.lock().unwrap().push(query.clone());
            query
        }
    }

    /// Waits for a button whose label contains `label`, in the newest message that has one, and presses it; gives the
    /// `query_id`.
    #[track_caller]
    pub fn presses(&self, label: &str) -> impl Future<Output = String> {
        let found = self.wait_until(move |messages| {
            messages.iter().rev().filter(|message| message.is_reply()).find_map(|message| {
                let button = message.buttons().into_iter().find(|button| button.label.contains(label))?;
                Some((message.message_id, button.data))
            })
        });
        async move {
            let (message_id, data) = found.await;
            self.press(message_id, &data).await
        }
    }

    /// The chat, oldest first, with deleted messages.
    #[track_caller]
    pub fn messages(&self) -> impl Future<Output = Vec<Message>> {
        let messages = self.simulator.get(&format!("/sim/chats/{}/messages", self.id));
        async move {
            let messages = messages.await;
            serde_json::from_value(messages.clone()).unwrap_or_else(|error| panic!("{error} in {messages}"))
        }
    }

    /// Waits for a message of the bot and gives the newest one that fits.
    #[track_caller]
    pub fn wait_for(&self, fits: impl Fn(&Message) -> bool) -> impl Future<Output = Message> {
        self.wait_until(move |messages| messages.iter().rev().find(|m| m.is_reply() && fits(m)).cloned())
    }

    /// Waits until the chat shows something; panics with the chat if it doesn't.
    #[track_caller]
    pub fn wait_until<T>(&self, look: impl Fn(&[Message]) -> Option<T>) -> impl Future<Output = T> {
        self.waits(Location::caller(), look)
    }

    async fn waits<T>(&self, caller: &Location<'_>, look: impl Fn(&[Message]) -> Option<T>) -> T {
        let deadline = Instant::now() + self.simulator.patience;
        loop {
            let messages = self.messages().await;
            if let Some(found) = look(&messages) {
                return found;
            }
            if Instant::now() > deadline {
                panic!("{caller}: what was waited for didn't come; the chat of user {}:\n{}", self.id, chat(&messages));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Creates an agent by the wizard and waits until it runs; gives its number.
    #[track_caller]
    pub fn creates_agent(&self, name: &str, personality: &str) -> impl Future<Output = i64> {
        let caller = Location::caller();
        async move {
            self.says("/create").await;
            self.wait_for(|m| m.text.contains("1 of 3")).await;
            self.says(name).await;
            self.wait_for(|m| m.text.contains("2 of 3") && m.text.contains(name)).await;
            self.says(personality).await;
            let question = self.wait_for(|m| m.text.contains("3 of 3") && m.text.contains(name)).await;
            self.press(question.message_id, &question.buttons()[0].data).await;
            self.presses("✅ Create").await;
            let card = format!("🟢 {name}");
            loop {
                // The list is asked for anew each time, because it doesn't change by itself.
                let before = self.messages().await.last().map_or(0, |last| last.message_id);
                self.says("/list").await;
                let listed = |m: &Message| m.text.contains("Your agents") || m.text.contains("no agents yet");
                let list = self.wait_for(|m| m.message_id > before && listed(m)).await;
                assert!(!list.text.contains(&format!("🔴 {name}")), "{caller}: {name} failed:\n{}", list.text);
                if let Some((_, rest)) = list.text.split_once(&card) {
                    let number = rest.trim_start_matches(" · no. ");
                    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
                    return digits.parse().unwrap_or_else(|_| panic!("{caller}: no number in {}", list.text));
                }
                tokio::time::sleep(POLL * 8).await;
            }
        }
    }
}

fn chat(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        let who = if message.from.is_bot { "bot " } else { "user" };
        let gone = if message.deleted { " (deleted)" } else { "" };
        text.push_str(&format!("  {:>4} {who}{gone} {:?}\n", message.message_id, message.text));
        for button in message.buttons() {
            text.push_str(&format!("            [{}] {}\n", button.label, button.data));
        }
    }
    text
}
