//! The walls around a command, put up by the process itself just before it becomes the shell.

pub mod landlock;
pub mod seccomp;

use crate::wire::Walls;
use landlock::Open;
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a confined process says first, so that a failure before it is told from the command's own output.
pub const CONFINED: &[u8] = b"\0confined\0";
/// The argument by which the launcher starts itself again to become a command.
pub const SUBCOMMAND: &str = "tools-confine";
const SHELL: &str = "/bin/bash";

/// What the process that becomes a command is told, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The root's real path: the working directory, and all that may be written besides `temporary`.
    pub root: PathBuf,
    pub temporary: PathBuf,
    pub launcher: u32,
    /// It is a visitor's, who may less.
    pub visitor: bool,
    pub limits: Limits,
    pub task: Task,
}

/// What the confined process does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    Bash {
        command: String,
    },
    /// Prints [`Walls`] as JSON.
    Probe {
        loopback_port: u16,
        other_user: bool,
        cgroup: bool,
        cgroup_limits: bool,
        /// A file of the tools' user outside of the root.
        outside: PathBuf,
    },
}

/// Limits of each process of a command (setrlimit), where the cgroup's are for all together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Of processor time.
    pub seconds: u64,
    /// Of this user, those of other commands included; `None` where the cgroup counts the command's own.
    pub processes: Option<u64>,
    /// Bytes of private memory.
    pub memory: u64,
    /// Bytes of a file.
    pub file: u64,
    /// Open files and sockets.
    pub files: u64,
}

/// A command's niceness.
const PRIORITY: i32 = 5;

/// Why no wall could be put up; nothing ran.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("the order cannot be read: {0}")]
    Order(#[source] io::Error),
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    #[error(transparent)]
    Landlock(#[from] landlock::LandlockError),
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
}

/// `what` failed.
fn during<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |e| ConfineError::System(what, e.into())
}

/// Confines this process as its standard input tells and becomes the command. Comes back only with an error, or after a
/// probe.
pub fn run() -> Result<(), ConfineError> {
    let mut order = Vec::new();
    io::stdin().read_to_end(&mut order).map_err(ConfineError::Order)?;
    let order: Order = serde_json::from_slice(&order).map_err(|e| ConfineError::Order(e.into()))?;
    let nothing = File::open("/dev/null").map_err(during("/dev/null"))?;
    rustix::stdio::dup2_stdin(&nothing).map_err(during("/dev/null"))?;
    // Whatever the launcher was started with, the command gets its three descriptors and no more.
    close_fds::set_fds_cloexec(3, &[]);

    // Ends the shell if the launcher is killed; with a cgroup systemd ends the rest, without one a subreaper above may.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(during("the death signal"))?;
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_pid() as u32 != order.launcher) {
        return Err(ConfineError::Order(io::Error::other("the launcher is gone")));
    }
    // A session of its own: no terminal, and one process group to begin with.
    rustix::process::setsid().map_err(during("setsid"))?;
    // The launcher, which has to end a fork bomb, goes first. Nobody can go back up to 5.
    if rustix::process::getpriority_process(None).map_err(during("the priority"))? < PRIORITY {
        rustix::process::setpriority_process(None, PRIORITY).map_err(during("the priority"))?;
    }
    // Out of memory, a command ends before anything else of the machine, its launcher included.
    // silent-ok: an older container may forbid it
    let _ = fs::write("/proc/self/oom_score_adj", "800");
    limit(order.limits).map_err(during("the limits"))?;
    std::env::set_current_dir(&order.root).map_err(during("the workspace"))?;

    // Opened here, since the domain may close it; what it says is read afterwards.
    let status = File::open("/proc/self/status").map_err(during("/proc/self/status"))?;
    let own = vec![order.root.as_path(), order.temporary.as_path()];
    // A visitor's command has no business with what others run: command lines tell a lot.
    let abi = landlock::enter(&Open { own, processes: !order.visitor, ..Open::default() })?;
    seccomp::enter_as_command(order.launcher, abi, order.visitor)?;
    io::stdout().write_all(CONFINED).and_then(|()| io::stdout().flush()).map_err(during("the output"))?;

    match order.task {
        Task::Bash { command } => {
            let failed = Command::new(SHELL)
                .arg("-c")
                .arg(command)
                .arg0("bash")
                .env_clear()
                .envs(environment(&order.root, &order.temporary))
                .exec();
            Err(ConfineError::System(SHELL, failed))
        }
        Task::Probe { loopback_port, other_user, cgroup, cgroup_limits, outside } => {
            let status = io::read_to_string(status).map_err(during("/proc/self/status"))?;
            let walls = Walls {
                user: rustix::process::geteuid().as_raw(),
                other_user,
                visitors_apart: false,
                landlock_abi: abi,
                files_closed: File::open(outside).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied),
                seccomp: field(&status, "Seccomp:") == Some("2"),
                no_new_privs: field(&status, "NoNewPrivs:") == Some("1"),
                cgroup,
                cgroup_limits,
                loopback_closed: loopback_closed(loopback_port),
            };
            let walls = serde_json::to_vec(&walls).map_err(during("the answer"))?;
            io::stdout().write_all(&walls).map_err(during("the answer"))
        }
    }
}

/// All that a command finds in its environment.
fn environment(root: &Path, temporary: &Path) -> Vec<(&'static str, PathBuf)> {
    let local = root.join(".local/bin");
    let path = format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}", local.display());
    vec![
        ("PATH", path.into()),
        ("HOME", root.into()),
        ("PWD", root.into()),
        ("TMPDIR", temporary.into()),
        ("LANG", "C.UTF-8".into()),
        ("TERM", "dumb".into()),
        ("SHELL", SHELL.into()),
        ("USER", "agent".into()),
        ("LOGNAME", "agent".into()),
    ]
}

fn limit(limits: Limits) -> rustix::io::Result<()> {
    for (resource, most) in [
        // With 1 the kernel starts no program for it either, which with 0 it does (core(5)).
        (Resource::Core, 1),
        (Resource::Fsize, limits.file),
        (Resource::Nofile, limits.files),
        (Resource::Nproc, limits.processes.unwrap_or(u64::MAX)),
        (Resource::Cpu, limits.seconds),
        (Resource::Data, limits.memory),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ] {
        // Nobody can raise what is lower already.
        let most = rustix::process::getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// A line of /proc/self/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Something listens there; is it out of reach?
fn loopback_closed(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err()
}

/// How many bytes of memory this machine has; 1 GiB where it does not say.
pub fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = field(&text, "MemTotal:").and_then(|rest| rest.strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kibibytes.map_or(1 << 30, |kibibytes| kibibytes << 10)
}
