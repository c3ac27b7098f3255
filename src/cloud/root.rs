//! The directory below which a host keeps its agents, known by more than its path.
//!
//! A path means something else on another host, in another container, or while nothing is mounted there, and in each of
//! them an agent that runs would look as if it were gone. So the directory carries a mark, and each vm remembers path and
//! mark. A machine id would tell less: containers have none or share one, and it doesn't tell what is mounted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::local::{LocalError, io_error};

/// Holds the mark; no vm's directory has such a name.
const MARK: &str = ".baal-root";

/// A directory for agents, as vms remember it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Root {
    /// Absolute and free of links when it was made, for a process is found again by its path.
    path: PathBuf,
    /// Random, made with the directory.
    mark: Uuid,
}

impl Root {
    /// LOCAL_DIR as a root; what is missing of it is made.
    pub fn make(local_dir: &Path) -> Result<Self, LocalError> {
        let failed = || io_error("cannot make", local_dir);
        DirBuilder::new().recursive(true).mode(0o700).create(local_dir).map_err(failed())?;
        let path = local_dir.canonicalize().map_err(failed())?;
        if path.to_str().is_none() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8; set LOCAL_DIR to another");
            return Err(failed()(cause));
        }
        // Another replica may be making it too.
        let directory = File::open(&path).map_err(failed())?;
        flock(&directory, FlockOperation::LockExclusive).map_err(|errno| failed()(errno.into()))?;
        let mark = match read_mark(&path)? {
            Some(mark) => mark,
            None => write_mark(&path, &directory).map_err(failed())?,
        };
        Ok(Self { path, mark })
    }

    /// LOCAL_DIR as a root, unless it is none yet.
    pub fn find(local_dir: &Path) -> Result<Option<Self>, LocalError> {
        let path = match local_dir.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("cannot find", local_dir)(error)),
        };
        Ok(read_mark(&path)?.map(|mark| Self { path, mark }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails unless this very directory is in its place here: then nothing can be said about the agents below it.
    pub fn check(&self) -> Result<(), LocalError> {
        match read_mark(&self.path)? {
            Some(mark) if mark == self.mark => Ok(()),
            _ => Err(LocalError::Elsewhere(self.path.clone())),
        }
    }
}

fn read_mark(root: &Path) -> Result<Option<Uuid>, LocalError> {
    let file = root.join(MARK);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let mark = text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            mark.map(Some).map_err(io_error("cannot read", &file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("cannot read", &file)(error)),
    }
}

/// The whole mark or none of it, even if the power fails: a second one would disown the agents below the first.
fn write_mark(root: &Path, directory: &File) -> io::Result<Uuid> {
    let mark = Uuid::new_v4();
    let new = root.join(".baal-root.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{mark}")?;
    file.sync_all()?;
    fs::rename(&new, root.join(MARK))?;
    directory.sync_all()?;
    Ok(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_known_by_its_mark_and_not_by_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("agents");
        assert_eq!(Root::find(&place).expect("looks"), None);
        assert!(!place.exists(), "looking makes nothing");

        let root = Root::make(&place).expect("makes");
        assert_eq!(Root::make(&dir.path().join("./agents/")).expect("is there"), root);
        assert_eq!(Root::find(&place).expect("looks"), Some(root.clone()));
        root.check().expect("in its place");

        // As when it is not mounted: its place is there, and empty.
        fs::rename(&place, dir.path().join("away")).expect("moves");
        assert!(matches!(root.check(), Err(LocalError::Elsewhere(_))));
        fs::create_dir(&place).expect("makes");
        assert!(matches!(root.check(), Err(LocalError::Elsewhere(_))));
        let other = Root::make(&place).expect("makes");
        assert_ne!(other, root);
        assert!(matches!(root.check(), Err(LocalError::Elsewhere(_))));
        other.check().expect("in its place");
    }
}
