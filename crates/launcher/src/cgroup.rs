//! A cgroup (version 2) for each command, so that it can be ended with everything it started.
//!
//! systemd gives the unit's cgroup to the launcher (`Delegate=yes`). Where there is none, `processes` does what it can.

//!
//! Its files are of the same user as the commands, and chmod is not among what Landlock knows. So what ends a command is
//! opened when it is made (the kernel looks at modes only then), and modes that stand in the way are put right again.

use rustix::process::Pid;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to try what somebody keeps closing, with [`PAUSE`] between.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(1);

/// What a command may take, all its processes together.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Processes and threads at one time.
    pub processes: u64,
    /// Bytes of memory.
    pub memory: u64,
}

/// The cgroup below which commands get theirs.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
    /// The kernel limits memory and processes below it.
    pub limits: bool,
    made: u64,
}

impl Cgroups {
    /// This process' own cgroup, if it may make others below it and end them (`cgroup.kill`, Linux 5.14).
    pub fn find() -> Option<Self> {
        let base = own_cgroup(
            &fs::read_to_string("/proc/self/cgroup").ok()?,
            &fs::read_to_string("/proc/self/mountinfo").ok()?,
        )?;
        let mut cgroups = Self { base, limits: false, made: 0 };
        cgroups.make(None).ok()?.remove();
        cgroups.limits = cgroups.delegate_limits();
        Some(cgroups)
    }

    /// Where it is; all below it belongs to this connection.
    pub fn directory(&self) -> &Path {
        &self.base
    }

    /// Controllers can only be given on by a cgroup without processes, so the launcher moves down if it is alone in it.
    fn delegate_limits(&self) -> bool {
        let control = self.base.join("cgroup.subtree_control");
        let enable = || put(&control, "+memory +pids").is_ok();
        if enable() {
            return true;
        }
        let alone = fs::read_to_string(self.base.join("cgroup.procs"))
            .is_ok_and(|members| members.trim() == std::process::id().to_string());
        if !alone {
            return false;
        }
        let below = self.base.join("launcher");
        // silent-ok: without it there are no limits, which the probe tells
        let moved = fs::create_dir(&below).and_then(|()| put(&below.join("cgroup.procs"), "0"));
        moved.is_ok() && enable()
    }

    /// Makes the next command's cgroup, with limits where there are any.
    pub fn make(&mut self, share: Option<Share>) -> io::Result<Cgroup> {
        self.made += 1;
        let path = self.base.join(format!("call-{}-{}", std::process::id(), self.made));
        reopening(&self.base, 0o755, || fs::create_dir(&path))?;
        let made = Cgroup::open(path.clone(), &self.base, share.filter(|_| self.limits));
        if made.is_err() {
            // silent-ok: the error is what counts
            let _ = fs::remove_dir(&path);
        }
        made
    }
}

/// One command's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// `cgroup.procs` of the cgroup above: whoever moves a process must be allowed to write there too.
    above: PathBuf,
    procs: File,
    kill: File,
    events: File,
    /// There only with limits.
    memory_events: Option<File>,
}

impl Cgroup {
    fn open(path: PathBuf, base: &Path, share: Option<Share>) -> io::Result<Self> {
        let write = |name| OpenOptions::new().write(true).open(path.join(name));
        let cgroup = Self {
            above: base.join("cgroup.procs"),
            procs: write("cgroup.procs")?,
            kill: write("cgroup.kill")?,
            events: File::open(path.join("cgroup.events"))?,
            memory_events: share.map(|_| File::open(path.join("memory.events"))).transpose()?,
            path,
        };
        if let Some(share) = share {
            put(&cgroup.path.join("pids.max"), &share.processes.to_string())?;
            put(&cgroup.path.join("memory.max"), &share.memory.to_string())?;
            // Out of memory, the whole command ends rather than a part of it.
            put(&cgroup.path.join("memory.oom.group"), "1")?;
        }
        Ok(cgroup)
    }

    /// Moves a process in.
    pub fn take(&self, process: Pid) -> io::Result<()> {
        let number = process.as_raw_nonzero().to_string();
        reopening(&self.above, 0o644, || (&self.procs).write_all(number.as_bytes()))
    }

    /// Kills all that is in it, also what is being started at this moment.
    pub fn kill(&self) -> io::Result<()> {
        (&self.kill).write_all(b"1")
    }

    /// Is anything in it alive?
    pub fn populated(&self) -> bool {
        says(&self.events, |line| line == "populated 1")
    }

    /// Has the kernel killed in it for want of memory?
    pub fn out_of_memory(&self) -> bool {
        let killed = |line: &str| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0");
        self.memory_events.as_ref().is_some_and(|events| says(events, killed))
    }

    pub fn remove(self) {
        // silent-ok: an empty cgroup that stays costs little, and ends with the unit
        let _ = reopening(self.path.parent().unwrap_or(&self.path), 0o755, || fs::remove_dir(&self.path));
    }
}

/// Is there such a line? A file that cannot be read says nothing.
fn says(file: &File, line: impl Fn(&str) -> bool) -> bool {
    let mut text = [0; 4096];
    let read = file.read_at(&mut text, 0).unwrap_or_default();
    String::from_utf8_lossy(&text[..read]).lines().any(line)
}

/// Does something that the mode of `file` may forbid, and gives it the right one as often as it does.
fn reopening<T>(file: &Path, mode: u32, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                // One whose file it is not never succeeds.
                fs::set_permissions(file, Permissions::from_mode(mode)).map_err(|_| e)?;
            }
            other => return other,
        }
        std::thread::sleep(PAUSE);
    }
    attempt()
}

/// Files of a cgroup are written as they are, never made or truncated.
fn put(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Where this process' cgroup is in the file system, from /proc/self/cgroup and /proc/self/mountinfo. The root cgroup is
/// everybody's, so it counts as none.
fn own_cgroup(cgroup: &str, mounts: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    if own == "/" || own.contains("/../") {
        return None;
    }
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, mounted) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(mounted).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
        30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
        31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn the_own_cgroup_is_found_on_pure_and_hybrid_hosts() {
        let hybrid = "4:memory:/a\n0::/baal-tools.slice/x.service\n";
        let unified = Path::new("/sys/fs/cgroup/unified/baal-tools.slice/x.service");
        assert_eq!(own_cgroup(hybrid, MOUNTS).as_deref(), Some(unified));
        let inside = MOUNTS.replace(" / /sys/fs/cgroup/unified", " /docker/1 /sys/fs/cgroup");
        assert_eq!(own_cgroup("0::/docker/1/a\n", &inside).as_deref(), Some(Path::new("/sys/fs/cgroup/a")));
    }

    #[test]
    fn the_root_cgroup_and_old_hosts_count_as_none() {
        assert_eq!(own_cgroup("0::/\n", MOUNTS), None);
        assert_eq!(own_cgroup("4:memory:/a\n", MOUNTS), None);
        assert_eq!(own_cgroup("0::/../outside\n", MOUNTS), None);
        assert_eq!(own_cgroup("0::/a\n", "24 1 0:22 / /proc rw - proc proc rw\n"), None);
    }
}
