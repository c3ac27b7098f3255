//! Misbehaviour on order.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    #[serde(rename = "429")]
    TooManyRequests,
    #[serde(rename = "500")]
    InternalError,
    /// A proxy's error page.
    #[serde(rename = "502html")]
    BadGatewayPage,
    /// The call is handled `ms` later.
    #[serde(rename = "delay")]
    Delay,
    /// The call is handled, then the connection is cut without an answer.
    #[serde(rename = "drop_after")]
    DropAfter,
    /// The connection is cut, nothing is handled.
    #[serde(rename = "drop_before")]
    DropBefore,
}

/// An ordered fault: applies to the next `times` calls that match.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// A method's name, or `*`.
    pub method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_id: Option<i64>,
    #[serde(default = "once")]
    pub times: u64,
    pub kind: Kind,
    /// Seconds, for `429`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Milliseconds, for `delay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
}

fn once() -> u64 {
    1
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn order(&self, faults: Vec<Fault>) {
        self.lock().extend(faults.into_iter().filter(|fault| fault.times > 0));
    }

    pub fn clear(&self) {
        self.lock().clear();
    }

    pub fn left(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// The oldest fault that this call meets, used up by one.
    pub fn take(&self, method: &str, chat_id: Option<i64>) -> Option<Fault> {
        let mut faults = self.lock();
        let at = faults.iter().position(|fault| {
            (fault.method == "*" || fault.method.eq_ignore_ascii_case(method))
                && fault.chat_id.is_none_or(|wanted| Some(wanted) == chat_id)
        })?;
        faults[at].times -= 1;
        let fault = faults[at].clone();
        if fault.times == 0 {
            faults.remove(at);
        }
        Some(fault)
    }
}
