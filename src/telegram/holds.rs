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
    /// Whether the whole bot goes at a limited rate.
    limited: bool,
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
        let until = inner.chats.entry(chat_id).or_insert(now);
        *until = (*until).max(now + wait);
        if inner.floods.len() < SWEEP_AT {
            inner.floods.push((chat_id, wait));
        }
    }

    /// The whole bot pauses until then, and goes at a limited rate or not.
    pub fn set_pace(&self, paused_until: Instant, limited: bool) {
        let mut inner = self.lock();
        (inner.all, inner.limited) = (Some(paused_until), limited);
    }

    /// Whether what nobody misses (streaming edits, "typing…") may go to this chat: not while the bot's rate is limited,
    /// for then it would go at the expense of messages.
    pub fn has_room(&self, chat_id: i64) -> bool {
        !self.lock().limited && self.wait(chat_id).is_none()
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
        holds.flood(1, Duration::ZERO);
        assert!(holds.wait(1).is_some(), "a shorter wait does not end a longer one");
        assert!(holds.has_room(2));
        holds.set_pace(Instant::now() + Duration::from_secs(60), false);
        assert!(holds.wait(2).is_some());
        holds.set_pace(Instant::now(), true);
        assert!(holds.wait(2).is_none() && !holds.has_room(2));
        assert_eq!(holds.take_floods().len(), 2);
        assert_eq!(holds.take_floods(), []);
    }
}
