//! Files on their way: snapshots that go out to a chat, and uploads that came with a message.
//!
//! Both are in directories of the server's own beside its database, where no tool reaches: what is sent is what was there
//! when it was sent, and what came is what is read, whatever happens in a workspace.

mod attachments;
mod names;
mod snapshots;
mod sweep;
mod uploads;

pub use attachments::{Arrived, Image};
pub use names::{is_sensitive, quoted, stored_name};
pub use snapshots::{NewSnapshot, SnapshotError, SnapshotPath};
pub use sweep::{SweepError, snapshots as sweep_snapshots, sweep_regularly, uploads as sweep_uploads};
pub use uploads::{ReceiveError, UploadPath};

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whole files in memory at the same time, each of up to 50 MB.
const WHOLE_FILES_AT_ONCE: usize = 2;

/// The server's own files. Clones share it.
#[derive(Clone)]
pub struct Files {
    shared: Arc<Shared>,
    shows_images: bool,
}

struct Shared {
    /// `out/{uuid}/{name}`.
    out: PathBuf,
    out_bytes: Held,
    /// `uploads/{turn_id}/{name}`.
    uploads: PathBuf,
    upload_bytes: Held,
    /// Uploads that are received at the same time.
    receiving: Semaphore,
    /// The launcher's files come and go whole, so few at the same time.
    whole_files: Arc<Semaphore>,
    /// Images that turns hold.
    shown: attachments::Shown,
}

impl Files {
    /// Makes the directories beside the database and counts what they hold.
    ///
    /// # Errors
    /// They cannot be made or read.
    pub fn beside(db_path: &Path) -> io::Result<Self> {
        let base = db_path.parent().filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (out, uploads) = (base.join("out"), base.join("uploads"));
        for directory in [&out, &uploads] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let held = |directory: &Path| Ok::<_, io::Error>(Held::new(packets(directory)?.iter().map(|p| p.bytes).sum()));
        let (out_bytes, upload_bytes) = (held(&out)?, held(&uploads)?);
        let receiving = Semaphore::new(uploads::RECEIVED_AT_ONCE);
        let whole_files = Arc::new(Semaphore::new(WHOLE_FILES_AT_ONCE));
        let shown = attachments::Shown::default();
        let shared = Shared { out, out_bytes, uploads, upload_bytes, receiving, whole_files, shown };
        Ok(Self { shared: Arc::new(shared), shows_images: false })
    }

    /// Whether attached images are made ready for the model's eyes: not, unless this is said.
    #[must_use]
    pub fn showing_images(self, shows_images: bool) -> Self {
        Self { shows_images, ..self }
    }

    /// To be held by whoever has a whole file in memory.
    pub async fn whole_file(&self) -> Option<OwnedSemaphorePermit> {
        // silent-ok: it is never closed
        self.shared.whole_files.clone().acquire_owned().await.ok()
    }
}

/// Bytes that a directory holds.
struct Held(AtomicU64);

impl Held {
    fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) -> u64 {
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    fn remove(&self, bytes: u64) {
        // silent-ok: the closure always gives a value, so there is no error
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(bytes)));
    }
}

/// One directory of a snapshot or of a turn's uploads.
struct Packet {
    path: PathBuf,
    name: String,
    bytes: u64,
    /// Since the last change.
    age_seconds: u64,
}

/// What is in `out` or `uploads`. Blocks.
fn packets(directory: &Path) -> io::Result<Vec<Packet>> {
    let mut packets = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Ok(meta) if meta.is_dir() => meta,
            // silent-ok: gone in this moment, or none of ours
            _ => continue,
        };
        // silent-ok: a clock that was set back makes it look new
        let age_seconds = meta.modified()?.elapsed().map_or(0, |age| age.as_secs());
        let mut bytes = 0;
        if let Ok(files) = std::fs::read_dir(entry.path()) {
            // silent-ok: a file that goes in this moment counts nothing
            bytes = files.flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        packets.push(Packet { path: entry.path(), name, bytes, age_seconds });
    }
    Ok(packets)
}

/// Makes what was renamed or made in a directory survive a power cut. Blocks.
fn sync_directory(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// Runs work that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
