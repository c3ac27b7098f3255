//! A cgroup (version 2) for each command, so that it can be ended with everything it started.
//!
//! systemd gives the unit's cgroup to the launcher (`Delegate=yes`). Where there is none, `processes` does what it can.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How many processes and threads a command may have at one time.
const PROCESSES: u64 = 512;

/// The cgroup below which commands get theirs.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
    /// The kernel limits memory and processes below it.
    pub limits: bool,
    /// The most memory of a command, in bytes.
    memory: u64,
    made: u64,
}

impl Cgroups {
    /// This process' own cgroup, if it may make others below it and end them (`cgroup.kill`, Linux 5.14).
    pub fn find(memory: u64) -> Option<Self> {
        let base = own_cgroup(
            &fs::read_to_string("/proc/self/cgroup").ok()?,
            &fs::read_to_string("/proc/self/mountinfo").ok()?,
        )?;
        let mut cgroups = Self { base, limits: false, memory, made: 0 };
        let trial = cgroups.make().ok()?;
        let usable = trial.path.join("cgroup.kill").exists();
        trial.remove();
        if !usable {
            return None;
        }
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

    /// Makes the next command's cgroup.
    pub fn make(&mut self) -> io::Result<Cgroup> {
        self.made += 1;
        let path = self.base.join(format!("call-{}-{}", std::process::id(), self.made));
        fs::create_dir(&path)?;
        if self.limits {
            put(&path.join("pids.max"), &PROCESSES.to_string())?;
            put(&path.join("memory.max"), &self.memory.to_string())?;
            // Out of memory, the whole command ends rather than a part of it.
            put(&path.join("memory.oom.group"), "1")?;
        }
        Ok(Cgroup { path })
    }
}

/// One command's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    pub path: PathBuf,
}

impl Cgroup {
    /// Kills all that is in it, also what is being started at this moment.
    pub fn kill(&self) -> io::Result<()> {
        put(&self.path.join("cgroup.kill"), "1")
    }

    /// Is anything in it alive?
    pub fn populated(&self) -> io::Result<bool> {
        Ok(fs::read_to_string(self.path.join("cgroup.events"))?.lines().any(|line| line == "populated 1"))
    }

    /// Has the kernel killed in it for want of memory?
    pub fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }

    pub fn remove(self) {
        // silent-ok: an empty cgroup that stays costs little, and ends with the unit
        let _ = fs::remove_dir(&self.path);
    }
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
