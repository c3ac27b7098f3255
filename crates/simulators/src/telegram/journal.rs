//! What the bot called, and what it should not have done. Both bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

const KEPT_CALLS: usize = 20_000;
const KEPT_VIOLATIONS: usize = 1_000;

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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    pub fn call(&self, call: Call) {
        keep(&mut lock(&self.calls), call, KEPT_CALLS);
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
