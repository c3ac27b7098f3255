//! The one task that writes, and the door to it.

use super::read::Reader;
use super::watch::{Watch, Watchers};
use super::{StoreError, options, pending};
use baal_protocol::Event;
use futures_util::future::BoxFuture;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
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
    writes: mpsc::Sender<Change>,
    reader: Reader,
    watchers: Watchers,
    writable: Arc<AtomicBool>,
    pub(super) bell: pending::Bell,
    database_id: Uuid,
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
        let bell = pending::Bell::new();
        let database_id = pending::database_id(&mut connection).await?;
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
        Ok((Self { writes, reader, watchers, writable, bell, database_id }, writer))
    }

    /// Whether changes are taken; `false` from a failure on until the database has been opened and written to again.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Tells one database from another that took its place.
    pub fn database_id(&self) -> Uuid {
        self.database_id
    }

    /// What is committed.
    pub fn read(&self) -> &Reader {
        &self.reader
    }

    /// The events of a turn as they are committed from now on.
    pub fn watch(&self, turn: Uuid) -> Watch {
        self.watchers.watch(turn)
    }

    /// Runs a change in a transaction that it may share with others, and answers once that is committed.
    ///
    /// # Errors
    /// Nothing was written.
    pub(super) async fn write<T, C>(&self, change: C) -> Result<T, StoreError>
    where
        T: Send + 'static,
        C: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<Changed<T>, StoreError>> + Send + 'static,
    {
        self.write_then(change, |_| ()).await
    }

    /// As [`Store::write`]; `after` runs once the change is committed, also where the requester went away.
    ///
    /// # Errors
    /// Nothing was written.
    pub(super) async fn write_then<T, C, A>(&self, change: C, after: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        C: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<Changed<T>, StoreError>> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let change: Change = Box::new(move |db| {
            Box::pin(async move {
                let Changed { value, events } = change(db).await?;
                let reply = Box::new(move || {
                    after(&value);
                    // silent-ok: a requester that went away doesn't want to know
                    drop(reply.send(value));
                });
                Ok(Effect { events, reply })
            })
        });
        self.writes.send(change).await.map_err(|_| StoreError::NotWritten)?;
        answer.await.map_err(|_| StoreError::NotWritten)
    }

    /// Lets the readers go.
    pub async fn close(self) {
        self.reader.close().await;
    }
}

/// The task that writes.
struct Writer {
    path: PathBuf,
    queue: mpsc::Receiver<Change>,
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
            for (turn, events) in effect.events {
                self.watchers.tell(turn, events);
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

async fn commit(connection: &mut SqliteConnection, batch: &mut Vec<Change>) -> Result<Vec<Effect>, StoreError> {
    // Locked from the start: another process with the file open (a backup) makes it wait, not fail half way.
    let mut transaction = connection.begin_with("begin immediate").await?;
    let mut effects = Vec::with_capacity(batch.len());
    for change in batch.drain(..) {
        effects.push(change(&mut transaction).await?);
    }
    transaction.commit().await?;
    Ok(effects)
}

/// A change, run inside a transaction that others share, so it fails only where the database does.
type Change = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<Effect, StoreError>> + Send>;

/// What a change brought.
pub(super) struct Changed<T> {
    /// For the requester.
    pub value: T,
    /// What the readers of turns see once it is committed.
    pub events: Vec<(Uuid, Vec<Event>)>,
}

impl<T> Changed<T> {
    /// A change without events.
    pub fn quietly(value: T) -> Self {
        Self { value, events: Vec::new() }
    }
}

/// What follows from a change once it is committed.
struct Effect {
    events: Vec<(Uuid, Vec<Event>)>,
    /// Tells the requester.
    reply: Box<dyn FnOnce() + Send>,
}
