//! What one connection has: its directory, a place for temporary files, and a lock; made before the launcher confines
//! itself.

use crate::Root;
use crate::files::Files;
use crate::space::Usage;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, fchmod, flock, openat};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Below the base: one directory per connection, gone with it.
const TEMPORARY: &str = "tmp";
/// Below the base: one lock per root.
const LOCKS: &str = "locks";

/// The directories of one connection.
#[derive(Debug)]
pub struct Session {
    pub files: Files,
    /// A file of this user that is outside of the root; no command may open it.
    pub outside: PathBuf,
    pub temporary: Temporary,
    /// The root and what leads to it.
    closed: Vec<OwnedFd>,
}

impl Session {
    /// Makes what is missing. `private_tmp`: /tmp is this connection's own.
    pub fn open(base: &Path, root: Root, private_tmp: bool) -> io::Result<Self> {
        make(base)?;
        let base = base.canonicalize()?;
        let path = base.join(root.directory());
        if let (Root::Chat(_), Some(chats)) = (root, path.parent()) {
            make(chats)?;
        }
        make(&path)?;
        make(&base.join(LOCKS))?;
        let outside = base.join(LOCKS).join(root.flat_name());
        // Landlock knows nothing of chmod, and a command may have closed it.
        // silent-ok: it is made below, or cannot be opened, which is told
        let _ = fs::set_permissions(&outside, Permissions::from_mode(0o600));
        let lock = openat(CWD, &outside, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
        let temporary = if private_tmp {
            Temporary { path: PathBuf::from("/tmp"), directory: directory(Path::new("/tmp"))?, own: false }
        } else {
            Temporary::make(&base.join(TEMPORARY))?
        };
        let closed = path.ancestors().take_while(|above| above.starts_with(&base)).map(directory);
        let closed = closed.collect::<io::Result<_>>()?;
        let files = Files::new(root, path.clone(), directory(&path)?, lock);
        Ok(Self { files, outside, temporary, closed })
    }

    /// Gives the root and what leads to it their mode back. A command may have changed it, of its own root and of any
    /// directory of its user whose path it knows: Landlock knows nothing of chmod.
    pub fn close(&self) {
        for directory in &self.closed {
            // silent-ok: whoever then finds it closed is told so
            let _ = fchmod(directory, Mode::RWXU);
        }
    }
}

/// Where a connection's commands put temporary files.
#[derive(Debug)]
pub struct Temporary {
    pub path: PathBuf,
    /// Locked as long as the connection lives, so that others leave it alone.
    pub directory: OwnedFd,
    own: bool,
}

impl Temporary {
    /// Makes a new one, and clears away what killed launchers left.
    fn make(parent: &Path) -> io::Result<Self> {
        make(parent)?;
        let all = directory(parent)?;
        // Whoever clears away is alone, so that nobody's new directory is taken for an abandoned one.
        if flock(&all, FlockOperation::NonBlockingLockExclusive).is_ok() {
            clear_away(parent)?;
        }
        flock(&all, FlockOperation::LockShared)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let path = parent.join(format!("{}-{}", std::process::id(), now.as_nanos()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let directory = directory(&path)?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, directory, own: true })
    }
}

/// Removes the directories that no living launcher has locked.
fn clear_away(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)?.flatten() {
        // silent-ok: then it cannot be opened either
        let _ = fs::set_permissions(entry.path(), Permissions::from_mode(0o700));
        let Ok(there) = directory(&entry.path()) else { continue };
        if flock(&there, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Opens what a command has closed.
            Usage::of(&there);
            // silent-ok: the next connection tries again
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.own {
            // The confined launcher may empty it but not remove it, which the next connection does.
            // silent-ok: so it is with whatever else stays
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a directory that is this user's alone; one that is there is made so again.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}
