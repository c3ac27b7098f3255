//! A Telegram user.

use std::panic::Location;

use base64::Engine as _;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{POLL, Simulator};

/// A user and a chat with the bot: the private one, or a group's.
#[derive(Clone, Copy)]
pub struct User<'a> {
    pub(super) simulator: &'a Simulator,
    pub id: i64,
    /// The user's own number in the private chat.
    pub chat: i64,
}

/// A file that a user sends.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The Bot API's field: `photo`, `document`, `voice`, `audio`, `video`, `video_note`, `animation`, `sticker`.
    kind: &'static str,
    fields: Value,
}

impl Upload {
    /// Any of the kinds, as a client names it.
    pub fn new(kind: &'static str, name: &str, mime: &str, bytes: &[u8]) -> Self {
        let content = base64::engine::general_purpose::STANDARD.encode(bytes);
        Self { kind, fields: json!({ "file_name": name, "mime_type": mime, "content_base64": content }) }
    }

    pub fn photo(bytes: &[u8]) -> Self {
        Self::new("photo", "photo.jpg", "image/jpeg", bytes)
    }

    pub fn document(name: &str, mime: &str, bytes: &[u8]) -> Self {
        Self::new("document", name, mime, bytes)
    }

    /// A voice note of so many seconds.
    pub fn voice(seconds: u32, bytes: &[u8]) -> Self {
        Self::new("voice", "", "audio/ogg", bytes).with("duration", seconds.into())
    }

    /// Tells of so many bytes, more than there are: what is too large needs no bytes.
    pub fn of_size(self, bytes: usize) -> Self {
        self.with("size", bytes.into())
    }

    /// Sets a field of the file as the Bot API names it.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.fields[field] = value;
        self
    }

    /// The body of a message with this file and a caption.
    fn message(&self, caption: &str) -> Value {
        json!({ self.kind: self.fields, "text": caption })
    }
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
    /// What else the Bot API's message has: `photo`, `document`, `reply_to_message`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
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

    /// Whether it is the whole of a new agent's hello.
    pub fn says_hello(&self) -> bool {
        self.text.starts_with("👋 Hello, I am ") && self.text.ends_with("Write to me!")
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
        Self { simulator, id, chat: id }
    }

    /// The same person in a group.
    pub fn within(self, group: i64) -> Self {
        Self { chat: group, ..self }
    }

    /// Sends a text; gives its `message_id` and `update_id`, and all `messages` where it was too long for one.
    #[track_caller]
    pub fn says(&self, text: &str) -> impl Future<Output = Value> + use<> {
        self.sends(json!({ "text": text }))
    }

    /// Sends whatever the simulator's `Written` can hold: `text`, files, `location`, `contact`, `reply_to`, `raw`.
    #[track_caller]
    pub fn sends(&self, written: Value) -> impl Future<Output = Value> + use<> {
        self.act("messages", written)
    }

    /// Sends a file with a caption, which may be empty.
    #[track_caller]
    pub fn sends_file(&self, upload: &Upload, caption: &str) -> impl Future<Output = Value> + use<> {
        self.sends(upload.message(caption))
    }

    /// Sends an album, whose first item has the caption; gives its `media_group_id` and `messages`.
    #[track_caller]
    pub fn sends_album(&self, uploads: &[Upload], caption: &str) -> impl Future<Output = Value> + use<> {
        let captions = std::iter::once(caption).chain(std::iter::repeat(""));
        let items: Vec<Value> = uploads.iter().zip(captions).map(|(upload, caption)| upload.message(caption)).collect();
        self.act("albums", json!({ "items": items }))
    }

    #[track_caller]
    pub fn sends_location(&self, latitude: f64, longitude: f64) -> impl Future<Output = Value> + use<> {
        self.sends(json!({ "location": { "latitude": latitude, "longitude": longitude } }))
    }

    /// Answers a message of the chat with a text.
    #[track_caller]
    pub fn replies(&self, to: i64, text: &str) -> impl Future<Output = Value> + use<> {
        self.sends(json!({ "text": text, "reply_to": to }))
    }

    /// Changes an own message: its text, or its caption where it has a file.
    #[track_caller]
    pub fn edits(&self, message_id: i64, text: &str) -> impl Future<Output = Value> + use<> {
        let body = self.signed(json!({ "text": text }));
        self.simulator.ask(Method::PUT, &format!("{}/messages/{message_id}", self.place()), Some(body))
    }

    /// Blocks the bot.
    #[track_caller]
    pub fn blocks(&self) -> impl Future<Output = Value> + use<> {
        self.simulator.post(&format!("/sim/users/{}/block", self.id), json!({}))
    }

    #[track_caller]
    pub fn unblocks(&self) -> impl Future<Output = Value> + use<> {
        self.simulator.post(&format!("/sim/users/{}/unblock", self.id), json!({}))
    }

    #[track_caller]
    fn act(&self, what: &str, body: Value) -> impl Future<Output = Value> + use<> {
        self.simulator.post(&format!("{}/{what}", self.place()), self.signed(body))
    }

    fn place(&self) -> String {
        if self.chat == self.id { format!("/sim/users/{}", self.id) } else { format!("/sim/groups/{}", self.chat) }
    }

    /// In a group the simulator is told who it is.
    fn signed(&self, mut body: Value) -> Value {
        if self.chat != self.id {
            body["from"] = self.id.into();
        }
        body
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
    fn send_press(&self, mut body: Value) -> impl Future<Output = String> + use<'a> {
        let simulator = self.simulator;
        if self.chat != self.id {
            body["chat_id"] = self.chat.into();
        }
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
        let messages = self.simulator.get(&format!("/sim/chats/{}/messages", self.chat));
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

    /// Creates an agent by the wizard and waits until it runs and has said hello; gives its number.
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
                    // It says hello by itself where it is the one being talked to.
                    if rest.lines().next().is_some_and(|line| line.contains("you are talking to it")) {
                        // Its words are Markdown, so that a name may look different in them.
                        self.wait_for(|m| m.message_id > question.message_id && m.says_hello()).await;
                    }
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
