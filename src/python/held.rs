//! Whether another process has a SQLite database open.
//!
//! SQLite's locks are POSIX record locks at places that its file format fixes. Whoever has a database in WAL mode open holds a
//! shared lock on the file for as long as that is so, and another one on byte 128 of `-shm`
//! (<https://sqlite.org/walformat.html#locks>, `os_unix.c`); without WAL, whoever reads or writes holds one for the moment.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

/// `PENDING_BYTE` to the end of the shared range.
const MAIN: (u64, u64) = (0x4000_0000, 512);
/// `UNIX_SHM_DMS`, and the locks before it.
const SHARED_MEMORY: (u64, u64) = (120, 9);

/// The file beside a database whose name ends so.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether another process of this host holds a lock on it. To be asked before this process opens it itself: closing any
/// handle of a file gives up its locks. Says no where the file system knows no locks.
pub fn by_another_process(database: &Path) -> io::Result<bool> {
    for (path, place) in [(database.to_owned(), MAIN), (beside(database, "-shm"), SHARED_MEMORY)] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let (start, length) = place;
        // A write lock is in the way of any other.
        let wanted = Flock { start, length, pid: None, typ: FlockType::WriteLock, offset_type: FlockOffsetType::Set };
        match fcntl_getlk(&file, &wanted) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(true),
            Err(Errno::NOLCK | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}
