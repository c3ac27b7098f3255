//! How much of a disk may be used: a reserve that nobody gets, and a quota for visitors.

use crate::Root;
use crate::wire::Failure;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatVfs, chmod, fchmod, fstat, fstatvfs, openat, statat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A visitor's directory holds at most this many bytes.
pub const QUOTA_BYTES: u64 = 100 << 20;
/// A visitor's directory holds at most this many files and directories.
pub const QUOTA_FILES: u64 = 10_000;
/// Directories deeper than this are not counted: nobody needs them, and the walk holds each one open.
const DEPTH: usize = 64;
/// More files and directories than this are not counted.
const COUNTED: u64 = 100_000;
/// What a command of the owner may still take on a disk that was full before it began, so that one can tidy up there; in
/// bytes and in inodes.
const SLACK: (u64, u64) = (16 << 20, 1000);
/// The same for visitors: a little, since there are many of them and each can try again.
const VISITORS_SLACK: (u64, u64) = (1 << 20, 100);

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

    /// What must stay free in inodes: a tenth, but not more than 100,000. File systems that make them as needed tell 0.
    fn reserved_inodes(&self) -> u64 {
        (self.inodes / 10).min(100_000)
    }

    /// May so many bytes be written? Visitors leave twice the reserve, so that none of them can take the owner's room.
    pub fn admits(&self, root: Root, bytes: u64) -> bool {
        let reserves = reserves(root);
        self.free >= (self.reserve() * reserves).saturating_add(bytes)
            && (self.inodes == 0 || self.free_inodes > self.reserved_inodes() * reserves)
    }

    /// How many bytes can be written until the reserve is reached.
    pub fn room(&self, root: Root) -> u64 {
        self.free.saturating_sub(self.reserve() * reserves(root))
    }

    /// How many files can be made until the reserve is reached; `None` where the file system doesn't count them.
    pub fn room_for_files(&self, root: Root) -> Option<u64> {
        (self.inodes > 0).then(|| self.free_inodes.saturating_sub(self.reserved_inodes() * reserves(root)))
    }

    /// Has a command that began at `self` and sees `now` to be ended?
    pub fn exhausted(&self, root: Root, now: &Self) -> bool {
        let (slack, slack_inodes) = match root {
            Root::Owner => SLACK,
            Root::Chat(_) => VISITORS_SLACK,
        };
        let bytes = (self.reserve() * reserves(root)).min(self.free.saturating_sub(slack));
        let inodes = (self.reserved_inodes() * reserves(root)).min(self.free_inodes.saturating_sub(slack_inodes));
        now.free < bytes || (self.inodes > 0 && now.free_inodes < inodes)
    }
}

/// How many times the reserve somebody leaves.
fn reserves(root: Root) -> u64 {
    match root {
        Root::Owner => 1,
        Root::Chat(_) => 2,
    }
}

/// What lies in a directory, as far as it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub files: u64,
    /// False for what is too deep, too much or otherwise beyond counting; there is more than these numbers say.
    pub countable: bool,
}

/// What a visitor's directory may hold.
pub const QUOTA: Usage = Usage { bytes: QUOTA_BYTES, files: QUOTA_FILES, countable: true };

impl Usage {
    /// More than `most`.
    pub fn exceeds(&self, most: &Self) -> bool {
        !self.countable || self.bytes > most.bytes || self.files > most.files
    }

    /// Counts a directory's content, all of it.
    pub fn of(root: impl AsFd) -> Self {
        Self::up_to(root, &Self { bytes: u64::MAX, files: COUNTED, countable: true })
    }

    /// Counts a directory's content, and stops once it is more than `most`. What its user made unreadable for itself is
    /// made readable again: modes must not hide anything from the count.
    pub fn up_to(root: impl AsFd, most: &Self) -> Self {
        let mut usage = Self { bytes: 0, files: 0, countable: true };
        // Whatever cannot be read may hold anything.
        usage.countable &= usage.count(root.as_fd(), most).is_ok();
        usage
    }

    fn count(&mut self, root: std::os::fd::BorrowedFd<'_>, most: &Self) -> rustix::io::Result<()> {
        let mut above = Vec::new();
        readable(root)?;
        let mut directory = Dir::new(subdirectory(root, c".")?)?;
        while self.countable && !self.exceeds(most) {
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
            let stat = match statat(file, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went away while the directory was read.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            };
            self.files += 1;
            self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or_default());
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.countable = above.len() < DEPTH && self.files < COUNTED;
                match subdirectory(file, name) {
                    Ok(below) => above.push(std::mem::replace(&mut directory, Dir::new(below)?)),
                    // It went away, or is something else by now.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        self.countable &= self.files <= COUNTED;
        Ok(())
    }

    /// With so much more, is it still within the quota?
    pub fn admits(&self, bytes: u64) -> Result<(), Failure> {
        let then = Self { bytes: self.bytes.saturating_add(bytes), files: self.files + 1, ..*self };
        if then.exceeds(&QUOTA) {
            let (megabytes, files) = (QUOTA_BYTES >> 20, QUOTA_FILES);
            return Err(Failure::NoSpace(format!(
                "this chat's directory may hold {megabytes} MiB in {files} files and that is reached: make room first"
            )));
        }
        Ok(())
    }
}

/// Opens a directory for reading, whatever its mode was.
fn subdirectory(parent: impl AsFd, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(&parent, name, flags | OFlags::RDONLY, Mode::empty());
    let directory = match opened {
        Err(Errno::ACCESS) => {
            let place = openat(&parent, name, flags | OFlags::PATH, Mode::empty())?;
            // By way of /proc, since chmod by name would follow a link that has taken the directory's place.
            let path = format!("/proc/self/fd/{}", place.as_raw_fd());
            chmod(&path, Mode::RWXU)?;
            openat(&parent, name, flags | OFlags::RDONLY, Mode::empty())?
        }
        other => other?,
    };
    readable(&directory)?;
    Ok(directory)
}

/// Without all three, names may be read but not what they stand for.
fn readable(directory: impl AsFd) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode);
    if mode.contains(Mode::RWXU) { Ok(()) } else { fchmod(directory, Mode::RWXU) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GIB: u64 = 1 << 30;
    const CHAT: Root = Root::Chat([1; 16]);

    fn space(total: u64, free: u64) -> Space {
        Space { total, free, inodes: 1_000_000, free_inodes: 900_000 }
    }

    #[test]
    fn the_reserve_is_a_tenth_up_to_one_gibibyte() {
        assert_eq!(space(5 * GIB, 0).reserve(), GIB / 2);
        assert_eq!(space(500 * GIB, 0).reserve(), GIB);
        assert!(space(20 * GIB, 2 * GIB).admits(Root::Owner, GIB));
        assert!(!space(20 * GIB, 2 * GIB).admits(Root::Owner, GIB + 1));
        assert!(!space(20 * GIB, 2 * GIB).admits(CHAT, 1), "visitors leave twice as much");
        assert!(!Space { free_inodes: 10_000, ..space(20 * GIB, 9 * GIB) }.admits(Root::Owner, 1));
        assert!(Space { inodes: 0, free_inodes: 0, ..space(20 * GIB, 9 * GIB) }.admits(Root::Owner, 1));
    }

    #[test]
    fn a_command_is_ended_when_the_disk_nears_its_end() {
        let start = space(20 * GIB, 5 * GIB);
        assert!(!start.exhausted(Root::Owner, &space(20 * GIB, GIB)));
        assert!(start.exhausted(Root::Owner, &space(20 * GIB, GIB - 1)));
        assert!(start.exhausted(Root::Owner, &Space { free_inodes: 9_999, ..start }));
    }

    #[test]
    fn on_a_full_disk_one_can_still_tidy_up() {
        let start = space(20 * GIB, GIB / 2);
        assert!(!start.exhausted(Root::Owner, &start));
        assert!(!start.exhausted(Root::Owner, &space(20 * GIB, GIB / 2 - SLACK.0)));
        assert!(start.exhausted(Root::Owner, &space(20 * GIB, GIB / 2 - SLACK.0 - 1)));
        assert!(!start.exhausted(CHAT, &space(20 * GIB, GIB / 2 - VISITORS_SLACK.0)));
        assert!(start.exhausted(CHAT, &space(20 * GIB, GIB / 2 - VISITORS_SLACK.0 - 1)));
    }

    #[test]
    fn files_are_counted_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("a/b/file"), [0; 5000]).unwrap();
        std::os::unix::fs::symlink("/usr", directory.path().join("link")).unwrap();
        let usage = Usage::of(fs::File::open(directory.path()).unwrap());
        assert_eq!(usage.files, 4);
        assert!((5000..50_000).contains(&usage.bytes), "{usage:?}");
        assert!(usage.admits(QUOTA_BYTES - 50_000).is_ok());
        assert!(matches!(usage.admits(QUOTA_BYTES), Err(Failure::NoSpace(_))));
    }

    #[test]
    fn a_very_deep_tree_is_too_much() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/".repeat(DEPTH + 2))).unwrap();
        assert!(Usage::of(fs::File::open(directory.path()).unwrap()).exceeds(&QUOTA));
    }

    #[test]
    fn no_mode_hides_anything_from_the_count() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o000, 0o300, 0o400, 0o600] {
            let hidden = directory.path().join(format!("{mode:o}"));
            fs::create_dir_all(hidden.join("below")).unwrap();
            fs::write(hidden.join("below/file"), [0; 5000]).unwrap();
            chmod(hidden.join("below"), Mode::from_raw_mode(mode)).unwrap();
            chmod(&hidden, Mode::from_raw_mode(mode)).unwrap();
        }
        let root = fs::File::open(directory.path()).unwrap();
        fchmod(&root, Mode::empty()).unwrap();
        let usage = Usage::of(&root);
        assert!(usage.countable && usage.files == 12 && usage.bytes >= 20_000, "{usage:?}");
    }

    #[test]
    fn a_count_stops_beyond_what_is_asked_for_and_no_earlier() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..50 {
            fs::write(directory.path().join(number.to_string()), [0; 100]).unwrap();
        }
        let root = fs::File::open(directory.path()).unwrap();
        let most = Usage { files: 20, ..QUOTA };
        assert_eq!(Usage::up_to(&root, &most).files, 21);
        assert_eq!(Usage::of(&root), Usage { bytes: 5000, files: 50, countable: true });
    }
}
