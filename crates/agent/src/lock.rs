//! One agent per directory: an exclusive `flock`, which the kernel drops with the process, however it ends.

use baal_protocol::{AgentLock, LOCK_FILE};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the lock is tried for.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// Whoever asks whether an agent lives takes the lock for a moment, which must not keep one from starting.
fn lock_patiently(file: &File) -> rustix::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PATIENCE / 50),
            result => return result,
        }
    }
}

impl DirectoryLock {
    /// Takes the lock of the directory that holds `database`, made if missing. Blocks for up to a second.
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
        match lock_patiently(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_look_at_the_lock_keeps_no_agent_from_starting() {
        let directory = tempfile::tempdir().expect("temp dir");
        let look = File::create(directory.path().join(LOCK_FILE)).expect("file");
        flock(&look, FlockOperation::NonBlockingLockExclusive).expect("free");
        let looking = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 10);
            drop(look);
        });
        let database = directory.path().join("agent.db");
        let lock = DirectoryLock::take(&database).expect("taken");
        looking.join().expect("joined");
        assert!(matches!(DirectoryLock::take(&database), Err(LockError::Held { .. })));
        drop(lock);
        DirectoryLock::take(&database).expect("taken again");
    }
}
