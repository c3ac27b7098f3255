//! Finding and ending the process of an agent's directory.
//!
//! A process id alone proves nothing, for ids are used again. Here a process is one whose arguments name the directory's
//! configuration, and signals go through a pidfd that was opened before the arguments were read.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use baal_protocol::{AgentLock, LOCK_FILE};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A live process.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// Sends a signal; one that has ended already is fine.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What the agent wrote about itself: nothing before it listens.
pub fn told(dir: &Path) -> Option<AgentLock> {
    // silent-ok: missing, empty or half written all mean that it does not listen yet.
    serde_json::from_slice(&fs::read(dir.join(LOCK_FILE)).ok()?).ok()
}

/// Whether an agent holds the directory's lock. Only to be asked while no agent is being started there: one that looked
/// for its lock at this very moment would find it taken.
pub fn lock_is_held(dir: &Path) -> io::Result<bool> {
    let file = match fs::File::open(dir.join(LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// The processes that were started with `config` as their `--config`, those that do not listen yet included.
pub fn find(dir: &Path, config: &Path) -> io::Result<Vec<Process>> {
    // The lock file saves the search among all processes of the host.
    let told = told(dir).and_then(|lock| i32::try_from(lock.pid).ok());
    if let Some(process) = told.and_then(|pid| open(pid, config)) {
        return Ok(vec![process]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(open(pid, config));
    }
    Ok(found)
}

fn open(pid: i32, config: &Path) -> Option<Process> {
    let raw = Pid::from_raw(pid)?;
    if !runs(pid, config) {
        return None;
    }
    // silent-ok: it has ended meanwhile.
    let fd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
    // Once more: only now is it certain that the pidfd and the arguments belong to the same process.
    runs(pid, config).then_some(Process(fd))
}

fn runs(pid: i32, config: &Path) -> bool {
    // silent-ok: it has ended, or is another user's and so none of ours.
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    names_config(&line, config)
}

/// Whether a command line, as /proc shows it, contains `--config` followed by `config`.
fn names_config(line: &[u8], config: &Path) -> bool {
    let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
    arguments.windows(2).any(|pair| pair[0] == b"--config" && pair[1] == config.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_configuration_alone() {
        let config = Path::new("/a b/config.json");
        assert!(names_config(b"/bin/agent\0--config\0/a b/config.json\0", config));
        assert!(!names_config(b"/bin/agent\0--config\0/a b/config.json.old\0", config));
        assert!(!names_config(b"vi\0/a b/config.json\0", config));
        assert!(!names_config(b"", config));
    }
}
