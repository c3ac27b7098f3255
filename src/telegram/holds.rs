//! Chats (or the whole bot) that Telegram wants to be left alone for a while, as far as this process knows: what sends rows
//! and what edits streaming answers heed the same holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many holds are kept before those that are over are swept out.
const SWEEP_AT: usize = 256;

#[derive(Debug, Default)]
struct Inner {
    chats: HashMap<i64, Instant>,
    all: Option<Instant>,
    /// Floods that the sender has not yet weighed.
    floods: Vec<(i64, Duration)>,
}

/// The holds of one bot; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Holds(Arc<Mutex<Inner>>);

impl Holds {
    /// Telegram answered 429 in this chat.
    pub fn flood(&self, chat_id: i64, wait: Duration) {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.chats.len() >= SWEEP_AT {
            inner.chats.retain(|_, until| *until > now);
        }
        inner.chats.insert(chat_id, now + wait);
        if inner.floods.len() < SWEEP_AT {
            inner.floods.push((chat_id, wait));
        }
    }

    /// The whole bot pauses until then.
    pub fn pause(&self, until: Instant) {
        self.lock().all = Some(until);
    }

    /// How long nothing may be sent to this chat; none if it may.
    pub fn wait(&self, chat_id: i64) -> Option<Duration> {
        let inner = self.lock();
        let until = inner.chats.get(&chat_id).copied().max(inner.all)?;
        Some(until.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    /// Floods since the last call.
    pub fn take_floods(&self) -> Vec<(i64, Duration)> {
        std::mem::take(&mut self.lock().floods)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_of_its_chat_and_a_pause_of_all() {
        let holds = Holds::default();
        holds.flood(1, Duration::from_secs(60));
        assert!(holds.wait(1).is_some());
        assert_eq!(holds.wait(2), None);
        holds.pause(Instant::now() + Duration::from_secs(60));
        assert!(holds.wait(2).is_some());
        assert_eq!(holds.take_floods(), [(1, Duration::from_secs(60))]);
        assert_eq!(holds.take_floods(), []);
    }
}
