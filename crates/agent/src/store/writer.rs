//! The one task that writes, and the door to it.

use super::read::Reader;
use super::write::{Accepted, Cancelled, Finish, NewTurn, Started, Write};
use super::{StoreError, options};
use baal_protocol::EventKind;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;
use uuid::Uuid;

/// Changes that share one transaction at most.
const BATCH: usize = 64;

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    writes: mpsc::Sender<Write>,
    reader: Reader,
    watchers: Watchers,
}

impl Store {
    /// Opens the database, made if missing, and brings its schema up to date.
    ///
    /// The second value ends when the last clone of the store is gone and everything is written.
    ///
    /// # Errors
    /// The file cannot be used, or a newer version of the agent wrote it.
    pub async fn open(path: &Path) -> Result<(Self, tokio::task::JoinHandle<()>), StoreError> {
        let mut connection = options(path).create_if_missing(true).connect().await?;
        sqlx::migrate!("./migrations").run(&mut connection).await?;
        let reader = Reader::open(path).await?;
        let (writes, queue) = mpsc::channel(4 * BATCH);
        let watchers = Watchers::default();
        let writer = tokio::spawn(write_in_batches(connection, queue, watchers.clone()));
        Ok((Self { writes, reader, watchers }, writer))
    }

    /// What is committed.
    pub fn read(&self) -> &Reader {
        &self.reader
    }

    /// Tells when a turn gets new events or ends. The value itself only counts changes.
    pub fn watch(&self, turn: Uuid) -> watch::Receiver<u64> {
        self.watchers.subscribe(turn)
    }

    async fn write<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Write) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes.send(make(reply)).await.map_err(|_| StoreError::NotWritten)?;
        answer.await.map_err(|_| StoreError::NotWritten)
    }

    /// Takes a turn in, unless its id is known.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn accept(&self, turn: NewTurn) -> Result<Accepted, StoreError> {
        self.write(|reply| Write::Accept(turn, reply)).await
    }

    /// Marks an open turn as running; `None` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn start(&self, position: i64) -> Result<Option<Started>, StoreError> {
        self.write(|reply| Write::Start(position, reply)).await
    }

    /// Adds events to a running turn; `false` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn append(&self, position: i64, events: Vec<EventKind>) -> Result<bool, StoreError> {
        self.write(|reply| Write::Append(position, events, reply)).await
    }

    /// Ends a running turn: events, history and state in one transaction; `false` where it was over already.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn finish(&self, finish: Finish) -> Result<bool, StoreError> {
        self.write(|reply| Write::Finish(finish, reply)).await
    }

    /// Ends a queued turn, or notes that a running one is to stop; `None` for an unknown id.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn cancel(&self, turn: Uuid) -> Result<Option<Cancelled>, StoreError> {
        self.write(|reply| Write::Cancel(turn, reply)).await
    }

    /// Forgets a conversation: its history, and what its finished turns said. The answer counts messages of history.
    /// A turn that is queued or running goes on, and begins the new history.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: String) -> Result<i64, StoreError> {
        self.write(|reply| Write::DeleteChat(chat_id, reply)).await
    }

    /// Deletes the events of up to a thousand turns that ended more than `seconds` ago; the answer counts events.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn forget_events_older_than(&self, seconds: i64) -> Result<u64, StoreError> {
        self.write(|reply| Write::ForgetEvents { older_than_seconds: seconds, reply }).await
    }

    /// Lets the readers go.
    pub async fn close(self) {
        self.reader.close().await;
    }
}

async fn write_in_batches(mut connection: SqliteConnection, mut queue: mpsc::Receiver<Write>, watchers: Watchers) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // A failed batch drops its replies, which is how the requesters learn of it.
        match commit(&mut connection, &mut batch).await {
            Ok(effects) => {
                for effect in effects {
                    if let Some(turn) = effect.touched {
                        watchers.notify(turn);
                    }
                    (effect.reply)();
                }
            }
            Err(e) => error!(error = %e, "the database did not take a batch of changes"),
        }
        batch.clear();
    }
    if let Err(e) = connection.close().await {
        error!(error = %e, "the database could not be closed");
    }
}

async fn commit(connection: &mut SqliteConnection, batch: &mut Vec<Write>) -> Result<Vec<Effect>, StoreError> {
    // Locked from the start: another process with the file open (a backup) makes it wait, not fail half way.
    let mut transaction = connection.begin_with("begin immediate").await?;
    let mut effects = Vec::with_capacity(batch.len());
    for write in batch.drain(..) {
        effects.push(write.execute(&mut transaction).await?);
    }
    transaction.commit().await?;
    Ok(effects)
}

/// What follows from a change once it is committed.
pub(super) struct Effect {
    /// The turn whose readers have something to see.
    pub touched: Option<Uuid>,
    /// Tells the requester.
    pub reply: Box<dyn FnOnce() + Send>,
}

/// Those who wait for events, by turn; a turn that nobody watches has no entry.
#[derive(Clone, Default)]
struct Watchers {
    by_turn: Arc<Mutex<HashMap<Uuid, watch::Sender<u64>>>>,
}

impl Watchers {
    fn subscribe(&self, turn: Uuid) -> watch::Receiver<u64> {
        let mut by_turn = self.by_turn.lock().unwrap_or_else(PoisonError::into_inner);
        by_turn.retain(|_, sender| sender.receiver_count() > 0);
        by_turn.entry(turn).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    fn notify(&self, turn: Uuid) {
        if let Some(sender) = self.by_turn.lock().unwrap_or_else(PoisonError::into_inner).get(&turn) {
            sender.send_modify(|changes| *changes += 1);
        }
    }
}
