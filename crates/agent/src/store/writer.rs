//! The one task that writes, and the door to it.

use super::read::Reader;
use super::write::{Accepted, Cancelled, Finish, NewTurn, Started, Write};
use super::{StoreError, options};
use baal_protocol::EventKind;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{error, info};
use uuid::Uuid;

/// Changes that share one transaction at most.
const BATCH: usize = 64;
/// Wait before a failed database is opened again; doubled as long as it fails.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
/// Longest of these waits.
const MAX_REOPEN_AFTER: Duration = Duration::from_secs(5);

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    writes: mpsc::Sender<Write>,
    reader: Reader,
    watchers: Watchers,
    writable: Arc<AtomicBool>,
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
        let writable = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            path: path.to_owned(),
            queue,
            watchers: watchers.clone(),
            writable: writable.clone(),
            reopen_after: REOPEN_AFTER,
        };
        let writer = tokio::spawn(writer.work(connection));
        Ok((Self { writes, reader, watchers, writable }, writer))
    }

    /// Whether changes are taken; `false` from a failure on until the database has been opened and written to again.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
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

/// The task that writes.
struct Writer {
    path: PathBuf,
    queue: mpsc::Receiver<Write>,
    watchers: Watchers,
    writable: Arc<AtomicBool>,
    /// Kept over failures until a commit, so that a database that fails at every other change is not opened all the time.
    reopen_after: Duration,
}

impl Writer {
    async fn work(mut self, mut connection: SqliteConnection) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            // A failed batch drops its replies, which is how the requesters learn of it.
            match commit(&mut connection, &mut batch).await {
                Ok(effects) => self.tell(effects),
                Err(e) => {
                    error!(error = %e, "the database did not take a batch of changes");
                    batch.clear();
                    let Some(opened) = self.open_again(connection).await else {
                        return;
                    };
                    connection = opened;
                }
            }
        }
        close(connection).await;
    }

    fn tell(&mut self, effects: Vec<Effect>) {
        self.reopen_after = REOPEN_AFTER;
        for effect in effects {
            if let Some(turn) = effect.touched {
                self.watchers.notify(turn);
            }
            (effect.reply)();
        }
    }

    /// A new connection in place of a failed one; `None` where nobody is left to write for.
    ///
    /// After a full disk or an I/O error SQLite has rolled back by itself, and sqlx would for ever refuse to begin another
    /// transaction on that connection.
    async fn open_again(&mut self, failed: SqliteConnection) -> Option<SqliteConnection> {
        self.writable.store(false, Ordering::Relaxed);
        close(failed).await;
        loop {
            // Nobody is kept waiting: whoever asks in the meantime hears at once that nothing was written.
            let refuse = async { while self.queue.recv().await.is_some() {} };
            if timeout(self.reopen_after, refuse).await.is_ok() {
                return None;
            }
            self.reopen_after = (self.reopen_after * 2).min(MAX_REOPEN_AFTER);
            match open_and_write(&self.path).await {
                Ok(connection) => {
                    self.writable.store(true, Ordering::Relaxed);
                    info!("the database takes changes again");
                    return Some(connection);
                }
                Err(e) => error!(error = %e, "the database still takes no changes; is its disk full?"),
            }
        }
    }
}

/// Opens the database and makes sure that it can be written to, by a page that stays as it is.
async fn open_and_write(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut connection = options(path).connect().await?;
    match sqlx::raw_sql("pragma user_version = 0").execute(&mut connection).await {
        Ok(_) => Ok(connection),
        Err(e) => {
            close(connection).await;
            Err(e.into())
        }
    }
}

async fn close(connection: SqliteConnection) {
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
