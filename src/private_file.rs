//! Files that hold secrets.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use tempfile::NamedTempFile;
use tracing::warn;

/// Writes a file that only its owner may read, all of it or nothing: what was there stays until the new one is on the disk.
///
/// A directory that is missing is made. Root, as in a container that writes into somebody's directory, leaves the file to whom
/// the directory belongs. A link is followed, so that it stays one.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let directory = directory_of(&target);
    unnamed(directory, bytes)?.persist(&target).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// The same where nothing of this name is there yet: else [`io::ErrorKind::AlreadyExists`], and it stays as it is.
pub fn create_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    unnamed(directory, bytes)?.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Where a file of this name is.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// A file with this in it, on the disk, that has not its name yet.
fn unnamed(directory: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    make_directory(directory)?;
    // Made with mode 0600.
    let mut file = tempfile::Builder::new().prefix(".baal-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    leave_to_owner_of(directory, file.as_file())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes a directory that only its owner may enter, with those above it, where it is missing.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    let above = directory_of(directory);
    make_directory(above)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {
            let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY;
            let made = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(directory)?;
            leave_to_owner_of(above, &made)
        }
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What root makes in somebody's directory is theirs, such as what a container makes in the one that it was given.
/// The file that is open, for what its name means may be changed at any time by whom the directory belongs to.
pub fn leave_to_owner_of(directory: &Path, file: &File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(directory)?;
    match fchown(file, Some(owner.uid()), Some(owner.gid())) {
        // silent-ok: a file system that knows no other owners than its own; it is no less private for that
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        chowned => chowned,
    }
}

/// Whether other users of this host may read it.
pub fn is_shared(path: &Path) -> bool {
    // silent-ok: whoever reads the file tells why it cannot be read
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Warns if other users of this host may read it. `what` is in it.
pub fn warn_if_shared(path: &Path, what: &str) {
    if is_shared(path) {
        warn!(path = %path.display(), "other users of this host may read {what}; `chmod 600` it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_whole_and_for_its_owner_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("below/secret"), directory.path().join("link"));
        write(&file, b"one").expect("writes");
        std::os::unix::fs::symlink(&file, &link).expect("links");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its own");
        write(&link, b"two").expect("writes");
        assert_eq!(fs::read(&file).expect("there"), b"two");
        assert!(link.is_symlink() && !is_shared(&file) && !is_shared(file.parent().expect("below")));
        assert_eq!(fs::read_dir(directory.path().join("below")).expect("lists").count(), 1);
    }

    #[test]
    fn what_is_there_already_stays_as_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("below/that/secret");
        create_new(&file, b"one").expect("writes");
        assert_eq!(create_new(&file, b"two").map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(&file).expect("there"), b"one");
        let below = file.parent().expect("below");
        assert!(!is_shared(&file) && !is_shared(below) && !is_shared(directory_of(below)));
        assert_eq!(fs::read_dir(below).expect("lists").count(), 1);
    }

    #[test]
    fn what_others_may_read_is_noticed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (mode, shared) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("its own");
            assert_eq!(is_shared(file.path()), shared, "{mode:o}");
        }
        assert!(!is_shared(Path::new("/nowhere/at/all")));
    }
}
