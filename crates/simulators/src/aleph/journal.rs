//! What was called, and how it ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use super::clock;
use super::faults::Kind;

/// Calls that are kept whole; older ones are only counted.
const KEPT: usize = 5_000;

/// One call of a far side, SSH connection (`method` `SSH`) or connection to the gateway (`TLS`).
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// From 1 since the last reset.
    pub n: u64,
    pub at_ms: i64,
    pub party: String,
    pub method: String,
    /// With placeholders.
    pub route: String,
    pub path: String,
    /// The HTTP status that was sent, or would have been where the answer was lost. None while there is none.
    pub status: Option<u16>,
    /// The fault that it met.
    pub fault: Option<Kind>,
}

#[derive(Default)]
struct Inner {
    total: u64,
    /// Of the call that is numbered 1, so that late answers of older calls are not taken for new ones.
    epoch: u64,
    calls: VecDeque<Call>,
    counts: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Default)]
pub struct Journal(Mutex<Inner>);

/// A call that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    epoch: u64,
    n: u64,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, party: &str, method: &str, route: &str, path: &str) -> Begun {
        let mut inner = self.lock();
        inner.total += 1;
        let n = inner.total;
        if inner.calls.len() == KEPT {
            inner.calls.pop_front();
        }
        inner.calls.push_back(Call {
            n,
            at_ms: clock::now().timestamp_millis(),
            party: party.to_owned(),
            method: method.to_owned(),
            route: route.to_owned(),
            path: path.to_owned(),
            status: None,
            fault: None,
        });
        Begun { epoch: inner.epoch, n }
    }

    /// How a call ended; a fault that it met is counted in the place of the status.
    pub fn end(&self, begun: Begun, status: Option<u16>, fault: Option<Kind>) {
        let mut inner = self.lock();
        if inner.epoch != begun.epoch {
            return;
        }
        let Some(call) = inner.calls.iter_mut().rev().find(|call| call.n == begun.n) else { return };
        call.status = status;
        call.fault = fault;
        let what = format!("{} {} {}", call.party, call.method, call.route);
        let outcome = match (fault, status) {
            (Some(fault), _) => json!(fault).as_str().unwrap_or_default().to_owned(),
            (None, Some(status)) => status.to_string(),
            (None, None) => "none".into(),
        };
        *inner.counts.entry(what).or_default().entry(outcome).or_default() += 1;
    }

    pub fn reset(&self) {
        let mut inner = self.lock();
        *inner = Inner { epoch: inner.epoch + 1, ..Inner::default() };
    }

    pub fn json(&self, newest: usize) -> Value {
        let inner = self.lock();
        let skipped = inner.calls.len().saturating_sub(newest);
        let calls: Vec<&Call> = inner.calls.iter().skip(skipped).collect();
        json!({ "total": inner.total, "counts": inner.counts, "calls": calls })
    }
}
