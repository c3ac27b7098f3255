//! Deletes what nobody fetches or sends any more.

use super::Files;
use crate::store::{Store, StoreError};
use std::collections::HashSet;
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const EVERY: Duration = Duration::from_secs(3600);

/// Why files could not be swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// What is needed is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directories.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sweeps at the start and every hour.
pub async fn sweep_regularly(files: Files, store: Store, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        for swept in [snapshots(&files, &store).await, uploads(&files, &store).await] {
            if let Err(e) = swept {
                warn!(error = %e, "old files could not be deleted");
            }
        }
    }
}

/// Deletes snapshots that are old or too many, but for those that unacknowledged messages name.
///
/// # Errors
/// The database or the directory failed.
pub async fn snapshots(files: &Files, store: &Store) -> Result<(), SweepError> {
    let needed = store.read().pending_files().await?;
    Ok(files.sweep_snapshots(&needed).await?)
}

/// Deletes uploads whose turn didn't come within a day or is over.
async fn uploads(files: &Files, store: &Store) -> Result<(), SweepError> {
    let mut gone = HashSet::new();
    for turn in files.old_uploads().await? {
        if store.read().turn(turn).await?.is_none_or(|turn| turn.is_over()) {
            gone.insert(turn);
        }
    }
    if gone.is_empty() { Ok(()) } else { Ok(files.delete_uploads(gone).await?) }
}
