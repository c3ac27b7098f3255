//! Runs turns: those of one chat one at a time in order of arrival, those of different chats side by side.
//!
//! What is to be done is in the database; the tasks here only walk it, so a restart begins where it stopped.

mod run;

use crate::model::Client;
use crate::store::{Accepted, Cancelled, NewTurn, Store, StoreError};
use baal_protocol::TurnState;
use run::Outcome;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};
use uuid::Uuid;

/// Turns at work at the same time; more wait in the database. Bounds memory: a turn holds its history.
const AT_ONCE: usize = 64;
/// How long a chat's turns wait after the database failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What a turn needs to run.
pub struct Persona {
    /// Display name.
    pub agent_name: String,
    /// Personality.
    pub system_prompt: String,
    /// Messages of history for the model.
    pub max_history: u32,
}

/// Runs turns. Clones share it.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    model: Client,
    persona: Persona,
    permits: Semaphore,
    /// One task per chat with open turns; `true` when something came since it last looked.
    chats: Mutex<HashMap<String, bool>>,
    /// Stops the model of a running turn, by position.
    running: Mutex<HashMap<i64, CancellationToken>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Scheduler {
    /// Nothing runs until [`Scheduler::accept`] or [`Scheduler::resume`]; `shutdown` leaves running turns for the next start.
    pub fn new(store: Store, model: Client, persona: Persona, shutdown: CancellationToken) -> Self {
        let shared = Shared {
            store,
            model,
            persona,
            permits: Semaphore::new(AT_ONCE),
            chats: Mutex::default(),
            running: Mutex::default(),
            shutdown,
            tasks: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Goes on with the turns that the last run left open.
    ///
    /// # Errors
    /// The database failed.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let chats = self.shared.store.read().chats_with_open_turns().await?;
        if !chats.is_empty() {
            info!(chats = chats.len(), "resuming the turns that the last run left open");
        }
        for chat_id in chats {
            self.wake(&chat_id);
        }
        Ok(())
    }

    /// Takes a turn in, unless its id is known, and sees to it that it runs, also where the caller stops waiting.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn accept(&self, turn: NewTurn) -> Result<Accepted, StoreError> {
        let scheduler = self.clone();
        self.to_its_end(async move {
            let (id, chat_id) = (turn.id, turn.request.chat_id.clone());
            let accepted = scheduler.shared.store.accept(turn).await?;
            match accepted {
                Accepted::New => info!(turn.id = %id, "turn accepted"),
                Accepted::Known => info!(turn.id = %id, "known turn asked for again"),
                Accepted::Conflict => return Ok(accepted),
            }
            // Also for a known turn: waking costs nothing where there is nothing to do.
            scheduler.wake(&chat_id);
            Ok(accepted)
        })
        .await
    }

    /// Ends a queued turn or stops the model of a running one, also where the caller stops waiting; `None` for an unknown
    /// id.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn cancel(&self, turn: Uuid) -> Result<Option<Cancelled>, StoreError> {
        let scheduler = self.clone();
        self.to_its_end(async move {
            let cancelled = scheduler.shared.store.cancel(turn).await?;
            if let Some(Cancelled { position, status }) = &cancelled {
                info!(turn.id = %turn, state = ?status.state, "cancel asked for");
                if status.state == TurnState::Running {
                    scheduler.stop(*position);
                }
            }
            Ok(cancelled)
        })
        .await
    }

    /// Runs work that must not end between its commit and what follows: a request is dropped with its connection.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.tasks.spawn(work).await.unwrap_or(Err(StoreError::NotWritten))
    }

    /// Says that a chat has a new turn.
    fn wake(&self, chat_id: &str) {
        let mut chats = lock(&self.shared.chats);
        if let Some(dirty) = chats.get_mut(chat_id) {
            *dirty = true;
            return;
        }
        chats.insert(chat_id.to_owned(), false);
        let chat = Chat { shared: self.shared.clone(), chat_id: chat_id.to_owned(), has_left: false };
        self.shared.tasks.spawn(chat.work());
    }

    /// Stops the model of a turn, if it runs.
    fn stop(&self, position: i64) {
        if let Some(token) = lock(&self.shared.running).get(&position) {
            token.cancel();
        }
    }

    /// Waits until every task has let go; only after the shutdown token.
    pub async fn wait(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section is a few map operations, which leave the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of one chat.
struct Chat {
    shared: Arc<Shared>,
    chat_id: String,
    /// It took itself off the map; what is there under its name is a successor's.
    has_left: bool,
}

impl Drop for Chat {
    /// After a panic: the next message of the chat begins anew.
    fn drop(&mut self) {
        if !self.has_left {
            lock(&self.shared.chats).remove(&self.chat_id);
        }
    }
}

impl Chat {
    async fn work(mut self) {
        let shutdown = self.shared.shutdown.clone();
        // Dropped in the middle: the turn stays `running` in the database and is run again at the next start.
        shutdown.run_until_cancelled(self.run_open_turns()).await;
    }

    async fn run_open_turns(&mut self) {
        loop {
            match self.shared.store.read().next_open_turn(&self.chat_id).await {
                Ok(Some(turn)) => self.run(turn.position, turn.id).await,
                Ok(None) if self.is_done() => return,
                Ok(None) => {}
                Err(e) => {
                    error!(error = %e, "the next turn cannot be read");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Whether nothing came since the last look; if so, the next [`Scheduler::wake`] starts a new task.
    fn is_done(&mut self) -> bool {
        let mut chats = lock(&self.shared.chats);
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

    async fn run(&self, position: i64, id: Uuid) {
        let Ok(_permit) = self.shared.permits.acquire().await else {
            return;
        };
        // In the map before the turn is marked as running, so that no cancel falls in between.
        let running = Running::enter(&self.shared, position);
        match run::run(&self.shared.store, &self.shared.model, &self.shared.persona, position, &running.stop).await {
            Ok(Outcome::Answered) => info!(turn.id = %id, "turn finished"),
            Ok(Outcome::Failed) => info!(turn.id = %id, "turn ended with an error"),
            Ok(Outcome::Cancelled) => info!(turn.id = %id, "turn cancelled"),
            Ok(Outcome::Over) => {}
            Err(e) => {
                error!(turn.id = %id, error = %e, "turn cannot go on, trying again");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// The entry of a running turn, gone when it is dropped.
struct Running<'a> {
    shared: &'a Shared,
    position: i64,
    stop: CancellationToken,
}

impl<'a> Running<'a> {
    fn enter(shared: &'a Shared, position: i64) -> Self {
        let stop = CancellationToken::new();
        lock(&shared.running).insert(position, stop.clone());
        Self { shared, position, stop }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.shared.running).remove(&self.position);
    }
}
