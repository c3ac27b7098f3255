//! The connections that read what is committed.

use super::{StoreError, options};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use std::path::Path;
use std::time::Duration;

/// Connections; a read takes well under a millisecond.
const READERS: u32 = 2;

/// The reading side of the database.
#[derive(Clone)]
pub struct Reader {
    pub(super) pool: SqlitePool,
}

impl Reader {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options(path).read_only(true));
        Ok(Self { pool })
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}
