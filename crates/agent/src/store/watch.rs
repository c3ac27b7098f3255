//! Hands committed events to those who read a turn while it runs.

use baal_protocol::Event;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::{self, error::RecvError};
use uuid::Uuid;

/// Commits that a reader may be behind before it has to read the database.
const BEHIND: usize = 64;

type Senders = HashMap<Uuid, broadcast::Sender<Arc<[Event]>>>;

/// Those who watch, by turn; a turn that nobody watches has no entry.
#[derive(Clone, Default)]
pub(super) struct Watchers {
    by_turn: Arc<Mutex<Senders>>,
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Senders> {
        self.by_turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watch(&self, turn: Uuid) -> Watch {
        let events = self.lock().entry(turn).or_insert_with(|| broadcast::channel(BEHIND).0).subscribe();
        Watch { turn, events, watchers: self.clone() }
    }

    pub(super) fn tell(&self, turn: Uuid, events: Vec<Event>) {
        if let Some(sender) = self.lock().get(&turn) {
            // silent-ok: it fails only where the last watcher is just leaving
            drop(sender.send(events.into()));
        }
    }
}

/// One reader's view of a turn.
pub struct Watch {
    turn: Uuid,
    events: broadcast::Receiver<Arc<[Event]>>,
    watchers: Watchers,
}

impl Watch {
    /// The events of the next commit; `None` where some were missed, which are in the database.
    pub async fn next(&mut self) -> Option<Arc<[Event]>> {
        match self.events.recv().await {
            Ok(events) => Some(events),
            Err(RecvError::Lagged(_)) => None,
            // The sender stays as long as its entry, and that as long as this.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut by_turn = self.watchers.lock();
        // This one is still counted.
        if by_turn.get(&self.turn).is_some_and(|sender| sender.receiver_count() <= 1) {
            by_turn.remove(&self.turn);
        }
    }
}
