//! The watch on the disk while a command runs.

use crate::Root;
use crate::space::{QUOTA, Space, Usage};
use crate::wire::Ending;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The longest and the shortest time between two looks at the disk.
const SELDOM: Duration = Duration::from_millis(150);
const OFTEN: Duration = Duration::from_millis(5);
/// How fast a command can write, in bytes a second: memory's speed, where the disk is not waited for.
const SPEED: u64 = 8 << 30;
/// How many files a second it can make.
const FILES_SPEED: u64 = 200_000;
/// How often a visitor's directory is counted, where the disk tells nothing.
const COUNT: Duration = Duration::from_millis(300);
/// It is counted at once when so many bytes of the disk are gone since.
const GONE: u64 = 50 << 20;
/// The largest file that an owner's command can write, in bytes.
const LARGEST_FILE: u64 = 1 << 30;

/// What a command may fill.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pub root: Root,
    pub directory: BorrowedFd<'a>,
    pub temporary: BorrowedFd<'a>,
}

/// Looks at the disk, and at a visitor's directory, and says when a command has to end.
pub struct Guard<'a> {
    watch: Watch<'a>,
    disk: Space,
    temporary: Space,
    visitor: Option<Count>,
    pace: Duration,
}

/// A visitor's directory.
struct Count {
    /// As it was.
    before: Usage,
    /// The last count, and the space that was free then, in bytes.
    last: Instant,
    free: u64,
    /// A count may take long where there is much; then it is done less often.
    took: Duration,
}

impl<'a> Guard<'a> {
    pub fn new(watch: Watch<'a>) -> io::Result<Self> {
        let disk = Space::of(watch.directory)?;
        let temporary = Space::of(watch.temporary)?;
        let began = Instant::now();
        let visitor = match watch.root {
            Root::Owner => None,
            Root::Chat(_) => {
                let before = Usage::of(watch.directory);
                Some(Count { before, last: Instant::now(), free: disk.free, took: began.elapsed() })
            }
        };
        let pace = pace(watch.root, &disk, &temporary);
        Ok(Self { watch, disk, temporary, visitor, pace })
    }

    /// The largest file that the command may write, in bytes. A visitor who has reached the quota may tidy up and write
    /// nothing: else each command could add what is written between two looks.
    pub fn largest_file(&self) -> u64 {
        match &self.visitor {
            None => LARGEST_FILE,
            Some(Count { before, .. }) if before.exceeds(&QUOTA) || !self.disk.admits(self.watch.root, 0) => 0,
            Some(_) => QUOTA.bytes,
        }
    }

    /// How long to wait until the next look.
    pub fn pace(&self) -> Duration {
        self.pace
    }

    /// Why the command has to end, if it has.
    pub fn look(&mut self) -> io::Result<Option<Ending>> {
        let Watch { root, directory, temporary } = self.watch;
        let disk = Space::of(directory)?;
        let temporary = Space::of(temporary)?;
        if self.disk.exhausted(root, &disk) || self.temporary.exhausted(root, &temporary) {
            return Ok(Some(Ending::DiskFull));
        }
        self.pace = pace(root, &disk, &temporary);
        let Some(count) = &mut self.visitor else { return Ok(None) };
        let due = count.last.elapsed() >= COUNT.max(count.took * 10);
        if !due && count.free.saturating_sub(disk.free) < GONE {
            return Ok(None);
        }
        let began = Instant::now();
        // One who is above the quota may still tidy up.
        let before = &count.before;
        let most = Usage { bytes: before.bytes.max(QUOTA.bytes), files: before.files.max(QUOTA.files), ..QUOTA };
        let now = Usage::up_to(directory, &most);
        (count.last, count.free, count.took) = (Instant::now(), disk.free, began.elapsed());
        Ok(now.exceeds(&most).then_some(Ending::QuotaFull))
    }
}

/// The nearer a disk is to its end, the sooner it is looked at again.
fn pace(root: Root, disk: &Space, temporary: &Space) -> Duration {
    let room = disk.room(root).min(temporary.room(root));
    let files = [disk, temporary].into_iter().filter_map(|space| space.room_for_files(root)).min();
    let files = files.map_or(f64::INFINITY, |files| files as f64 / FILES_SPEED as f64);
    let seconds = files.min(room as f64 / SPEED as f64);
    Duration::from_secs_f64(seconds.min(SELDOM.as_secs_f64())).max(OFTEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_disk_near_its_end_is_looked_at_often() {
        let space = |free| Space { total: 20 << 30, free, inodes: 0, free_inodes: 0 };
        let pace = |free| pace(Root::Owner, &space(free), &space(20 << 30));
        assert_eq!(pace(19 << 30), SELDOM);
        assert_eq!(pace(1 << 30), OFTEN);
        assert!((OFTEN..SELDOM).contains(&pace((1 << 30) + (400 << 20))));
    }

    #[test]
    fn a_disk_that_runs_out_of_inodes_is_looked_at_often() {
        let space = |free_inodes| Space { total: 20 << 30, free: 19 << 30, inodes: 1_000_000, free_inodes };
        let pace = |free| pace(Root::Owner, &space(free), &space(1_000_000));
        assert_eq!(pace(900_000), SELDOM);
        assert_eq!(pace(100_000), OFTEN);
        assert!((OFTEN..SELDOM).contains(&pace(110_000)));
    }

    #[test]
    fn visitors_write_up_to_the_quota_and_then_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        let chat = Root::Chat([1; 16]);
        let watch = Watch { root: chat, directory: root.as_fd(), temporary: root.as_fd() };
        assert_eq!(Guard::new(Watch { root: Root::Owner, ..watch }).unwrap().largest_file(), LARGEST_FILE);
        assert_eq!(Guard::new(watch).unwrap().largest_file(), QUOTA.bytes);
        let file = File::create(directory.path().join("file")).unwrap();
        file.set_len(QUOTA.bytes + 10).unwrap();
        let mut guard = Guard::new(watch).unwrap();
        assert_eq!(guard.largest_file(), 0);
        let later = |guard: &mut Guard| {
            guard.visitor.as_mut().unwrap().free = u64::MAX;
            guard.look().unwrap()
        };
        file.set_len(QUOTA.bytes + 5).unwrap();
        assert_eq!(later(&mut guard), None, "tidying up");
        file.set_len(QUOTA.bytes + 11).unwrap();
        assert_eq!(later(&mut guard), Some(Ending::QuotaFull));
    }
}
