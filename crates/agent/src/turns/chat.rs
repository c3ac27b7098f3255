//! The task of one chat: runs its turns one after another.

use super::broken::end_broken;
use super::run::{Outcome, run};
use super::{Scheduler, Shared, lock};
use crate::store::{Started, StoreError};
use crate::tools::{HEARTBEAT_CHAT, SUBAGENT_CHAT};
use futures_util::FutureExt;
use std::collections::hash_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use uuid::Uuid;

/// How long a chat's turns wait after the database failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// The task of one chat.
pub(super) struct Chat {
    scheduler: Scheduler,
    chat_id: String,
    /// It took itself off the map; what is there under its name is a successor's.
    has_left: bool,
}

/// A turn that was started as it was taken in.
pub(super) struct First {
    pub started: Started,
    pub running: Running,
    pub permit: Permit,
}

impl Drop for Chat {
    /// After a panic: the next message of the chat begins anew.
    fn drop(&mut self) {
        if !self.has_left {
            lock(&self.scheduler.shared.chats).remove(&self.chat_id);
        }
    }
}

impl Chat {
    /// Its name must be on the map.
    pub(super) fn new(scheduler: Scheduler, chat_id: String) -> Self {
        Self { scheduler, chat_id, has_left: false }
    }

    pub(super) async fn work(mut self, first: Option<First>) {
        if let Some(First { started, running, permit }) = first {
            let ended = self.run(started, running).await;
            drop(permit);
            // Nothing else was to be done when it was taken in, and of what came since the map tells.
            if ended && self.is_done() {
                return;
            }
        }
        let shutdown = self.scheduler.shared.shutdown.clone();
        while !shutdown.is_cancelled() {
            let next = self.scheduler.shared.store.read().next_open_turn(&self.chat_id);
            match shutdown.run_until_cancelled(next).await {
                None => return,
                Some(Ok(Some(turn))) => self.start(turn.position, turn.id).await,
                Some(Ok(None)) if self.is_done() => return,
                Some(Ok(None)) => {}
                Some(Err(e)) => {
                    error!(error = %e, "the next turn cannot be read");
                    self.pause().await;
                }
            }
        }
    }

    /// Whether nothing came since the last look; if so, the next [`Scheduler::wake`] starts a new task.
    fn is_done(&mut self) -> bool {
        let mut chats = lock(&self.scheduler.shared.chats);
        match chats.get_mut(&self.chat_id) {
            Some(dirty) if *dirty => {
                *dirty = false;
                false
            }
            _ => {
                chats.remove(&self.chat_id);
                self.has_left = true;
                true
            }
        }
    }

    /// No person's chat has such a name.
    fn is_of_a_person(&self) -> bool {
        self.chat_id != HEARTBEAT_CHAT && !self.chat_id.starts_with(SUBAGENT_CHAT)
    }

    async fn start(&self, position: i64, id: Uuid) {
        let shared = &self.scheduler.shared;
        let Some(Some(_permit)) =
            shared.shutdown.run_until_cancelled(Permit::wait(shared, self.is_of_a_person())).await
        else {
            return;
        };
        // In the map before the turn is marked as running, so that no cancel falls in between.
        let running = Running::enter(shared.clone(), id);
        match shared.store.start(position).await {
            Ok(Some(started)) => {
                self.run(started, running).await;
            }
            Ok(None) => {}
            Err(e) => self.failed(id, &e).await,
        }
    }

    /// Whether the turn has ended.
    async fn run(&self, started: Started, running: Running) -> bool {
        let (id, position) = (started.id, started.position);
        // Whatever goes wrong in a turn for good must not go wrong again and again while the chat waits behind it.
        let ended = match AssertUnwindSafe(run(&self.scheduler, started, &running.stop)).catch_unwind().await {
            Ok(Err(e @ StoreError::Content(_))) => {
                error!(turn.id = %id, error = %e, "turn cannot go on");
                end_broken(&self.scheduler, position).await
            }
            Ok(ended) => ended,
            Err(_) => {
                error!(turn.id = %id, "turn failed badly");
                end_broken(&self.scheduler, position).await
            }
        };
        match ended {
            Ok(Outcome::Answered) => info!(turn.id = %id, "turn finished"),
            Ok(Outcome::Failed) => info!(turn.id = %id, "turn ended with an error"),
            Ok(Outcome::Cancelled) => info!(turn.id = %id, "turn cancelled"),
            Ok(Outcome::Over) => {}
            // Stays `running` in the database and goes on at the next start.
            Ok(Outcome::Left) => return false,
            Err(e) => {
                drop(running);
                self.failed(id, &e).await;
                return false;
            }
        }
        true
    }

    async fn failed(&self, id: Uuid, error: &StoreError) {
        error!(turn.id = %id, error = %error, "turn cannot go on, trying again");
        self.pause().await;
    }

    async fn pause(&self) {
        self.scheduler.shared.shutdown.run_until_cancelled(tokio::time::sleep(AFTER_FAILURE)).await;
    }
}

/// Leave to be at work; what works in the background holds two.
pub(super) struct Permit {
    _background: Option<OwnedSemaphorePermit>,
    _turn: OwnedSemaphorePermit,
}

impl Permit {
    /// `None` where too many turns are at work.
    pub(super) fn at_once(shared: &Shared, of_a_person: bool) -> Option<Self> {
        let background = if of_a_person { None } else { Some(shared.background.clone().try_acquire_owned().ok()?) };
        Some(Self { _background: background, _turn: shared.permits.clone().try_acquire_owned().ok()? })
    }

    /// `None` only where nothing runs any more.
    async fn wait(shared: &Shared, of_a_person: bool) -> Option<Self> {
        let background = if of_a_person { None } else { Some(shared.background.clone().acquire_owned().await.ok()?) };
        Some(Self { _background: background, _turn: shared.permits.clone().acquire_owned().await.ok()? })
    }
}

/// The entry of a running turn, gone when it is dropped.
pub(super) struct Running {
    shared: Arc<Shared>,
    id: Uuid,
    pub stop: CancellationToken,
    /// There was none yet. A turn that is taken in has an entry before it is known whether its id is new.
    entered: bool,
}

impl Running {
    pub(super) fn enter(shared: Arc<Shared>, id: Uuid) -> Self {
        let stop = shared.shutdown.child_token();
        let entered = match lock(&shared.running).entry(id) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(stop.clone());
                true
            }
        };
        Self { shared, id, stop, entered }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.entered {
            lock(&self.shared.running).remove(&self.id);
        }
    }
}
