//! Updates on their way to the bot: one queue per chat, one per user for presses.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::world::now_ms;

/// Delivered updates that can be delivered again.
const KEPT_HISTORY: usize = 20_000;
/// Age in milliseconds after which Telegram gives an update up.
const LIFETIME_MS: i64 = 24 * 3600 * 1000;

/// What waits together: order holds within a key only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum QueueKey {
    Chat(i64),
    /// Presses of a user.
    User(i64),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Update {
    pub update_id: i64,
    pub key: QueueKey,
    pub at_ms: i64,
    /// The whole `Update` object.
    pub body: Value,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub waiting: VecDeque<i64>,
    /// Whether a task delivers it.
    pub running: bool,
}

/// Where updates are pushed to.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Webhook {
    pub url: String,
    pub secret: Option<String>,
    pub max_connections: usize,
    #[serde(skip)]
    pub slots: Option<Arc<Semaphore>>,
    /// Cancelled when the webhook is replaced or removed.
    #[serde(skip)]
    pub ended: CancellationToken,
    #[serde(skip)]
    pub last_error: Option<(i64, String)>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Updates {
    pub last_id: i64,
    #[serde(with = "as_list")]
    pub pending: BTreeMap<i64, Arc<Update>>,
    #[serde(skip)]
    pub queues: HashMap<QueueKey, Queue>,
    #[serde(skip)]
    pub history: BTreeMap<i64, Arc<Update>>,
    pub webhook: Option<Webhook>,
    /// Kinds that the bot asked for; empty means the default set.
    pub allowed: Vec<String>,
    /// The newest `getUpdates`; an older one that still waits is told to stop.
    #[serde(skip)]
    pub poller: u64,
    /// First pause after a failed delivery, in milliseconds.
    #[serde(skip, default = "default_retry_ms")]
    pub retry_base_ms: u64,
}

fn default_retry_ms() -> u64 {
    1_000
}

impl Default for Updates {
    fn default() -> Self {
        Self {
            // Like Telegram, from an arbitrary number on: a bot's database outlives this process.
            last_id: rand::random_range(100_000_000..800_000_000),
            pending: BTreeMap::new(),
            queues: HashMap::new(),
            history: BTreeMap::new(),
            webhook: None,
            allowed: Vec::new(),
            poller: 0,
            retry_base_ms: default_retry_ms(),
        }
    }
}

impl Updates {
    fn allows(&self, kind: &str) -> bool {
        if self.allowed.is_empty() {
            return !matches!(kind, "chat_member" | "message_reaction" | "message_reaction_count");
        }
        self.allowed.iter().any(|allowed| allowed == kind)
    }

    /// A new update of `kind`, unless the bot didn't ask for such. Gives its id.
    pub fn push(&mut self, kind: &str, key: QueueKey, payload: Value) -> Option<i64> {
        if !self.allows(kind) {
            return None;
        }
        self.last_id += 1;
        let mut body = Map::new();
        body.insert("update_id".into(), self.last_id.into());
        body.insert(kind.into(), payload);
        self.enqueue(Update { update_id: self.last_id, key, at_ms: now_ms(), body: Value::Object(body) });
        Some(self.last_id)
    }

    /// Puts an update at the end of its queue.
    pub fn enqueue(&mut self, update: Update) {
        let update = Arc::new(update);
        self.queues.entry(update.key).or_default().waiting.push_back(update.update_id);
        self.history.insert(update.update_id, Arc::clone(&update));
        while self.history.len() > KEPT_HISTORY {
            self.history.pop_first();
        }
        self.pending.insert(update.update_id, update);
    }

    /// The update that is to be delivered next from `key`.
    pub fn front(&mut self, key: QueueKey) -> Option<Arc<Update>> {
        let queue = self.queues.get_mut(&key)?;
        while let Some(&id) = queue.waiting.front() {
            match self.pending.get(&id) {
                Some(update) if update.at_ms + LIFETIME_MS > now_ms() => return Some(Arc::clone(update)),
                Some(_) => {
                    self.pending.remove(&id);
                    queue.waiting.pop_front();
                }
                None => {
                    queue.waiting.pop_front();
                }
            }
        }
        self.queues.remove(&key);
        None
    }

    /// The bot has `id`.
    pub fn confirm(&mut self, key: QueueKey, id: i64) {
        self.pending.remove(&id);
        if let Some(queue) = self.queues.get_mut(&key)
            && queue.waiting.front() == Some(&id)
        {
            queue.waiting.pop_front();
        }
    }

    /// Forgets what is pending below `offset`; a negative one keeps that many of the newest.
    pub fn confirm_below(&mut self, offset: i64) {
        let keep_from = if offset >= 0 {
            offset
        } else {
            let keep = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
            self.pending.keys().rev().take(keep).next_back().copied().unwrap_or(0)
        };
        let rest = self.pending.split_off(&keep_from);
        for update in std::mem::replace(&mut self.pending, rest).into_values() {
            if let Some(queue) = self.queues.get_mut(&update.key) {
                queue.waiting.retain(|&id| id != update.update_id);
                if queue.waiting.is_empty() && !queue.running {
                    self.queues.remove(&update.key);
                }
            }
        }
    }

    pub fn drop_pending(&mut self) {
        self.pending.clear();
        self.queues.retain(|_, queue| {
            queue.waiting.clear();
            queue.running
        });
    }

    /// After loading: queues in order of their ids.
    pub fn restore_queues(&mut self) {
        for update in self.pending.values() {
            self.queues.entry(update.key).or_default().waiting.push_back(update.update_id);
        }
    }

    /// `WebhookInfo` of the Bot API.
    pub fn info(&self) -> Value {
        let mut info =
            json!({ "url": "", "has_custom_certificate": false, "pending_update_count": self.pending.len() });
        if let Some(webhook) = &self.webhook {
            info["url"] = webhook.url.clone().into();
            info["max_connections"] = webhook.max_connections.into();
            info["ip_address"] = "127.0.0.1".into();
            if let Some((at_ms, error)) = &webhook.last_error {
                info["last_error_date"] = (at_ms / 1000).into();
                info["last_error_message"] = error.clone().into();
            }
        }
        if !self.allowed.is_empty() {
            info["allowed_updates"] = json!(self.allowed);
        }
        info
    }
}

/// The queue of a raw update.
pub(crate) fn key_of(body: &Value) -> QueueKey {
    if let Some(user) = body["callback_query"]["from"]["id"].as_i64() {
        return QueueKey::User(user);
    }
    let chat = body.as_object().into_iter().flatten().find_map(|(_, payload)| payload["chat"]["id"].as_i64());
    QueueKey::Chat(chat.unwrap_or(0))
}

/// Pending updates in the state file: a list, since serde doesn't write shared pointers.
mod as_list {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Update;

    pub fn serialize<S: Serializer>(pending: &BTreeMap<i64, Arc<Update>>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pending.values().map(|update| &**update))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<i64, Arc<Update>>, D::Error> {
        let updates = Vec::<Update>::deserialize(deserializer)?;
        Ok(updates.into_iter().map(|update| (update.update_id, Arc::new(update))).collect())
    }
}
