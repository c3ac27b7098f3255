//! Who talks to whom: users, chats, messages, and how the Bot API shows them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::entities::{Entity, Formatted};
use super::updates::Updates;

/// Versions of a message that are kept; older ones are only counted.
const KEPT_EDITS: usize = 500;
/// Messages a chat keeps.
const KEPT_MESSAGES: usize = 5_000;
/// Callback queries that can still be answered.
const KEPT_CALLBACKS: usize = 20_000;

/// Everything that the simulator knows. Held under one lock, never across I/O.
#[derive(Serialize, Deserialize)]
pub(crate) struct World {
    pub bot: Profile,
    pub users: BTreeMap<i64, User>,
    pub chats: HashMap<i64, Chat>,
    pub updates: Updates,
    /// The last message id given away. A bot has one counter for all its private chats and basic groups.
    pub last_message_id: i64,
    pub last_group: i64,
    #[serde(skip)]
    pub callbacks: HashMap<String, Callback>,
    #[serde(skip)]
    pub callback_order: VecDeque<String>,
    #[serde(skip)]
    pub files: super::files::Files,
    /// Messages a second that a chat accepts; unlimited where `None`.
    #[serde(skip)]
    pub per_chat_per_second: Option<f64>,
    #[serde(skip)]
    pub changed: bool,
}

/// What the bot tells about itself.
#[derive(Serialize, Deserialize)]
pub(crate) struct Profile {
    pub id: i64,
    pub username: String,
    pub name: String,
    pub description: String,
    pub short_description: String,
    /// By scope (as JSON text) and language.
    pub commands: Vec<CommandSet>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CommandSet {
    pub scope: Value,
    pub language_code: String,
    pub commands: Vec<Command>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Command {
    pub command: String,
    pub description: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub id: i64,
    pub first_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_code: Option<String>,
}

impl User {
    /// A user nobody has described yet.
    fn stranger(id: i64) -> Self {
        const NAMES: [&str; 8] = ["Alice", "Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi"];
        let known = usize::try_from(id - 1).ok().and_then(|at| NAMES.get(at));
        let first_name = known.map_or_else(|| format!("User {id}"), |name| (*name).to_owned());
        let username = known.map(|name| name.to_ascii_lowercase());
        Self { id, first_name, last_name: None, username, language_code: Some("en".into()) }
    }

    pub fn json(&self) -> Value {
        let mut value = json!(self);
        value["is_bot"] = false.into();
        value
    }
}

/// Where the bot stands in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// A private chat in which the user has not written yet.
    Unknown,
    Member,
    /// Blocked by the user, or kicked from the group.
    Banned,
    /// The bot left the group by itself.
    Left,
    /// The group became another chat.
    Migrated(i64),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Chat {
    pub id: i64,
    /// `None` for private chats.
    pub title: Option<String>,
    pub members: BTreeSet<i64>,
    pub standing: Standing,
    pub messages: BTreeMap<i64, Message>,
    /// Topics in which a user has written.
    pub threads: BTreeSet<i64>,
    #[serde(skip)]
    pub budget: Option<(std::time::Instant, f64)>,
    #[serde(skip)]
    pub feed: Option<broadcast::Sender<std::sync::Arc<str>>>,
}

impl Chat {
    pub fn new(id: i64, title: Option<String>) -> Self {
        let standing = if id > 0 { Standing::Unknown } else { Standing::Member };
        let (members, threads) = (BTreeSet::new(), BTreeSet::new());
        Self { id, title, members, standing, messages: BTreeMap::new(), threads, budget: None, feed: None }
    }

    /// Those who watch this chat's page get `event`.
    pub fn tell(&self, event: impl FnOnce() -> Value) {
        if let Some(feed) = self.feed.as_ref().filter(|_| self.is_watched()) {
            // silent-ok: the last watcher may have left in between
            let _ = feed.send(event().to_string().into()); // silent-ok: nobody watches
        }
    }

    /// Whether a page shows this chat.
    pub fn is_watched(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.receiver_count() > 0)
    }

    pub fn watch(&mut self) -> broadcast::Receiver<std::sync::Arc<str>> {
        self.feed.get_or_insert_with(|| broadcast::channel(256).0).subscribe()
    }

    pub fn keep(&mut self, message: Message) {
        self.messages.insert(message.message_id, message);
        while self.messages.len() > KEPT_MESSAGES {
            self.messages.pop_first();
        }
    }
}

/// A message of either side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub message_id: i64,
    /// The user who wrote it; `None` is the bot.
    pub from: Option<i64>,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    pub edited_ms: Option<i64>,
    /// Text, or caption where there is a file.
    pub content: Formatted,
    pub reply_markup: Option<Value>,
    /// Further fields of the Bot API's message: files, topic, service texts.
    pub extra: Map<String, Value>,
    pub edit_count: usize,
    /// Earlier versions, the oldest first.
    pub history: VecDeque<Version>,
    pub deleted: bool,
}

/// What a message was before an edit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Version {
    pub text: String,
    pub entities: Vec<Entity>,
    pub reply_markup: Option<Value>,
    /// When the message got this content, in milliseconds since 1970.
    pub at_ms: i64,
}

impl Message {
    pub fn new(message_id: i64, from: Option<i64>, content: Formatted, at_ms: i64) -> Self {
        Self {
            message_id,
            from,
            at_ms,
            edited_ms: None,
            content,
            reply_markup: None,
            extra: Map::new(),
            edit_count: 0,
            history: VecDeque::new(),
            deleted: false,
        }
    }

    pub fn has_media(&self) -> bool {
        const MEDIA: [&str; 8] = ["photo", "document", "voice", "audio", "video", "video_note", "animation", "sticker"];
        MEDIA.iter().any(|field| self.extra.contains_key(*field))
    }

    /// Replaces content and markup and keeps what they were.
    pub fn edit(&mut self, content: Formatted, reply_markup: Option<Value>, now_ms: i64) {
        let before = std::mem::replace(&mut self.content, content);
        let markup = std::mem::replace(&mut self.reply_markup, reply_markup);
        let at_ms = self.edited_ms.replace(now_ms).unwrap_or(self.at_ms);
        self.edit_count += 1;
        self.history.push_back(Version { text: before.text, entities: before.entities, reply_markup: markup, at_ms });
        if self.history.len() > KEPT_EDITS {
            self.history.pop_front();
        }
    }
}

/// A press that waits for `answerCallbackQuery`.
pub(crate) struct Callback {
    pub chat_id: i64,
    pub at: std::time::Instant,
    /// What the bot answered.
    pub answer: Option<Value>,
}

impl World {
    pub fn new(bot_id: i64, username: &str) -> Self {
        let name = username.strip_suffix("_bot").or(username.strip_suffix("bot")).unwrap_or(username);
        let mut letters = name.chars();
        let name = letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
        Self {
            bot: Profile {
                id: bot_id,
                username: username.to_owned(),
                name,
                description: String::new(),
                short_description: String::new(),
                commands: Vec::new(),
            },
            users: BTreeMap::new(),
            chats: HashMap::new(),
            updates: Updates::default(),
            last_message_id: 0,
            last_group: 1_000_000,
            callbacks: HashMap::new(),
            callback_order: VecDeque::new(),
            files: super::files::Files::default(),
            per_chat_per_second: None,
            changed: false,
        }
    }

    /// The user `id`, made up on first sight.
    pub fn user(&mut self, id: i64) -> &mut User {
        self.users.entry(id).or_insert_with(|| User::stranger(id))
    }

    /// The private chat with user `id`.
    pub fn private(&mut self, id: i64) -> &mut Chat {
        self.user(id);
        self.chats.entry(id).or_insert_with(|| Chat::new(id, None))
    }

    pub fn next_message_id(&mut self) -> i64 {
        self.changed = true;
        self.last_message_id += 1;
        self.last_message_id
    }

    pub fn bot_json(&self) -> Value {
        json!({ "id": self.bot.id, "is_bot": true, "first_name": self.bot.name, "username": self.bot.username })
    }

    /// The `Chat` object of the Bot API.
    pub fn chat_json(&self, id: i64) -> Value {
        if let Some(title) = self.chats.get(&id).and_then(|chat| chat.title.as_ref()) {
            return json!({ "id": id, "type": "group", "title": title });
        }
        let mut value = json!({ "id": id, "type": "private" });
        if let Some(user) = self.users.get(&id) {
            value["first_name"] = user.first_name.clone().into();
            for (name, text) in [("last_name", &user.last_name), ("username", &user.username)] {
                if let Some(text) = text {
                    value[name] = text.clone().into();
                }
            }
        }
        value
    }

    pub fn sender_json(&self, from: Option<i64>) -> Value {
        from.map_or_else(|| self.bot_json(), |id| self.users.get(&id).map_or(Value::Null, User::json))
    }

    /// The `Message` object of the Bot API.
    pub fn message_json(&self, chat_id: i64, message: &Message) -> Value {
        let mut value = Map::new();
        value.insert("message_id".into(), message.message_id.into());
        value.insert("from".into(), self.sender_json(message.from));
        value.insert("chat".into(), self.chat_json(chat_id));
        value.insert("date".into(), (message.at_ms / 1000).into());
        if let Some(edited) = message.edited_ms {
            value.insert("edit_date".into(), (edited / 1000).into());
        }
        let (text, entities) = if message.has_media() { ("caption", "caption_entities") } else { ("text", "entities") };
        if !message.content.text.is_empty() {
            value.insert(text.into(), message.content.text.clone().into());
            if !message.content.entities.is_empty() {
                value.insert(entities.into(), json!(message.content.entities));
            }
        }
        if let Some(markup) = message.reply_markup.as_ref().filter(|markup| markup.get("inline_keyboard").is_some()) {
            value.insert("reply_markup".into(), markup.clone());
        }
        for (name, field) in &message.extra {
            value.insert(name.clone(), field.clone());
        }
        Value::Object(value)
    }

    /// The message as `/sim` shows it, with its past.
    pub fn message_view(&self, message: &Message) -> Value {
        let history: Vec<Value> = message
            .history
            .iter()
            .map(|was| json!({ "text": was.text, "entities": was.entities, "reply_markup": was.reply_markup, "at_ms": was.at_ms }))
            .collect();
        let mut view = self.message_brief(message);
        view["edits"] = json!({ "count": message.edit_count, "history": history });
        view
    }

    /// Tells a chat's page that `message` is new ("message") or "edited".
    pub fn tell_message(&self, chat_id: i64, kind: &str, message: &Message) {
        if let Some(chat) = self.chats.get(&chat_id).filter(|chat| chat.is_watched()) {
            chat.tell(|| json!({ "type": kind, "message": self.message_brief(message) }));
        }
    }

    /// The message as the page needs it: without its past.
    pub fn message_brief(&self, message: &Message) -> Value {
        let mut view = json!({
            "message_id": message.message_id,
            "from": self.sender_json(message.from),
            "date": message.at_ms / 1000,
            "at_ms": message.at_ms,
            "edited_ms": message.edited_ms,
            "text": message.content.text,
            "entities": message.content.entities,
            "reply_markup": message.reply_markup,
            "deleted": message.deleted,
        });
        for (name, field) in &message.extra {
            if view.get(name).is_none() {
                view[name] = field.clone();
            }
        }
        view
    }

    pub fn keep_callback(&mut self, id: String, callback: Callback) {
        self.callback_order.push_back(id.clone());
        self.callbacks.insert(id, callback);
        while self.callback_order.len() > KEPT_CALLBACKS {
            if let Some(oldest) = self.callback_order.pop_front() {
                self.callbacks.remove(&oldest);
            }
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
