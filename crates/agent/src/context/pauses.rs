//! How long a chat's compaction rests after it failed.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Rest after the first failure; doubled with every further one.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);
/// Chats that are remembered; beyond that, all begin anew.
const MAX_CHATS: usize = 1_000;

/// The chats that rest.
#[derive(Default)]
pub struct Pauses {
    chats: HashMap<String, (Instant, Duration)>,
}

impl Pauses {
    /// Whether it is to be tried now.
    pub fn may_try(&self, chat_id: &str, now: Instant) -> bool {
        self.chats.get(chat_id).is_none_or(|(until, _)| now >= *until)
    }

    /// It failed; the answer says how long it rests.
    pub fn failed(&mut self, chat_id: &str, now: Instant) -> Duration {
        let rest = self.chats.get(chat_id).map_or(FIRST, |(_, last)| (*last * 2).min(LONGEST));
        if self.chats.len() >= MAX_CHATS {
            self.chats.clear();
        }
        self.chats.insert(chat_id.to_owned(), (now + rest, rest));
        rest
    }

    /// It worked.
    pub fn worked(&mut self, chat_id: &str) {
        self.chats.remove(chat_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_grows_with_every_failure_up_to_an_hour_and_ends_with_success() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        assert!(pauses.may_try("1", now));
        let rests: Vec<u64> = (0..9).map(|_| pauses.failed("1", now).as_secs()).collect();
        assert_eq!(rests, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert!(!pauses.may_try("1", now) && pauses.may_try("1", now + LONGEST) && pauses.may_try("2", now));
        pauses.worked("1");
        assert!(pauses.may_try("1", now));
    }
}
