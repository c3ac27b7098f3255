//! How fast an agent is listened to.
//!
//! Reading events takes time that everybody's turns share. No model writes faster than this, so whoever does wants to be in the
//! way, and waits: for a minute of such noise an agent gets a second of ours.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second in the long run.
const PER_SECOND: usize = 1024 * 1024;
/// Bytes at once: an answer that is there already, and the longest event.
const AT_ONCE: usize = 2 * super::MAX_EVENT;

/// The allowance of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes that may be taken now.
    room: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { room: AT_ONCE as f64, at: Instant::now() }
    }

    /// Takes so many bytes; how long to wait before the next.
    pub(super) fn take(&mut self, bytes: usize) -> Duration {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * PER_SECOND as f64;
        self.room = (self.room + gained).min(AT_ONCE as f64) - bytes as f64;
        self.at = now;
        Duration::from_secs_f64((-self.room / PER_SECOND as f64).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_comes_at_once_and_an_endless_one_slowly() {
        let mut pace = Pace::new();
        assert_eq!(pace.take(AT_ONCE), Duration::ZERO);
        let waits: f64 = pace.take(3 * PER_SECOND).as_secs_f64();
        assert!((2.0..=3.0).contains(&waits), "{waits}");
        // What was gained in silence does not add up for ever.
        pace.at -= Duration::from_secs(3_600);
        assert_eq!(pace.take(AT_ONCE), Duration::ZERO);
        assert!(pace.take(PER_SECOND) > Duration::from_millis(500));
    }
}
