//! What the bot called, and what it should not have done. Both bounded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;

const KEPT_CALLS: usize = 20_000;
const KEPT_VIOLATIONS: usize = 1_000;
/// Bytes of requests, as JSON, that are kept.
const KEPT_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// One call of the Bot API.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Call {
    pub method: String,
    pub chat_id: Option<i64>,
    pub message_id: Option<i64>,
    /// When it arrived, in milliseconds since 1970.
    pub at_ms: i64,
    /// How long it took.
    pub took_ms: i64,
    /// The HTTP status it got; 0 where the connection was cut.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A call with what it said, whole.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Request {
    /// Grows with every call, from 1.
    pub seq: u64,
    pub method: String,
    pub chat_id: Option<i64>,
    pub at_ms: i64,
    pub status: u16,
    /// As they came: JSON values from a JSON body, strings from elsewhere.
    pub params: Value,
    /// Uploads by their field: `name`, `mime` and `size` in bytes.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub files: Value,
    /// The messages that the call made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<i64>,
}

/// Requests and the length of each as JSON.
#[derive(Default)]
struct Requests {
    last_seq: u64,
    kept: VecDeque<(Request, usize)>,
    bytes: usize,
    /// Gets a line of JSON for each.
    record: Option<File>,
}

/// A refusal that a correct bot never provokes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Violation {
    pub method: String,
    pub chat_id: Option<i64>,
    pub at_ms: i64,
    pub description: String,
}

#[derive(Default)]
pub(crate) struct Journal {
    calls: Mutex<VecDeque<Call>>,
    violations: Mutex<VecDeque<Violation>>,
    requests: Mutex<Requests>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    pub fn call(&self, call: Call) {
        keep(&mut lock(&self.calls), call, KEPT_CALLS);
    }

    /// Keeps a request under the next `seq`.
    pub fn request(&self, mut request: Request) {
        let mut requests = lock(&self.requests);
        requests.last_seq += 1;
        request.seq = requests.last_seq;
        let mut line = serde_json::to_vec(&request).unwrap_or_default();
        line.push(b'\n');
        let failed = requests.record.as_mut().and_then(|record| record.write_all(&line).err());
        if let Some(error) = failed {
            tracing::error!(error = %error, "requests can't be recorded any more");
            requests.record = None;
        }
        requests.bytes += line.len();
        requests.kept.push_back((request, line.len()));
        while requests.bytes > KEPT_REQUEST_BYTES || requests.kept.len() > KEPT_CALLS {
            let Some((_, length)) = requests.kept.pop_front() else { break };
            requests.bytes -= length;
        }
    }

    pub fn requests(&self, matching: impl Fn(&Request) -> bool) -> Vec<Request> {
        let requests = lock(&self.requests);
        requests.kept.iter().map(|(request, _)| request).filter(|request| matching(request)).cloned().collect()
    }

    pub fn record(&self, file: File) {
        lock(&self.requests).record = Some(file);
    }

    pub fn violation(&self, violation: Violation) {
        keep(&mut lock(&self.violations), violation, KEPT_VIOLATIONS);
    }

    pub fn calls(&self, matching: impl Fn(&Call) -> bool) -> Vec<Call> {
        lock(&self.calls).iter().filter(|call| matching(call)).cloned().collect()
    }

    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.violations).iter().cloned().collect()
    }

    pub fn forget_calls(&self) {
        lock(&self.calls).clear();
    }

    pub fn forget_violations(&self) {
        lock(&self.violations).clear();
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T, limit: usize) {
    if kept.len() >= limit {
        kept.pop_front();
    }
    kept.push_back(new);
}
