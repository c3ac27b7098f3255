//! The end of a command: nothing that it started is left alive when it is told.
//!
//! The launcher is a subreaper, so whatever a command starts stays its descendant, however often it forks and whatever
//! sessions it makes. And since every descendant is the descendant of a child, "no children" (`ECHILD`) is the kernel's word
//! that nothing is left, with or without a cgroup.

use crate::cgroup::Cgroup;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, kill_process_group, waitid};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How long processes may take to die; only ones that hang inside the kernel take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a command's end cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StillAlive {
    #[error("processes of the command are still there 30 s after they were killed")]
    Patience,
    #[error("children cannot be waited for: {0}")]
    Wait(#[from] Errno),
}

/// Has this child ended? Its status is taken only once.
pub fn ended(child: Pid) -> Result<Option<WaitIdStatus>, Errno> {
    retry(|| waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG))
}

/// Kills the shell and all that it started, and comes back when nothing of it is left. The status is the shell's, unless it
/// had been taken before.
pub fn end_all(shell: Pid, cgroup: Option<&Cgroup>) -> Result<Option<WaitIdStatus>, StillAlive> {
    let deadline = Instant::now() + PATIENCE;
    let mut status = None;
    let mut pause = Duration::from_micros(200);
    loop {
        // silent-ok: what it does not end is ended by descent
        let by_cgroup = cgroup.is_some_and(|cgroup| cgroup.kill().is_ok());
        // silent-ok: the group is gone
        let _ = kill_process_group(shell, Signal::KILL);
        if status.is_none() {
            status = match ended(shell) {
                Err(Errno::CHILD) => None,
                other => other?,
            };
        }
        let none_left = reap()?;
        if none_left && !cgroup.is_some_and(Cgroup::populated) {
            return Ok(status);
        }
        if Instant::now() > deadline {
            return Err(StillAlive::Patience);
        }
        // What left the shell's group is found by descent. As long as there is something new to kill there is no pause: a
        // fork bomb must not be quicker.
        if by_cgroup || kill_descendants() == 0 {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// Takes the status of every child that has ended. True when there are no more children.
fn reap() -> Result<bool, Errno> {
    loop {
        match retry(|| waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(Errno::CHILD) => return Ok(true),
            Err(e) => return Err(e),
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Kills every living descendant that can be seen now; how many there were.
fn kill_descendants() -> usize {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let mut dead = HashSet::new();
    for pid in all_processes() {
        let Some((parent, state)) = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|stat| parent(&stat)) else {
            continue;
        };
        children.entry(parent).or_default().push(pid);
        if state == b'Z' || state == b'X' {
            dead.insert(pid);
        }
    }
    let mut killed = 0;
    let mut below = children.remove(&(std::process::id() as i32)).unwrap_or_default();
    // One that hides (hidepid=ptraceable and not dumpable) is told here, if it is a child; others become children.
    // silent-ok: a kernel may lack it
    let told = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    below.extend(told.split(' ').filter_map(|pid| pid.parse::<i32>().ok()));
    while let Some(pid) = below.pop() {
        below.extend(children.remove(&pid).unwrap_or_default());
        if !dead.contains(&pid) && Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()) {
            killed += 1;
        }
    }
    killed
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The parent and the state in a /proc/PID/stat. The name before them is in parentheses and may hold anything.
fn parent(stat: &[u8]) -> Option<(i32, u8)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(end + 2..)?.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    Some((parent, state))
}

/// How many processes and threads this user has: what RLIMIT_NPROC counts.
pub fn of_this_user() -> u64 {
    let user = rustix::process::geteuid().as_raw();
    let threads = |pid: i32| {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        // The 20th field, num_threads; the state is the third.
        std::str::from_utf8(stat.get(end + 2..)?.split(|byte| *byte == b' ').nth(17)?).ok()?.parse::<u64>().ok()
    };
    let own = |pid: &i32| fs::metadata(format!("/proc/{pid}")).is_ok_and(|about| about.uid() == user);
    all_processes().filter(own).filter_map(threads).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_process_is_called() {
        assert_eq!(parent(b"12 (bash) S 7 12 12 0"), Some((7, b'S')));
        assert_eq!(parent(b"12 (a) Z 1 (b) ) R 41 12"), Some((41, b'R')));
        assert_eq!(parent(b"12 (bash"), None);
    }

    #[test]
    fn this_user_has_at_least_this_process() {
        assert!(of_this_user() >= 1);
    }
}
