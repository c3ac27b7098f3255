//! Runs turns: those of one chat one at a time in order of arrival, those of different chats side by side.
//!
//! What is to be done is in the database; the tasks here only walk it, so a restart begins where it stopped.

mod ask;
mod broken;
mod calls;
mod chat;
mod ending;
mod output;
mod run;

use crate::context::Contexts;
use crate::model::Client;
use crate::store::{Accepted, Cancelled, NewTurn, Standing, Started, Store, StoreError};
use crate::tools::{Rules, Toolbox, TurnKind};
use baal_protocol::TurnState;
use chat::{Chat, First, Permit, Running};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use uuid::Uuid;

/// Turns at work at the same time; more wait in the database. Bounds memory: a turn holds its history.
const AT_ONCE: usize = 64;
/// Of them, those that no person's message began: people go first.
const BACKGROUND_AT_ONCE: usize = 4;

/// Runs turns. Clones share it.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    model: Client,
    contexts: Contexts,
    /// Rounds of tools in one turn.
    max_rounds: u32,
    tools: Toolbox,
    rules: Arc<Rules>,
    permits: Arc<Semaphore>,
    /// Held beside one of them by what works in the background.
    background: Arc<Semaphore>,
    /// One task per chat with open turns; `true` when something came since it last looked.
    chats: Mutex<HashMap<String, bool>>,
    /// Stops the model and the tools of a running turn.
    running: Mutex<HashMap<Uuid, CancellationToken>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Scheduler {
    /// Nothing runs until [`Scheduler::accept`] or [`Scheduler::resume`]; `shutdown` leaves running turns for the next start.
    pub fn new(
        store: Store,
        model: Client,
        contexts: Contexts,
        max_rounds: u32,
        tools: Toolbox,
        rules: Rules,
        shutdown: CancellationToken,
    ) -> Self {
        let shared = Shared {
            store,
            model,
            contexts,
            max_rounds,
            tools,
            rules: Arc::new(rules),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            background: Arc::new(Semaphore::new(BACKGROUND_AT_ONCE)),
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
            let accepted = match scheduler.enter(&chat_id) {
                Some(chat) => scheduler.accept_idle(turn, chat).await?,
                None => {
                    let accepted = scheduler.shared.store.accept(turn, false).await?;
                    // Also for a known turn: waking costs nothing where there is nothing to do.
                    scheduler.wake(&chat_id);
                    accepted
                }
            };
            match accepted {
                Accepted::New { .. } => info!(turn.id = %id, "turn accepted"),
                Accepted::Known => info!(turn.id = %id, "known turn asked for again"),
                Accepted::Conflict => {}
            }
            Ok(accepted)
        })
        .await
    }

    /// Takes a turn in whose chat is idle: it starts in the same transaction.
    async fn accept_idle(&self, turn: NewTurn, chat: Chat) -> Result<Accepted, StoreError> {
        let shared = &self.shared;
        // silent-ok: where too many turns are at work it is queued
        let permit = Permit::at_once(shared, turn.kind == TurnKind::Chat);
        // In the map before the turn is marked as running, so that no cancel falls in between.
        let running = Running::enter(shared.clone(), turn.id);
        let (id, request, kind, deliver_to) = (turn.id, turn.request.clone(), turn.kind, turn.deliver_to.clone());
        let accepted = shared.store.accept(turn, permit.is_some()).await;
        let mut first = None;
        if let (Ok(Accepted::New { position, running: true }), Some(permit)) = (&accepted, permit) {
            let started = Started {
                position: *position,
                id,
                request: Some(request),
                kind,
                deliver_to,
                cancel_requested: false,
                had_deltas: false,
                standing: Standing::default(),
            };
            first = Some(First { started, running, permit });
        }
        // In any case: others may have been told in the meantime that somebody looks after the chat.
        shared.tasks.spawn(chat.work(first));
        accepted
    }

    /// Ends a queued turn or stops the model and the tools of a running one, also where the caller stops waiting; `None` for an unknown
    /// id.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn cancel(&self, turn: Uuid) -> Result<Option<Cancelled>, StoreError> {
        let scheduler = self.clone();
        self.to_its_end(async move {
            let cancelled = scheduler.shared.store.cancel(turn).await?;
            if let Some(Cancelled { status }) = &cancelled {
                info!(turn.id = %turn, state = ?status.state, "cancel asked for");
                if status.state == TurnState::Running {
                    scheduler.stop(turn);
                }
            }
            Ok(cancelled)
        })
        .await
    }

    /// Forgets a conversation, also where the caller stops waiting. A turn of it that is at work goes on, and begins the new
    /// history; subagents of the chat stop. The answer counts messages.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: &str) -> Result<i64, StoreError> {
        let (scheduler, chat_id) = (self.clone(), chat_id.to_owned());
        self.to_its_end(async move {
            let deleted = scheduler.shared.contexts.delete_chat(&chat_id).await?;
            for subagent in deleted.subagents {
                scheduler.stop(subagent);
            }
            Ok(deleted.messages)
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

    /// Says that a chat has a new turn; to be called after every commit that took one in.
    pub fn wake(&self, chat_id: &str) {
        if let Some(chat) = self.enter(chat_id) {
            self.shared.tasks.spawn(chat.work(None));
        }
    }

    /// The task of a chat, to be started; `None` where there is one, which now knows that something came.
    fn enter(&self, chat_id: &str) -> Option<Chat> {
        let mut chats = lock(&self.shared.chats);
        if let Some(dirty) = chats.get_mut(chat_id) {
            *dirty = true;
            return None;
        }
        chats.insert(chat_id.to_owned(), false);
        Some(Chat::new(self.clone(), chat_id.to_owned()))
    }

    /// Stops a turn, if it runs.
    fn stop(&self, turn: Uuid) {
        if let Some(token) = lock(&self.shared.running).get(&turn) {
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
