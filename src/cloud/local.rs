//! The `local` cloud: an agent as a process of this host, with a directory and a port of its own.
//!
//! The directory is named after the vm's uuid and holds `config.json` (0600), the agent's data, its log, and the lock that
//! the agent holds while it lives. It is below the [root](super::root) that the vm remembers: this process' LOCAL_DIR may be another by
//! now, and what isn't below it may well run elsewhere. Agents outlive the control plane: they are neither its children's children nor in its
//! process group, and whoever starts next finds them by their lock.
//!
//! Whatever changes a directory does so under a lock on the directory itself, because several replicas may share a host:
//! nothing is started while another stops or removes it, and a start is over only when the agent holds its lock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use baal_protocol::AgentConfig;
use futures_util::{StreamExt as _, stream};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use uuid::Uuid;

use super::process;
use super::store::LocalVm;
use crate::agents::keys::ModelKey;
use crate::agents::{self, Agent};
use crate::config::Config;
use crate::vault::Undecryptable;

const TERMINATE: Duration = Duration::from_secs(5);
const KILL: Duration = Duration::from_secs(5);
/// How long a start waits for the agent to listen; then somebody else may look whether it is well.
const START: Duration = Duration::from_secs(3);
/// Longer than anybody keeps a directory: a start, or a stop with both of its waits.
const HOLD: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Size from which a log is set aside at the next start, in bytes.
const LOG_LIMIT: u64 = 8 << 20;
/// What a started agent keeps of the control plane's environment; nothing secret is among it.
const ENVIRONMENT: [&str; 4] = ["PATH", "LANG", "LOG_FORMAT", "RUST_LOG"];

/// Why something could not be done with a local agent. The texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The file system or the process table.
    #[error("{what} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed; part of the text, so not told again as its source.
        cause: io::Error,
    },
    /// No program to start.
    #[error("the agent's program is not at {0}; build it (`cargo build -p baal-agent`) or set BAAL_AGENT_BINARY")]
    ProgramMissing(PathBuf),
    /// Its root is not here, so that nothing can be said about it, least of all that it is gone.
    #[error(
        "the agent is below {0}, which is not there, or another directory than the agent was put into; let a host that has \
         the directory do this, or put it back (mount it)"
    )]
    Elsewhere(PathBuf),
    /// The directory is gone or was never made.
    #[error("there is no agent in {0}")]
    Gone(PathBuf),
    /// Somebody else keeps the directory.
    #[error("{0} has been busy for too long")]
    Busy(PathBuf),
    /// Another program listens on the agent's port.
    #[error("port {0} is taken by another program")]
    PortTaken(u16),
    /// It ended before it was ready.
    #[error("the agent's program ended at once ({status}); {log} says why")]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
    },
    /// It is still there after SIGKILL, or out of sight.
    #[error("the agent in {0} cannot be stopped")]
    WouldNotStop(PathBuf),
}

pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    move |cause| LocalError::Io { what, path: path.to_owned(), cause }
}

/// The directory of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    dir: PathBuf,
}

/// The right to change a directory, until it is dropped or the process ends.
struct Hold(#[expect(dead_code, reason = "closing the file is what ends the lock")] File);

impl Site {
    /// The directory of this vm, which need not exist; fails if its root is not here.
    pub fn of(vm: &LocalVm) -> Result<Self, LocalError> {
        vm.root.check()?;
        Ok(Self::below(vm.root.path(), vm.id))
    }

    /// `root` must be absolute and free of links: the process is found again by its path.
    fn below(root: &Path, vm: Uuid) -> Self {
        Self { dir: root.join(vm.to_string()) }
    }

    /// Where everything of the agent is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// The port on which the agent listens, if it said so; meaningful while it is alive.
    pub fn port(&self) -> Option<u16> {
        process::told(&self.dir)?.address.rsplit_once(':')?.1.parse().ok()
    }

    /// Waits for the right to change the directory; none if there is no directory.
    async fn hold(&self) -> Result<Option<Hold>, LocalError> {
        let deadline = Instant::now() + HOLD;
        loop {
            let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
            let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.dir) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(io_error("cannot open", &self.dir)(error)),
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // It may have been removed, and even made anew, while we waited: then the lock is on nothing.
                Ok(()) if self.is(&file) => return Ok(Some(Hold(file))),
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => sleep(POLL).await,
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LocalError::Busy(self.dir.clone())),
                Err(errno) => return Err(io_error("cannot lock", &self.dir)(errno.into())),
            }
        }
    }

    fn is(&self, file: &File) -> bool {
        match (file.metadata(), fs::symlink_metadata(&self.dir)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    /// Whether an agent runs here.
    pub async fn alive(&self) -> Result<bool, LocalError> {
        match self.hold().await? {
            Some(_hold) => self.alive_held(),
            None => Ok(false),
        }
    }

    fn alive_held(&self) -> Result<bool, LocalError> {
        // One that was just started may not have its lock yet, if whoever started it was killed or lost patience.
        let alive = process::lock_is_held(&self.dir)
            .and_then(|held| Ok(held || !process::find(&self.dir, &self.config_file())?.is_empty()));
        alive.map_err(io_error("cannot look for the agent of", &self.dir))
    }

    /// Writes the agent's configuration, after stopping the agent if one runs here.
    pub async fn install(&self, config: &AgentConfig) -> Result<(), LocalError> {
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("cannot make", &self.dir)(error));
            }
            _ => {}
        }
        let _hold = self.hold().await?.ok_or_else(|| LocalError::Gone(self.dir.clone()))?;
        self.stop_held().await?;
        self.write_config(config).map_err(io_error("cannot write the configuration in", &self.dir))
    }

    /// The whole file or none of it, even if the power fails.
    fn write_config(&self, config: &AgentConfig) -> io::Result<()> {
        let new = self.dir.join("config.json.new");
        // One that was left behind may have other permissions.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(config)?)?;
        file.sync_all()?;
        fs::rename(&new, self.config_file())?;
        File::open(&self.dir)?.sync_all()
    }

    /// Starts the agent with this configuration unless one runs here already, and waits until it listens.
    pub async fn start(&self, program: &Path, config: &AgentConfig) -> Result<(), LocalError> {
        let gone = || LocalError::Gone(self.dir.clone());
        let _hold = self.hold().await?.ok_or_else(gone)?;
        if self.alive_held()? {
            return Ok(());
        }
        if !port_is_free(config.port) {
            return Err(LocalError::PortTaken(config.port));
        }
        self.write_config(config).map_err(io_error("cannot write the configuration in", &self.dir))?;
        let log = self.dir.join("agent.log");
        let mut child = self.spawn(program, &log).map_err(io_error("cannot start", program))?;
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().map_err(io_error("cannot watch", program))? {
                return Err(LocalError::Ended { status, log });
            }
            if process::told(&self.dir).is_some_and(|lock| Some(lock.pid) == child.id()) {
                break;
            }
            sleep(POLL).await;
        }
        info!(agent.dir = %self.dir.display(), agent.pid = child.id(), agent.port = config.port, "agent started");
        let dir = self.dir.clone();
        // Reaped here as long as this process lives, then by init.
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => info!(agent.dir = %dir.display(), %status, "agent ended"),
                Err(error) => warn!(agent.dir = %dir.display(), %error, "agent could not be reaped"),
            }
        });
        Ok(())
    }

    fn spawn(&self, program: &Path, log: &Path) -> io::Result<tokio::process::Child> {
        if fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
            fs::rename(log, log.with_extension("log.1"))?;
        }
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
        let mut command = std::process::Command::new(program);
        command.arg("--config").arg(self.config_file()).current_dir(&self.dir).env_clear();
        command.envs(ENVIRONMENT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // A group of its own: Ctrl-C in the control plane's terminal is not meant for it.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        tokio::process::Command::from(command).spawn()
    }

    /// Stops the agent, if one runs here, and waits until it has ended.
    pub async fn stop(&self) -> Result<(), LocalError> {
        // Without a directory there is nothing to hold, but somebody may have removed it from under a process.
        let _hold = self.hold().await?;
        self.stop_held().await
    }

    async fn stop_held(&self) -> Result<(), LocalError> {
        let trouble = || io_error("cannot stop the agent of", &self.dir);
        for (signal, patience) in [(Signal::TERM, TERMINATE), (Signal::KILL, KILL)] {
            let deadline = Instant::now() + patience;
            loop {
                let processes = process::find(&self.dir, &self.config_file()).map_err(trouble())?;
                if processes.is_empty() && !process::lock_is_held(&self.dir).map_err(trouble())? {
                    return Ok(());
                }
                // Again and again, for there may be others behind the first: one that waits for the lock.
                for process in &processes {
                    process.signal(signal).map_err(trouble())?;
                }
                if Instant::now() >= deadline {
                    break;
                }
                sleep(POLL).await;
            }
        }
        Err(LocalError::WouldNotStop(self.dir.clone()))
    }

    /// Stops the agent and removes everything of it. Nothing there is fine.
    pub async fn remove(&self) -> Result<(), LocalError> {
        // A link in its place is not ours to follow.
        if fs::symlink_metadata(&self.dir).is_ok_and(|meta| !meta.is_dir()) {
            return fs::remove_file(&self.dir).map_err(io_error("cannot remove", &self.dir));
        }
        let hold = self.hold().await?;
        self.stop_held().await?;
        match hold {
            Some(_hold) => tokio::fs::remove_dir_all(&self.dir).await.map_err(io_error("cannot remove", &self.dir)),
            None => Ok(()),
        }
    }
}

/// A port of 127.0.0.1 that is free at this moment.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn port_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The agent's program: BAAL_AGENT_BINARY, or `baal-agent` beside this program.
pub fn program(config: &Config) -> Result<PathBuf, LocalError> {
    let path = match &config.agent_binary {
        Some(path) => path.clone(),
        None => {
            let own = std::env::current_exe().map_err(io_error("cannot find", Path::new("this program's own file")))?;
            own.with_file_name("baal-agent")
        }
    };
    // Absolute, because the agent starts in its own directory.
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(LocalError::ProgramMissing(path)),
    }
}

/// What the agent is started with; it holds keys.
pub fn agent_config(
    config: &Config,
    agent: &Agent,
    key: &ModelKey,
    site: &Site,
    port: u16,
) -> Result<AgentConfig, Undecryptable> {
    Ok(AgentConfig {
        port,
        db_path: site.dir.join("agent.db"),
        workspace_path: site.dir.join("workspace"),
        ..agents::config::agent_config(config, agent, key)?
    })
}

/// Stops every agent below `local_dir`, whoever started it; their files stay. The last error is returned after all were
/// tried.
pub async fn stop_all(local_dir: &Path) -> Result<(), LocalError> {
    let root = match local_dir.canonicalize() {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("cannot find", local_dir)(error)),
    };
    let mut sites = Vec::new();
    for entry in fs::read_dir(&root).map_err(io_error("cannot list", &root))? {
        let entry = entry.map_err(io_error("cannot list", &root))?;
        if let Some(vm) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            sites.push(Site::below(&root, vm));
        }
    }
    let stops = sites.into_iter().map(|site| async move { site.stop().await });
    let stopped: Vec<_> = stream::iter(stops).buffer_unordered(16).collect().await;
    stopped.into_iter().rev().find(Result::is_err).unwrap_or(Ok(()))
}
