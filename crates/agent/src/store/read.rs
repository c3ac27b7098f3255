//! The connections that read what is committed.

use super::StoreError;
use super::connection::open_to_read;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Connections; a read takes well under a millisecond.
const READERS: u32 = 2;

/// The reading side of the database. Clones share it.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// Opened when first needed.
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Reader {
    pub(super) fn new(path: &Path) -> Self {
        let permits = Arc::new(Semaphore::new(READERS as usize));
        Self { shared: Arc::new(Shared { path: path.to_owned(), idle: Mutex::default(), permits }) }
    }

    /// Runs queries on a thread that may wait for the disk.
    ///
    /// # Errors
    /// The database failed.
    pub(super) async fn read<T, Q>(&self, queries: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let shared = self.shared.clone();
        let permit = shared.permits.clone().acquire_owned().await.map_err(|_| StoreError::NotRead)?;
        let reading = spawn_blocking(move || {
            let idle = shared.idle().pop();
            let connection = idle.map_or_else(|| open_to_read(&shared.path), Ok)?;
            // After a failure, and after a panic, the next one gets a new connection.
            let found = queries(&connection)?;
            shared.idle().push(connection);
            drop(permit);
            Ok(found)
        });
        reading.await.map_err(|_| StoreError::NotRead)?
    }

    /// Closes the connections, so that the writer is the last one to close and puts the log away.
    pub(super) async fn close(&self) {
        // silent-ok: it fails only where they are closed already
        let all = self.shared.permits.acquire_many(READERS).await.ok();
        self.shared.permits.close();
        self.shared.idle().clear();
        drop(all);
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
