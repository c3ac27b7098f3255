//! What tests and the demo steer and read: scripted replies, the pace, and a record of what was asked.

use super::request::Request;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests and violations that are kept whole; older ones are only counted.
const KEPT: usize = 500;
/// Different user messages that are counted.
const COUNTED: usize = 100_000;

/// The state of one simulated service; clones share it.
#[derive(Clone, Default)]
pub struct LibertAi {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    scripts: VecDeque<Script>,
    pace: Pace,
    total: u64,
    requests: VecDeque<Value>,
    by_message: BTreeMap<String, u64>,
    by_key: BTreeMap<String, u64>,
    accounts: BTreeMap<String, Account>,
    violations: VecDeque<Value>,
}

/// How fast answers come that no script paces.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Milliseconds before the first piece.
    pub first_ms: u64,
    /// Milliseconds between two pieces (about a word each).
    pub piece_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first_ms: 150, piece_ms: 25 }
    }
}

/// Body of `POST /sim/script`: replies that are used up in order, before the persona answers again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Only for requests whose last user message contains this.
    #[serde(default)]
    pub r#match: Option<String>,
    /// At least one.
    pub replies: VecDeque<Reply>,
}

/// One prescribed answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    /// Text of the answer.
    pub content: Option<String>,
    /// Tool calls in OpenAI's form, or `{"name", "arguments"}` for short.
    pub tool_calls: Vec<Value>,
    /// Milliseconds before anything is answered.
    pub delay_ms: Option<u64>,
    /// Milliseconds between two pieces.
    pub piece_delay_ms: Option<u64>,
    /// An HTTP error instead of an answer.
    pub status: Option<u16>,
    /// Seconds, sent as `Retry-After` beside `status`.
    pub retry_after: Option<u64>,
    /// Breaks the connection after so many pieces.
    pub drop_after_pieces: Option<usize>,
    /// Goes silent: after the pieces of `content`, or at once where there is none.
    pub hang: bool,
    /// Sent as it is as the body of the stream, for nonsense and comments.
    pub raw: Option<String>,
    /// Sends `raw` so many times.
    pub raw_repeat: Option<usize>,
}

/// Body of `POST /sim/accounts`: what is answered about a key's account from now on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    /// Whose account.
    pub key: String,
    /// Credits that are left.
    pub balance: Option<f64>,
    /// An HTTP error instead.
    pub status: Option<u16>,
    /// Sent as it is instead, for nonsense.
    pub raw: Option<String>,
    /// Milliseconds before anything is answered.
    pub delay_ms: Option<u64>,
}

impl LibertAi {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds replies behind those that wait.
    pub fn add_script(&self, script: Script) {
        self.lock().scripts.push_back(script);
    }

    /// Sets the pace of answers that begin from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.lock().pace = pace;
    }

    pub(super) fn pace_now(&self) -> Pace {
        self.lock().pace
    }

    pub(super) fn scripted_reply(&self, last_user_message: &str) -> Option<Reply> {
        let mut inner = self.lock();
        let at = inner.scripts.iter().position(|script| {
            script.r#match.as_deref().is_none_or(|part| last_user_message.contains(part)) && !script.replies.is_empty()
        })?;
        let script = inner.scripts.get_mut(at)?;
        let reply = script.replies.pop_front();
        if script.replies.is_empty() {
            inner.scripts.remove(at);
        }
        reply
    }

    pub(super) fn account_of(&self, key: &str) -> Account {
        self.lock().accounts.get(key).cloned().unwrap_or_default()
    }

    pub(super) fn record_request(&self, request: &Request, key: &str) {
        let mut inner = self.lock();
        inner.total += 1;
        *inner.by_key.entry(key.to_owned()).or_default() += 1;
        if inner.requests.len() == KEPT {
            inner.requests.pop_front();
        }
        inner.requests.push_back(request.body.clone());
        let message = request.last_user_message();
        if let Some(count) = inner.by_message.get_mut(message) {
            *count += 1;
        } else if inner.by_message.len() < COUNTED {
            inner.by_message.insert(message.to_owned(), 1);
        }
    }

    pub(super) fn record_violation(&self, problem: &str, body: &[u8]) {
        let mut inner = self.lock();
        if inner.violations.len() == KEPT {
            inner.violations.pop_front();
        }
        let body = String::from_utf8_lossy(body.get(..body.len().min(4096)).unwrap_or_default()).into_owned();
        inner.violations.push_back(json!({"problem": problem, "body": body}));
    }

    /// How often a completion was asked whose last user message is exactly `message`.
    pub fn times_asked(&self, message: &str) -> u64 {
        self.lock().by_message.get(message).copied().unwrap_or(0)
    }

    /// The newest requests, oldest first.
    pub fn requests(&self) -> Vec<Value> {
        self.lock().requests.iter().cloned().collect()
    }

    /// What callers did wrong, oldest first.
    pub fn violations(&self) -> Vec<Value> {
        self.lock().violations.iter().cloned().collect()
    }
}

/// A body of `/sim/…`, whatever its content type says.
fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))
}

pub(super) async fn script(State(sim): State<LibertAi>, body: Bytes) -> Result<Json<Value>, (StatusCode, String)> {
    let script: Script = read(&body)?;
    if script.replies.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "replies must not be empty".into()));
    }
    sim.add_script(script);
    Ok(Json(json!({"ok": true})))
}

pub(super) async fn pace(State(sim): State<LibertAi>, body: Bytes) -> Result<Json<Value>, (StatusCode, String)> {
    sim.set_pace(read(&body)?);
    Ok(Json(json!({"ok": true})))
}

pub(super) async fn account(State(sim): State<LibertAi>, body: Bytes) -> Result<Json<Value>, (StatusCode, String)> {
    let account: Account = read(&body)?;
    sim.lock().accounts.insert(account.key.clone(), account);
    Ok(Json(json!({"ok": true})))
}

pub(super) async fn requests(State(sim): State<LibertAi>) -> Json<Value> {
    let inner = sim.lock();
    Json(json!({
        "total": inner.total,
        "by_message": inner.by_message,
        "by_key": inner.by_key,
        "requests": inner.requests,
    }))
}

pub(super) async fn violations(State(sim): State<LibertAi>) -> Json<Value> {
    Json(json!({"violations": sim.violations()}))
}
