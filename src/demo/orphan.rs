//! A Postgres server that outlived whoever started it.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// What a process is to a directory of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// The server that runs on it.
    Server,
    /// Another program.
    Stranger,
    /// None any more.
    Ended,
    /// A server, but on what cannot be told.
    Unknown,
}

/// Stops a server that still runs on the data though its owner is gone: its owner's death should have stopped it, and
/// mostly it is only not yet done. A pid file that names another process is removed.
pub(super) async fn stop_orphan(data: &Path, patience: Duration) -> anyhow::Result<()> {
    let file = data.join("postmaster.pid");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
    let Some(process) = pid.and_then(Pid::from_raw) else { return Ok(()) };
    match relation(process, data)? {
        Relation::Server => {}
        // Postgres sees to what is left.
        Relation::Ended => return Ok(()),
        Relation::Stranger => {
            // Postgres itself only looks whether the id is in use.
            return fs::remove_file(&file).with_context(|| format!("can't remove {}", file.display()));
        }
        Relation::Unknown => bail!(
            "process {pid} is a Postgres, and it can't be told whether it runs on {data}: stop it, or remove {file} if it \
             works elsewhere",
            pid = process.as_raw_nonzero(),
            data = data.display(),
            file = file.display()
        ),
    }
    let deadline = Instant::now() + patience;
    kill_process(process, Signal::INT).or_else(|error| match error {
        rustix::io::Errno::SRCH => Ok(()),
        other => Err(other),
    })?;
    while matches!(relation(process, data)?, Relation::Server | Relation::Unknown) {
        ensure!(
            Instant::now() < deadline,
            "another Postgres (process {}) runs on {} and doesn't stop",
            process.as_raw_nonzero(),
            data.display()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn relation(process: Pid, data: &Path) -> io::Result<Relation> {
    let proc = format!("/proc/{}", process.as_raw_nonzero());
    let directory = fs::metadata(data)?;
    if let Some(relation) = by_directory(fs::metadata(format!("{proc}/cwd")), &directory) {
        return Ok(relation);
    }
    match fs::read(format!("{proc}/cmdline")) {
        Ok(line) => Ok(by_command_line(&line, &directory)),
        Err(error) if has_ended(&error) => Ok(Relation::Ended),
        Err(error) => Err(error),
    }
}

/// Postgres works in its data directory, which tells it from another process that was given its id since. None if `cwd`
/// may not be looked at: that takes CAP_SYS_PTRACE for a process of another user, which root in a container hasn't.
fn by_directory(cwd: io::Result<Metadata>, data: &Metadata) -> Option<Relation> {
    match cwd {
        Ok(cwd) if same(&cwd, data) => Some(Relation::Server),
        Ok(_) => Some(Relation::Stranger),
        Err(error) if has_ended(&error) => Some(Relation::Ended),
        Err(_) => None,
    }
}

/// From what everybody may read of a process: its command line, with a NUL behind each argument. One that has ended and
/// was not waited for has an empty line, and still its id.
fn by_command_line(line: &[u8], data: &Metadata) -> Relation {
    let mut arguments = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = arguments.next().map(Path::new).and_then(Path::file_name);
    if !program.is_some_and(|name| name == "postgres" || name == "postmaster") {
        return Relation::Stranger;
    }
    let Some(directory) = arguments.skip_while(|argument| *argument != "-D").nth(1).map(Path::new) else {
        return Relation::Unknown;
    };
    // A relative path, or one that is no longer there, says nothing: the server may have been started elsewhere, or its
    // directory renamed since.
    match fs::metadata(directory) {
        Ok(there) if directory.is_absolute() && same(&there, data) => Relation::Server,
        Ok(_) if directory.is_absolute() => Relation::Stranger,
        _ => Relation::Unknown,
    }
}

fn same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_looked_at_is_decided_by_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let [data, other] = ["data", "other"].map(|name| dir.path().join(name));
        for path in [&data, &other] {
            fs::create_dir(path).unwrap();
        }
        let ours = fs::metadata(&data).unwrap();
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(by_directory(denied(), &ours), None);
        assert_eq!(by_directory(Err(io::ErrorKind::NotFound.into()), &ours), Some(Relation::Ended));
        assert_eq!(by_directory(fs::metadata(&other), &ours), Some(Relation::Stranger));
        assert_eq!(by_directory(fs::metadata(&data), &ours), Some(Relation::Server));

        let server = |data: &Path| format!("/usr/bin/postgres\0-D\0{}\0-c\0port=5432\0", data.display());
        let relation = |line: &str| by_command_line(line.as_bytes(), &ours);
        assert_eq!(relation(&server(&data)), Relation::Server);
        assert_eq!(relation(&server(&other)), Relation::Stranger);
        assert_eq!(relation(&server(&dir.path().join("renamed"))), Relation::Unknown);
        assert_eq!(relation("postgres\0-D\0data\0"), Relation::Unknown);
        assert_eq!(relation("postgres\0"), Relation::Unknown);
        assert_eq!(relation(&format!("vi\0-D\0{}\0", data.display())), Relation::Stranger);
        assert_eq!(relation(""), Relation::Stranger);
    }

    #[tokio::test]
    async fn a_pid_file_that_names_another_process_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("postmaster.pid");
        fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        stop_orphan(dir.path(), Duration::ZERO).await.unwrap();
        assert!(!file.exists());
    }
}
