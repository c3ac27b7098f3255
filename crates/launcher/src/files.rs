//! Files below the root. No path leads out: the kernel resolves every one beneath the root's descriptor
//! (`openat2`, `RESOLVE_BENEATH`, Linux 5.6), whatever links are made or moved meanwhile.

use crate::space::{QUOTA, Space, Usage};
use crate::wire::{Entry, EntryKind, Failure, FileContent, MAX_ENTRIES, MAX_FILE, hex};
use crate::{Root, paths};
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat, flock, fstat, fsync, ftruncate, mkdirat,
    openat, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long to wait for another connection that writes below the same root.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most names of a directory that are looked at.
const MAX_NAMES: usize = 100_000;
/// What half-written files are called; a listing leaves them out.
const HALF_WRITTEN: &str = ".baal-half-written-";

/// The root of one connection, opened.
#[derive(Debug)]
pub struct Files {
    pub root: Root,
    /// Its real path.
    pub path: PathBuf,
    directory: OwnedFd,
    /// Held while something is written. It lies outside of the root, where no command can hold it.
    lock: OwnedFd,
    written: u64,
}

impl Files {
    pub fn new(root: Root, path: PathBuf, directory: OwnedFd, lock: OwnedFd) -> Self {
        Self { root, path, directory, lock, written: 0 }
    }

    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A regular file's first bytes.
    pub fn read(&self, path: &str, max_bytes: u64) -> Result<FileContent, Failure> {
        let (file, stat) = self.open_file(path, OFlags::RDONLY, Mode::empty())?;
        let most = max_bytes.min(MAX_FILE);
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(|e| failed(path, &e))?;
        let size = size(&stat).max(bytes.len() as u64);
        Ok(FileContent { truncated: size > bytes.len() as u64, bytes, size })
    }

    /// Replaces or makes a file, with the directories above it. Whoever reads it sees the old or the new one.
    pub fn write(&mut self, path: &str, content: &[u8], expected: Option<&str>) -> Result<(), Failure> {
        let names = self.names_of_file(path)?;
        let name = names[names.len() - 1];
        limit(path, content.len() as u64)?;
        let _held = self.hold()?;
        let present = match self.open_file(path, OFlags::RDONLY, Mode::empty()) {
            Ok(present) => Some(present),
            Err(Failure::NotFound(_)) => None,
            // It may be written though it may not be read, and a link that leads outside is replaced by a file.
            Err(Failure::Denied(_)) if expected.is_none() => None,
            Err(e) => return Err(e),
        };
        if let Some(expected) = expected {
            self.compare(path, present.as_ref().map(|(file, _)| file), expected)?;
        }
        self.admit(content.len() as u64)?;
        let parent = self.make_directories(path, &names[..names.len() - 1])?;
        self.written += 1;
        let temporary = format!("{HALF_WRITTEN}{}-{}", std::process::id(), self.written);
        // A script that could be run still can be.
        let mode = present.map_or(0o600, |(_, stat)| stat.st_mode & 0o777 | 0o600);
        let done = write_new(&parent, &temporary, content, mode)
            // Others may have written at the same moment, and each have found room.
            .and_then(|()| self.still_room())
            .and_then(|()| renameat(&parent, &temporary, &parent, name).map_err(io::Error::from));
        if let Err(e) = done {
            // silent-ok: the first error is what counts
            let _ = unlinkat(&parent, &temporary, AtFlags::empty());
            return Err(failed(path, &e));
        }
        fsync(&parent).map_err(|e| failed(path, &e.into()))
    }

    /// Adds to a file's end, or makes it; all of it or nothing.
    pub fn append(&mut self, path: &str, content: &[u8]) -> Result<(), Failure> {
        let names = self.names_of_file(path)?;
        limit(path, content.len() as u64)?;
        let _held = self.hold()?;
        self.admit(content.len() as u64)?;
        self.make_directories(path, &names[..names.len() - 1])?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let (mut file, stat) = self.open_file(path, flags, Mode::RUSR | Mode::WUSR)?;
        limit(path, size(&stat).saturating_add(content.len() as u64))?;
        let done = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| self.still_room());
        done.map_err(|e| {
            // silent-ok: the first error is what counts
            let _ = ftruncate(&file, size(&stat));
            failed(path, &e)
        })
    }

    /// What a directory holds, by name; at most [`MAX_ENTRIES`].
    pub fn list(&self, path: &str) -> Result<Vec<Entry>, Failure> {
        let names = paths::names(&self.path, path)?;
        let directory = self.open(&joined(&names), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let directory = directory.map_err(|e| failed(path, &e.into()))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(|e| failed(path, &e.into()))?.take(MAX_NAMES) {
            let name = CString::from(entry.map_err(|e| failed(path, &e.into()))?.file_name());
            if !matches!(name.as_bytes(), b"." | b"..") && !name.as_bytes().starts_with(HALF_WRITTEN.as_bytes()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        names.truncate(MAX_ENTRIES);
        // What went away meanwhile is left out.
        let about = |name: CString| Some(entry(&name, &statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?));
        Ok(names.into_iter().filter_map(about).collect())
    }

    fn names_of_file<'a>(&self, path: &'a str) -> Result<Vec<&'a str>, Failure> {
        let names = paths::names(&self.path, path)?;
        if names.is_empty() || path.ends_with('/') {
            return Err(Failure::Invalid(format!("{path:?} is a directory; name a file")));
        }
        Ok(names)
    }

    /// Opens beneath the root.
    fn open(&self, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // NONBLOCK, since opening a FIFO would wait for its other end.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        for _ in 0..64 {
            match openat2(&self.directory, path, flags, mode, resolve) {
                // Something on the way was renamed at this moment.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens a regular file that is this user's business.
    fn open_file(&self, path: &str, flags: OFlags, mode: Mode) -> Result<(File, Stat), Failure> {
        let names = self.names_of_file(path)?;
        let file = self.open(&joined(&names), flags, mode).map_err(|e| failed(path, &e.into()))?;
        let stat = fstat(&file).map_err(|e| failed(path, &e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Failure::Invalid(format!("{path} is a directory"))),
            _ => return Err(Failure::Denied(format!("{path} is not a regular file"))),
        }
        // A second name of somebody else's file: where the kernel does not keep people from making such links
        // (fs.protected_hardlinks), this does.
        if stat.st_nlink > 1 && stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Failure::Denied(format!("{path} is another name of somebody else's file")));
        }
        Ok((File::from(file), stat))
    }

    /// Opens a directory beneath the root and makes what is missing on the way.
    fn make_directories(&self, path: &str, names: &[&str]) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open = |depth: usize| self.open(&joined(&names[..depth]), flags, Mode::empty());
        let make = || {
            let mut directory = open(0)?;
            for depth in 1..=names.len() {
                directory = match open(depth) {
                    Err(Errno::NOENT) => {
                        match mkdirat(&directory, names[depth - 1], Mode::RWXU) {
                            Ok(()) | Err(Errno::EXIST) => {}
                            Err(e) => return Err(e),
                        }
                        open(depth)?
                    }
                    other => other?,
                };
            }
            Ok(directory)
        };
        match open(names.len()) {
            Err(Errno::NOENT) => make(),
            other => other,
        }
        .map_err(|e: Errno| failed(path, &e.into()))
    }

    /// Keeps other connections from writing below this root; freed with what comes back.
    fn hold(&self) -> Result<Held, Failure> {
        let broken = |e: Errno| Failure::Broken(format!("the workspace cannot be locked: {e}"));
        let lock = self.lock.try_clone().map_err(|e| Failure::Broken(e.to_string()))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Held(lock)),
                Err(Errno::INTR | Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::INTR | Errno::WOULDBLOCK) => {
                    return Err(Failure::Conflict("the workspace is being written by somebody else; try again".into()));
                }
                Err(e) => return Err(broken(e)),
            }
        }
    }

    /// Is there room for so much more?
    fn admit(&self, bytes: u64) -> Result<(), Failure> {
        let broken = |e: io::Error| Failure::Broken(format!("the free space cannot be found out: {e}"));
        if !Space::of(&self.directory).map_err(broken)?.admits(self.root, bytes) {
            return Err(Failure::NoSpace("the disk is full: make room first".into()));
        }
        match self.root {
            Root::Owner => Ok(()),
            Root::Chat(_) => Usage::up_to(&self.directory, &QUOTA).admits(bytes),
        }
    }

    /// After a write: is there as much left as has to be?
    fn still_room(&self) -> io::Result<()> {
        if Space::of(&self.directory)?.admits(self.root, 0) { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    /// Is the file's content what the caller has seen?
    fn compare(&self, path: &str, present: Option<&File>, expected: &str) -> Result<(), Failure> {
        let Some(mut file) = present else {
            return Err(Failure::Conflict(format!("{path} is not there any more: read again what is there")));
        };
        let mut digest = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = file.read(&mut piece).map_err(|e| failed(path, &e))?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
        }
        if hex(&digest.finalize()) != expected {
            return Err(Failure::Conflict(format!(
                "{path} was changed by somebody else meanwhile: read it again first"
            )));
        }
        Ok(())
    }
}

/// The lock, until it is dropped. Its descriptor is a copy, so closing it does not unlock.
struct Held(OwnedFd);

impl Drop for Held {
    fn drop(&mut self) {
        // silent-ok: the end of the connection unlocks it as well
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn write_new(parent: &OwnedFd, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(content)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.sync_all()
}

fn entry(name: &std::ffi::CStr, stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    Entry { name: shown(&name.to_string_lossy()), kind, size: size(stat), modified: stat.st_mtime }
}

/// A name on one line, whatever is in it: no line of its own, nothing for a terminal, nothing that turns the direction.
fn shown(name: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    name.chars().fold(String::with_capacity(name.len()), |mut text, c| {
        if hidden(c) {
            text.extend(c.escape_default())
        } else {
            text.push(c)
        }
        text
    })
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn limit(path: &str, bytes: u64) -> Result<(), Failure> {
    if bytes > MAX_FILE {
        return Err(Failure::TooLarge(format!("{path} would have {bytes} bytes; {} MiB are allowed", MAX_FILE >> 20)));
    }
    Ok(())
}

/// A path from the root, which is `.`.
fn joined(names: &[&str]) -> String {
    if names.is_empty() { ".".into() } else { names.join("/") }
}

/// A system error in words for the model.
fn failed(path: &str, e: &io::Error) -> Failure {
    match e.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => Failure::NotFound(format!("{path} does not exist")),
        Some(Errno::NOTDIR) => Failure::NotFound(format!("a part of {path} is not a directory")),
        Some(Errno::ISDIR) => Failure::Invalid(format!("{path} is a directory")),
        Some(Errno::NAMETOOLONG) => Failure::Invalid(format!("{path} is too long")),
        Some(Errno::XDEV) => Failure::Denied(format!("{path} leads out of the workspace")),
        Some(Errno::LOOP) => Failure::Denied(format!("{path} is a link that leads nowhere good")),
        Some(Errno::ACCESS | Errno::PERM) => Failure::Denied(format!("{path} may not be opened")),
        Some(Errno::NXIO) => Failure::Denied(format!("{path} is not a regular file")),
        Some(Errno::NOSPC | Errno::DQUOT) => Failure::NoSpace("the disk is full: make room first".into()),
        _ => Failure::Broken(format!("{path}: {e}")),
    }
}
