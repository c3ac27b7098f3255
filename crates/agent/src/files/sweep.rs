//! Deletes what nobody fetches or sends any more.

use super::Files;
use crate::store::{Store, StoreError};
use std::collections::HashSet;
use std::io;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

const EVERY: Duration = Duration::from_secs(3600);
/// How long an upload waits for its turn, in seconds: a day.
const KEPT_SECONDS: u64 = 24 * 3600;
/// How long it stays when its turn is over, in seconds: by then it is in the workspace.
const KEPT_AFTER_ITS_TURN_SECONDS: u64 = 600;
/// The same while there is no room for others: whoever took the message in just now may yet copy it.
const KEPT_WITHOUT_ROOM_SECONDS: u64 = 60;

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
///
/// # Errors
/// The database or the directory failed.
pub async fn uploads(files: &Files, store: &Store) -> Result<(), SweepError> {
    let kept_after = if files.uploads_are_many() { KEPT_WITHOUT_ROOM_SECONDS } else { KEPT_AFTER_ITS_TURN_SECONDS };
    let mut gone = HashSet::new();
    for (turn, age_seconds) in files.uploads_older_than(kept_after).await? {
        let goes = match store.read().turn(turn).await? {
            None => age_seconds > KEPT_SECONDS,
            Some(turn) => turn.is_over(),
        };
        if goes {
            gone.insert(turn);
        }
    }
    if gone.is_empty() { Ok(()) } else { Ok(files.delete_uploads(gone).await?) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::UploadPath;
    use crate::store::NewTurn;
    use crate::tools::TurnKind;
    use axum::body::Bytes;
    use serde_json::json;
    use std::time::SystemTime;
    use uuid::Uuid;

    #[tokio::test]
    async fn uploads_go_soon_after_their_turn_and_wait_a_day_for_it() {
        let directory = tempfile::tempdir().expect("temp dir");
        let db_path = directory.path().join("agent.db");
        let (store, _writer) = Store::open(&db_path).await.expect("a database");
        let files = Files::beside(&db_path).expect("files");
        let request = serde_json::from_value(json!({"message": "look", "chat_id": "1"})).expect("a request");
        let new_turn = || NewTurn::background(TurnKind::Chat, Clone::clone(&request), "1".into());
        let (over, open) = (new_turn(), new_turn());
        for turn in [&over, &open] {
            store.accept(turn.clone(), false).await.expect("written");
        }
        store.cancel(over.id).await.expect("written");

        let left = async |turn: Uuid, age_seconds: u64| {
            let path = UploadPath::new(turn, "a.txt");
            let content = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from("x"))]);
            files.receive(&path, content).await.expect("received");
            let of_turn = std::fs::File::open(directory.path().join(format!("uploads/{turn}"))).expect("there");
            of_turn.set_modified(SystemTime::now() - Duration::from_secs(age_seconds)).expect("set");
            uploads(&files, &store).await.expect("swept");
            files.open_upload(&path).await.expect("readable").is_some()
        };
        assert!(left(over.id, 500).await);
        assert!(!left(over.id, 700).await);
        assert!(left(open.id, 90_000).await, "it is still to be read");
        let unknown = Uuid::new_v4();
        assert!(left(unknown, 80_000).await);
        assert!(!left(unknown, 90_000).await);
    }
}
