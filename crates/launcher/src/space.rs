//! How much of a disk may be used: a reserve that nobody gets, and a quota for visitors.

use crate::wire::Failure;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatVfs, fstatvfs, openat, statat};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A visitor's directory holds at most this many bytes.
pub const QUOTA_BYTES: u64 = 100 << 20;
/// A visitor's directory holds at most this many files and directories.
pub const QUOTA_FILES: u64 = 10_000;
/// Directories deeper than this are counted as too many files: nobody needs them, and the walk holds each one open.
const DEPTH: usize = 64;
/// What a command may still write on a disk that was full before it began, so that one can tidy up there.
const SLACK: u64 = 16 << 20;

/// A file system's free space at one moment, for an ordinary user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub total: u64,
    /// Bytes.
    pub free: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}

impl Space {
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let StatVfs { f_frsize, f_blocks, f_bavail, f_files, f_favail, .. } = fstatvfs(file)?;
        Ok(Self {
            total: f_blocks.saturating_mul(f_frsize),
            free: f_bavail.saturating_mul(f_frsize),
            inodes: f_files,
            free_inodes: f_favail,
        })
    }

    /// What must stay free, in bytes: a tenth, but not more than 1 GiB.
    pub fn reserve(&self) -> u64 {
        (self.total / 10).min(1 << 30)
    }

    /// What must stay free in inodes: a tenth, but not more than 10,000. File systems that make them as needed tell 0.
    fn reserved_inodes(&self) -> u64 {
        (self.inodes / 10).min(10_000)
    }

    /// May so many bytes be written?
    pub fn admits(&self, bytes: u64) -> bool {
        self.free >= self.reserve().saturating_add(bytes)
            && (self.inodes == 0 || self.free_inodes > self.reserved_inodes())
    }

    /// Has a command that began at `self` and sees `now` to be ended?
    pub fn exhausted(&self, now: &Self) -> bool {
        let bytes = self.reserve().min(self.free.saturating_sub(SLACK));
        let inodes = self.reserved_inodes().min(self.free_inodes.saturating_sub(1000));
        now.free < bytes || (self.inodes > 0 && now.free_inodes < inodes)
    }
}

/// What lies in a directory, as far as it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub files: u64,
}

impl Usage {
    /// More than a visitor may have.
    pub fn exceeds(&self) -> bool {
        self.bytes > QUOTA_BYTES || self.files > QUOTA_FILES
    }

    /// Counts a directory's content, and stops once it is too much.
    pub fn of(root: impl AsFd) -> io::Result<Self> {
        let mut usage = Self::default();
        let mut above = Vec::new();
        let mut directory = Dir::new(subdirectory(root, c".")?)?;
        loop {
            let Some(entry) = directory.read() else {
                let Some(parent) = above.pop() else { break };
                directory = parent;
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let file = directory.fd()?;
            // silent-ok: it went away while the directory was read
            let Ok(stat) = statat(file, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            usage.files += 1;
            usage.bytes = usage.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or_default());
            if usage.exceeds() {
                break;
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                if above.len() == DEPTH {
                    usage.files = QUOTA_FILES + 1;
                    break;
                }
                // silent-ok: what its owner made unreadable for itself counts as one entry
                if let Ok(below) = subdirectory(file, name) {
                    above.push(std::mem::replace(&mut directory, Dir::new(below)?));
                }
            }
        }
        Ok(usage)
    }

    /// With so much more, is it still within the quota?
    pub fn admits(&self, bytes: u64) -> Result<(), Failure> {
        let then = Self { bytes: self.bytes.saturating_add(bytes), files: self.files + 1 };
        if then.exceeds() {
            let (megabytes, files) = (QUOTA_BYTES >> 20, QUOTA_FILES);
            return Err(Failure::NoSpace(format!(
                "this chat's directory may hold {megabytes} MiB in {files} files and that is reached: make room first"
            )));
        }
        Ok(())
    }
}

fn subdirectory(parent: impl AsFd, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GIB: u64 = 1 << 30;

    fn space(total: u64, free: u64) -> Space {
        Space { total, free, inodes: 1_000_000, free_inodes: 900_000 }
    }

    #[test]
    fn the_reserve_is_a_tenth_up_to_one_gibibyte() {
        assert_eq!(space(5 * GIB, 0).reserve(), GIB / 2);
        assert_eq!(space(500 * GIB, 0).reserve(), GIB);
        assert!(space(20 * GIB, 2 * GIB).admits(GIB));
        assert!(!space(20 * GIB, 2 * GIB).admits(GIB + 1));
        assert!(!Space { free_inodes: 10_000, ..space(20 * GIB, 9 * GIB) }.admits(1));
        assert!(Space { inodes: 0, free_inodes: 0, ..space(20 * GIB, 9 * GIB) }.admits(1));
    }

    #[test]
    fn a_command_is_ended_when_the_disk_nears_its_end() {
        let start = space(20 * GIB, 5 * GIB);
        assert!(!start.exhausted(&space(20 * GIB, GIB)));
        assert!(start.exhausted(&space(20 * GIB, GIB - 1)));
        assert!(start.exhausted(&Space { free_inodes: 9_999, ..start }));
    }

    #[test]
    fn on_a_full_disk_one_can_still_tidy_up() {
        let start = space(20 * GIB, GIB / 2);
        assert!(!start.exhausted(&start));
        assert!(!start.exhausted(&space(20 * GIB, GIB / 2 - SLACK)));
        assert!(start.exhausted(&space(20 * GIB, GIB / 2 - SLACK - 1)));
    }

    #[test]
    fn files_are_counted_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("a/b/file"), [0; 5000]).unwrap();
        std::os::unix::fs::symlink("/usr", directory.path().join("link")).unwrap();
        let usage = Usage::of(fs::File::open(directory.path()).unwrap()).unwrap();
        assert_eq!(usage.files, 4);
        assert!((5000..50_000).contains(&usage.bytes), "{usage:?}");
        assert!(usage.admits(QUOTA_BYTES - 50_000).is_ok());
        assert!(matches!(usage.admits(QUOTA_BYTES), Err(Failure::NoSpace(_))));
    }

    #[test]
    fn a_very_deep_tree_is_too_much() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/".repeat(DEPTH + 2))).unwrap();
        assert!(Usage::of(fs::File::open(directory.path()).unwrap()).unwrap().exceeds());
    }
}
