//! The one thread that writes, and the door to it.

use super::connection::{open_to_write, open_up_to_date, try_to_write};
use super::read::Reader;
use super::watch::{Watch, Watchers};
use super::{StoreError, pending};
use baal_protocol::Event;
use rusqlite::{Connection, TransactionBehavior};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
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
    pub async fn open(path: &Path) -> Result<(Self, JoinHandle<()>), StoreError> {
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
        let opening = spawn_blocking({
            let path = path.to_owned();
            move || {
                let connection = open_up_to_date(&path)?;
                let database_id = pending::database_id(&connection)?;
                Ok::<_, StoreError>((connection, database_id))
            }
        });
        let (connection, database_id) = opening.await.map_err(|_| StoreError::NotWritten)??;
        let writer = spawn_blocking(move || writer.work(connection));
        let bell = pending::Bell::new();
        Ok((Self { writes, reader: Reader::new(path), watchers, writable, bell, database_id }, writer))
    }

    /// Whether changes are taken; `false` from a failure on until the database has been opened and written to again.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed) && !self.writes.is_closed()
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
    /// The connection is inside the transaction. It is the writer's thread that runs the change, so others wait meanwhile.
    ///
    /// # Errors
    /// Nothing was written.
    pub(super) async fn write<T, C>(&self, change: C) -> Result<T, StoreError>
    where
        T: Send + 'static,
        C: FnOnce(&Connection) -> Result<Changed<T>, StoreError> + Send + 'static,
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
        C: FnOnce(&Connection) -> Result<Changed<T>, StoreError> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let change: Change = Box::new(move |db| {
            let Changed { value, events } = change(db)?;
            let reply = Box::new(move || {
                after(&value);
                // silent-ok: a requester that went away doesn't want to know
                drop(reply.send(value));
            });
            Ok(Effect { events, reply })
        });
        self.writes.send(change).await.map_err(|_| StoreError::NotWritten)?;
        answer.await.map_err(|_| StoreError::NotWritten)
    }

    /// Lets the readers go.
    pub async fn close(self) {
        self.reader.close().await;
    }
}

/// What the writing thread works with.
struct Writer {
    path: PathBuf,
    queue: mpsc::Receiver<Change>,
    watchers: Watchers,
    writable: Arc<AtomicBool>,
    /// Kept over failures until a commit, so that a database that fails at every other change is not opened all the time.
    reopen_after: Duration,
}

impl Writer {
    fn work(mut self, mut connection: Connection) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            // A failed batch drops its replies, which is how the requesters learn of it. One change that panics is a mistake
            // of the agent's own, and must not end the writing for good.
            match catch_unwind(AssertUnwindSafe(|| commit(&mut connection, &mut batch))) {
                Ok(Ok(effects)) => {
                    self.tell(effects);
                    continue;
                }
                Ok(Err(e)) => error!(error = %e, "the database did not take a batch of changes"),
                Err(_) => error!("a change to the database panicked; its batch was not written"),
            }
            batch.clear();
            let Some(opened) = self.open_again(connection) else {
                return;
            };
            connection = opened;
        }
        close(connection);
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

    /// A new connection in place of a failed one, whose view of the file may be wrong; `None` where nobody is left to write
    /// for.
    fn open_again(&mut self, failed: Connection) -> Option<Connection> {
        self.writable.store(false, Ordering::Relaxed);
        close(failed);
        loop {
            // Nobody is kept waiting: whoever asks in the meantime hears at once that nothing was written.
            let refuse = async { while self.queue.recv().await.is_some() {} };
            let refused = Handle::current().block_on(async { timeout(self.reopen_after, refuse).await });
            if refused.is_ok() {
                return None;
            }
            self.reopen_after = (self.reopen_after * 2).min(MAX_REOPEN_AFTER);
            let opened = open_to_write(&self.path).and_then(|connection| {
                try_to_write(&connection)?;
                Ok(connection)
            });
            match opened {
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

fn close(connection: Connection) {
    if let Err((_, e)) = connection.close() {
        error!(error = %e, "the database could not be closed");
    }
}

fn commit(connection: &mut Connection, batch: &mut Vec<Change>) -> Result<Vec<Effect>, StoreError> {
    // Locked from the start: another process with the file open (a backup) makes it wait, not fail half way.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut effects = Vec::with_capacity(batch.len());
    for change in batch.drain(..) {
        let before = transaction.total_changes();
        match change(&transaction) {
            Ok(effect) => effects.push(effect),
            // A value that cannot be read is that change's own trouble: as long as it has written nothing, the others go on.
            Err(e @ StoreError::Content(_)) if transaction.total_changes() == before => {
                error!(error = %e, "a change to the database was left out");
            }
            Err(e) => return Err(e),
        }
    }
    transaction.commit()?;
    Ok(effects)
}

/// A change, run inside a transaction that others share, so it fails only where the database does, or before it writes anything.
type Change = Box<dyn FnOnce(&Connection) -> Result<Effect, StoreError> + Send>;

/// A turn and what its readers see.
pub(super) type Told = (Uuid, Vec<Event>);

/// What a change brought.
pub(super) struct Changed<T> {
    /// For the requester.
    pub value: T,
    /// What the readers of turns see once it is committed.
    pub events: Vec<Told>,
}

impl<T> Changed<T> {
    /// A change without events.
    pub fn quietly(value: T) -> Self {
        Self { value, events: Vec::new() }
    }
}

/// What follows from a change once it is committed.
struct Effect {
    events: Vec<Told>,
    /// Tells the requester.
    reply: Box<dyn FnOnce() + Send>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_panics_is_not_written_and_the_next_one_is() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (store, writer) = Store::open(&directory.path().join("agent.db")).await.expect("opened");
        let insert = "insert into tokens_per_byte (model, ratio) values (?, 1)";
        let panics = store.write::<(), _>(move |db| {
            db.execute(insert, ["one"])?;
            panic!("as a mistake would");
        });
        assert!(matches!(panics.await, Err(StoreError::NotWritten)));
        let written = async || store.write(move |db| Ok(Changed::quietly(db.execute(insert, ["two"])?))).await.is_ok();
        while !written().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let models = store.read().read(|db| {
            Ok(db.query_row("select group_concat(model) from tokens_per_byte", [], |row| row.get::<_, String>(0))?)
        });
        assert_eq!(models.await.expect("read"), "two");

        store.clone().close().await;
        drop(store);
        writer.await.expect("ends when nobody is left to write for");
        assert!(!directory.path().join("agent.db-wal").exists(), "the log is put away");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_of_the_writer_is_seen() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (store, writer) = Store::open(&directory.path().join("agent.db")).await.expect("opened");
        assert!(store.is_writable());
        let panics = store.write_then(|_| Ok(Changed::quietly(())), |()| panic!("as a mistake would")).await;
        assert!(matches!(panics, Err(StoreError::NotWritten)));
        assert!(writer.await.is_err(), "whoever waits for it can end the agent");
        assert!(!store.is_writable());
    }
}
