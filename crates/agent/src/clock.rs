//! The only place that asks what time it is.

use chrono::{DateTime, Utc};

/// Now, by the clock of this machine.
#[expect(clippy::disallowed_methods, reason = "an agent has no replicas, so its own clock is the only one")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
