//! One agent per directory: an exclusive `flock`, which the kernel drops with the process, however it ends.

use baal_protocol::{AgentLock, LOCK_FILE};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent already works on {path}{}; stop it first, or use another db_path", owner(.holder))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who says to have it.
        holder: Option<AgentLock>,
    },
    /// The file could not be made or locked.
    #[error("the lock file {path} cannot be used: {source}")]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn owner(holder: &Option<AgentLock>) -> String {
    holder.as_ref().map(|h| format!(" (process {} at {})", h.pid, h.address)).unwrap_or_default()
}

impl DirectoryLock {
    /// Takes the lock of the directory that holds `database`, made if missing, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] where another process has it.
    pub fn take(database: &Path) -> Result<Self, LockError> {
        let directory = match database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let path = directory.join(LOCK_FILE);
        let failed = |source| LockError::File { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                // silent-ok: who holds it is only a hint; the file may be empty or half written
                let holder = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
                return Err(LockError::Held { path, holder });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // Nobody should find the address of an agent that is gone.
        file.set_len(0).map_err(failed)?;
        Ok(Self { file })
    }

    /// Writes who has the lock and where it listens.
    ///
    /// # Errors
    /// What the file system says.
    pub fn tell(&mut self, address: SocketAddr) -> io::Result<()> {
        let content = AgentLock { pid: std::process::id(), address: address.to_string() };
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(serde_json::to_string(&content)?.as_bytes())?;
        self.file.flush()
    }
}
