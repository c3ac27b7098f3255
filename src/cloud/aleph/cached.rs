//! What the network says seldom changes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A value and when it was learnt. It is not locked while it is asked for: a server that hangs holds up nobody else.
pub(super) struct Cached<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Cached<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The value, if it is younger than this.
    pub(super) fn get(&self, age: Duration) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(at, _)| at.elapsed() < age).map(|(_, value)| value.clone())
    }

    /// The value and its age.
    pub(super) fn last(&self) -> Option<(Duration, T)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|(at, value)| (at.elapsed(), value.clone()))
    }

    pub(super) fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), value));
    }
}
