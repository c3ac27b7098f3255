//! Snapshots of files that were sent to a chat: `out/{uuid}/{name}`.
//!
//! A snapshot is whole and on the disk before anything names it, and what names it is committed with the result of the tool
//! call that sent it. What a kill leaves in between is named by nobody and goes with its age.

use super::{Files, Packet, blocking, packets, stored_name, sync_directory};
use baal_protocol::MAX_FILE_BYTES;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;
use tracing::{info, warn};
use uuid::Uuid;

/// Bytes that all snapshots may hold together.
const MAX_HELD: u64 = 1024 * 1024 * 1024;
/// How long a snapshot can be fetched, in seconds: a week, as the events that name it.
const KEPT_SECONDS: u64 = 7 * 24 * 3600;
/// Not deleted for want of room before this age, in seconds: what names it may be on its way.
const YOUNG_SECONDS: u64 = 600;

/// A path `out/{uuid}/{name}` as events name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath {
    id: Uuid,
    name: String,
}

impl SnapshotPath {
    /// Reads a path; `None` where it is no snapshot's.
    pub fn parse(path: &str) -> Option<Self> {
        let (id, name) = path.strip_prefix("out/")?.split_once('/')?;
        // Only as written by [`SnapshotPath::text`]: other spellings of the id would be other directories.
        let id = Uuid::try_parse(id).ok().filter(|parsed| parsed.to_string() == id)?;
        (stored_name(name) == name).then(|| Self { id, name: name.to_owned() })
    }

    /// As events name it.
    pub fn text(&self) -> String {
        format!("out/{}/{}", self.id, self.name)
    }

    /// What the file is called.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// More than [`MAX_FILE_BYTES`].
    #[error("the file is larger than 50 MB")]
    TooLarge,
    /// Others wait to be fetched.
    #[error("too many files wait to be fetched")]
    Full,
    /// The disk.
    #[error("the file could not be copied: {0}")]
    Io(#[from] io::Error),
}

/// A snapshot that is being written; gone when dropped before [`NewSnapshot::keep`].
pub struct NewSnapshot {
    files: Files,
    file: tokio::fs::File,
    directory: PathBuf,
    path: SnapshotPath,
    bytes: u64,
    kept: bool,
}

impl Files {
    /// Begins a snapshot of a file of this name.
    ///
    /// # Errors
    /// The disk. `Full` comes with the bytes.
    pub async fn new_snapshot(&self, name: &str) -> Result<NewSnapshot, SnapshotError> {
        let path = SnapshotPath { id: Uuid::new_v4(), name: stored_name(name) };
        let directory = self.shared.out.join(path.id.to_string());
        let file = directory.join(&path.name);
        let made = directory.clone();
        let file = blocking(move || {
            std::fs::create_dir(&made)?;
            std::fs::File::create_new(file)
        })
        .await?;
        let file = tokio::fs::File::from_std(file);
        Ok(NewSnapshot { files: self.clone(), file, directory, path, bytes: 0, kept: false })
    }

    /// Opens a snapshot and tells its size; `None` where it is gone or never was.
    ///
    /// # Errors
    /// The disk.
    pub async fn open_snapshot(&self, path: &SnapshotPath) -> io::Result<Option<(tokio::fs::File, u64)>> {
        super::uploads::open(self.shared.out.join(path.id.to_string()).join(&path.name)).await
    }

    /// Whether snapshots hold so much that [`Files::sweep_snapshots`] is due.
    pub fn snapshots_are_many(&self) -> bool {
        self.shared.out_bytes.get() > MAX_HELD - MAX_FILE_BYTES
    }

    /// Deletes snapshots after a week, and the oldest while they hold too much; never one of `needed` (paths).
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn sweep_snapshots(&self, needed: &HashSet<String>) -> io::Result<()> {
        let needed: HashSet<String> =
            needed.iter().filter_map(|path| Some(SnapshotPath::parse(path)?.id.to_string())).collect();
        let files = self.clone();
        blocking(move || {
            let found = packets(&files.shared.out)?;
            let (mut gone, mut freed) = (0, 0);
            for packet in superfluous(found, &needed, MAX_HELD - MAX_FILE_BYTES) {
                match std::fs::remove_dir_all(&packet.path) {
                    Ok(()) => (gone, freed) = (gone + 1, freed + packet.bytes),
                    Err(e) => warn!(error = %e, "an old snapshot could not be deleted"),
                }
            }
            files.shared.out_bytes.remove(freed);
            if gone > 0 {
                info!(snapshots = gone, bytes = freed, "old snapshots of sent files deleted");
            }
            Ok(())
        })
        .await
    }
}

/// Those to be deleted.
fn superfluous(mut found: Vec<Packet>, needed: &HashSet<String>, max_held: u64) -> Vec<Packet> {
    found.sort_by_key(|packet| std::cmp::Reverse(packet.age_seconds));
    let mut held: u64 = found.iter().map(|packet| packet.bytes).sum();
    found.retain(|packet| {
        let aged = packet.age_seconds > KEPT_SECONDS;
        let crowded = held > max_held && packet.age_seconds > YOUNG_SECONDS;
        let goes = (aged || crowded) && !needed.contains(&packet.name);
        if goes {
            held -= packet.bytes;
        }
        goes
    });
    found
}

impl NewSnapshot {
    /// Adds bytes.
    ///
    /// # Errors
    /// They are too many, or the disk.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let more = bytes.len() as u64;
        if self.bytes + more > MAX_FILE_BYTES {
            return Err(SnapshotError::TooLarge);
        }
        self.bytes += more;
        if self.files.shared.out_bytes.add(more) > MAX_HELD {
            return Err(SnapshotError::Full);
        }
        Ok(self.file.write_all(bytes).await?)
    }

    /// Makes it last; the answer is how events name it.
    ///
    /// # Errors
    /// The disk.
    pub async fn keep(mut self) -> Result<SnapshotPath, SnapshotError> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let (directory, out) = (self.directory.clone(), self.files.shared.out.clone());
        blocking(move || {
            sync_directory(&directory)?;
            sync_directory(&out)
        })
        .await?;
        self.kept = true;
        Ok(self.path.clone())
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        if !self.kept {
            self.files.shared.out_bytes.remove(self.bytes);
            if let Err(e) = std::fs::remove_dir_all(&self.directory) {
                warn!(error = %e, "half a snapshot could not be deleted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(name: &str, bytes: u64, age_seconds: u64) -> Packet {
        Packet { path: PathBuf::new(), name: name.into(), bytes, age_seconds }
    }

    #[test]
    fn old_ones_go_and_the_oldest_for_want_of_room_but_none_that_is_needed() {
        let gone = |max_held| {
            let found = vec![
                packet("young", 10, 5),
                packet("day", 10, 86_400),
                packet("older", 10, 90_000),
                packet("week", 10, KEPT_SECONDS + 1),
                packet("needed", 10, KEPT_SECONDS + 2),
            ];
            let mut names: Vec<String> =
                superfluous(found, &["needed".to_owned()].into(), max_held).into_iter().map(|p| p.name).collect();
            names.sort();
            names
        };
        assert_eq!(gone(1000), ["week"]);
        assert_eq!(gone(30), ["older", "week"]);
        assert_eq!(gone(0), ["day", "older", "week"]);
    }

    #[test]
    fn only_a_snapshots_own_path_is_one() {
        let path = "out/67e55044-10b1-426f-9247-bb680e5fe0c8/a b.txt";
        assert_eq!(SnapshotPath::parse(path).map(|p| p.text()), Some(path.to_owned()));
        for path in [
            "out/x/a",
            "out/67E55044-10b1-426f-9247-bb680e5fe0c8/a",
            "out/67e55044-10b1-426f-9247-bb680e5fe0c8/../x",
            "out/67e55044-10b1-426f-9247-bb680e5fe0c8/a/b",
            "out/67e55044-10b1-426f-9247-bb680e5fe0c8/",
            "out/67e55044-10b1-426f-9247-bb680e5fe0c8",
            "a/out/67e55044-10b1-426f-9247-bb680e5fe0c8/a",
        ] {
            assert_eq!(SnapshotPath::parse(path), None, "{path}");
        }
    }
}
