//! Files that came with a message, before the message comes: `uploads/{turn_id}/{name}`.
//!
//! Sent again under the same name, a file takes the place of the former one, whole or not at all.

use super::{Files, blocking, packets, stored_name, sync_directory};
use axum::body::Bytes;
use baal_protocol::MAX_FILE_BYTES;
use futures_util::{Stream, StreamExt};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tracing::{info, warn};
use uuid::Uuid;

/// Uploads received at the same time.
pub(super) const RECEIVED_AT_ONCE: usize = 4;
/// Bytes that all uploads may hold together.
const MAX_HELD: u64 = 1024 * 1024 * 1024;
/// Files of one turn.
const MAX_FILES: usize = 20;
/// Longest silence of a sender.
const SILENCE: Duration = Duration::from_secs(30);

/// A path `uploads/{turn_id}/{name}` as attachments name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadPath {
    turn: Uuid,
    name: String,
}

impl UploadPath {
    /// Where the file of this name lies, however hostile it is.
    pub fn new(turn: Uuid, name: &str) -> Self {
        Self { turn, name: stored_name(name) }
    }

    /// Reads a path; `None` where it is no upload's of this turn.
    pub fn parse(path: &str, turn: Uuid) -> Option<Self> {
        let (id, name) = path.strip_prefix("uploads/")?.split_once('/')?;
        (Uuid::try_parse(id) == Ok(turn)).then(|| Self::new(turn, name))
    }

    /// Reads a path of whatever turn.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (id, _) = path.strip_prefix("uploads/")?.split_once('/')?;
        Self::parse(path, Uuid::try_parse(id).ok()?)
    }

    /// As attachments name it.
    pub fn text(&self) -> String {
        format!("uploads/{}/{}", self.turn, self.name)
    }

    /// The turn that it came for.
    pub(super) fn turn(&self) -> Uuid {
        self.turn
    }

    /// What the file is called.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// More than [`MAX_FILE_BYTES`].
    #[error("the file is larger than 50 MB")]
    TooLarge,
    /// The turn has enough.
    #[error("a message can have 20 files")]
    TooMany,
    /// Other uploads wait for their turns.
    #[error("too many uploads wait for their message, try again later")]
    Full,
    /// The sender broke off or went silent.
    #[error("the file did not come whole, send it again")]
    Broken,
    /// The disk.
    #[error("the file could not be stored: {0}")]
    Io(#[from] io::Error),
}

impl Files {
    /// Receives a file and makes it last; the answer is its size in bytes.
    ///
    /// # Errors
    /// It is not there then, or as it was before.
    pub async fn receive<E>(
        &self,
        path: &UploadPath,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<u64, ReceiveError> {
        let _permit = tokio::time::timeout(SILENCE, self.shared.receiving.acquire())
            .await
            .map_err(|_| ReceiveError::Full)?
            .map_err(|_| ReceiveError::Full)?;
        let directory = self.shared.uploads.join(path.turn.to_string());
        let wanted = directory.join(&path.name);
        let part = directory.join(format!(".part-{}", Uuid::new_v4()));
        let (made, known, opened) = (directory.clone(), wanted.clone(), part.clone());
        let file = blocking(move || {
            std::fs::create_dir_all(&made)?;
            if !known.exists() && std::fs::read_dir(&made)?.count() >= MAX_FILES {
                return Ok(None);
            }
            std::fs::File::create_new(opened).map(Some)
        })
        .await?;
        let Some(file) = file else { return Err(ReceiveError::TooMany) };
        let mut part = Part { files: self, path: part, bytes: 0, kept: false };
        part.fill(tokio::fs::File::from_std(file), body).await?;
        let (from, uploads) = (part.path.clone(), self.shared.uploads.clone());
        let replaced = blocking(move || {
            let replaced = std::fs::symlink_metadata(&wanted).map_or(0, |meta| meta.len());
            std::fs::rename(from, wanted)?;
            sync_directory(&directory)?;
            sync_directory(&uploads)?;
            Ok(replaced)
        })
        .await?;
        part.kept = true;
        self.shared.upload_bytes.remove(replaced);
        Ok(part.bytes)
    }

    /// Opens an upload and tells its size; `None` where it never came or was forgotten.
    ///
    /// # Errors
    /// The disk.
    pub async fn open_upload(&self, path: &UploadPath) -> io::Result<Option<(tokio::fs::File, u64)>> {
        open(self.shared.uploads.join(path.turn.to_string()).join(&path.name)).await
    }

    /// Whether uploads hold so much that [`super::sweep_uploads`] is due.
    pub fn uploads_are_many(&self) -> bool {
        self.shared.upload_bytes.get() > MAX_HELD - RECEIVED_AT_ONCE as u64 * MAX_FILE_BYTES
    }

    /// Turns whose uploads came longer ago than this, with their age in seconds.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn uploads_older_than(&self, seconds: u64) -> io::Result<Vec<(Uuid, u64)>> {
        let uploads = self.shared.uploads.clone();
        let found = blocking(move || packets(&uploads)).await?;
        let old = found.into_iter().filter(|packet| packet.age_seconds > seconds);
        Ok(old.filter_map(|packet| Some((Uuid::try_parse(&packet.name).ok()?, packet.age_seconds))).collect())
    }

    /// Deletes the uploads of these turns.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn delete_uploads(&self, turns: HashSet<Uuid>) -> io::Result<()> {
        let files = self.clone();
        blocking(move || {
            let found = packets(&files.shared.uploads)?;
            let mut gone = 0;
            for packet in found.iter().filter(|p| Uuid::try_parse(&p.name).is_ok_and(|id| turns.contains(&id))) {
                match std::fs::remove_dir_all(&packet.path) {
                    Ok(()) => {
                        files.shared.upload_bytes.remove(packet.bytes);
                        gone += 1;
                    }
                    Err(e) => warn!(error = %e, "an old upload could not be deleted"),
                }
            }
            if gone > 0 {
                info!(turns = gone, "old uploads deleted");
            }
            Ok(())
        })
        .await
    }
}

/// An upload on its way; gone when dropped before it is kept.
struct Part<'a> {
    files: &'a Files,
    path: PathBuf,
    bytes: u64,
    kept: bool,
}

impl Part<'_> {
    async fn fill<E>(
        &mut self,
        mut file: tokio::fs::File,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), ReceiveError> {
        loop {
            let piece = tokio::time::timeout(SILENCE, body.next()).await.map_err(|_| ReceiveError::Broken)?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|_| ReceiveError::Broken)?;
            let more = piece.len() as u64;
            if self.bytes + more > MAX_FILE_BYTES {
                return Err(ReceiveError::TooLarge);
            }
            self.bytes += more;
            if self.files.shared.upload_bytes.add(more) > MAX_HELD {
                return Err(ReceiveError::Full);
            }
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        Ok(())
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.files.shared.upload_bytes.remove(self.bytes);
            if let Err(e) = std::fs::remove_file(&self.path) {
                warn!(error = %e, "half an upload could not be deleted");
            }
        }
    }
}

/// Opens a regular file; `None` where there is none.
pub(super) async fn open(path: PathBuf) -> io::Result<Option<(tokio::fs::File, u64)>> {
    let opened = blocking(move || open_regular(&path)).await?;
    Ok(opened.map(|(file, bytes)| (tokio::fs::File::from_std(file), bytes)))
}

fn open_regular(path: &Path) -> io::Result<Option<(std::fs::File, u64)>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = file.metadata()?;
    Ok(meta.is_file().then_some((file, meta.len())))
}
