//! The launcher's side of one connection.

use crate::call::{self, CallFailed};
use crate::cgroup::{Cgroups, Share};
use crate::confine::landlock::{self, LandlockError, Open};
use crate::confine::seccomp::{self, SeccompError};
use crate::confine::{self, ConfineError, Limits, Order, Task, machine_memory};
use crate::guard::{Guard, Watch};
use crate::session::Session;
use crate::wire::{self, Exit, Failure, Frame, MAX_COMMAND, MAX_SECONDS, Reply, Request, VERSION, Walls};
use crate::{Root, processes};
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a client may take for a frame that is awaited: its first, and one that has begun while a command runs.
pub(crate) const FRAME: Duration = Duration::from_secs(10);
/// How long one may take none of an answer.
const UNREAD: Duration = Duration::from_secs(60);
/// How many processes and threads a command of the owner may have, and one of a visitor. Where no cgroup counts them: how
/// many more than its user has already.
const PROCESSES: (u64, u64) = (512, 128);
/// What a single process may have of private memory on any machine, in bytes: some programs take much and use little.
const LEAST_PRIVATE: u64 = 512 << 20;
/// Landlock keeps signals inside a domain from this ABI on (Linux 6.12). All visitors are one user, so below it one could end
/// or stop another's commands, and the launchers that have to end them.
const SIGNALS: u32 = 6;
/// How long a count of the user's processes is good enough for that; counting takes milliseconds.
const COUNT: Duration = Duration::from_secs(30);

/// How the launcher is set up.
#[derive(Debug)]
pub struct Settings {
    /// The directory in which every root lies.
    pub workspace: PathBuf,
    /// /tmp belongs to this connection alone (systemd's `PrivateTmp=`), so commands may use it. Otherwise they get a
    /// directory beside the roots, and only `TMPDIR` leads there.
    pub private_tmp: bool,
}

/// Why a connection could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the standard input is no connection: {0}")]
    Input(#[source] io::Error),
    #[error("the client says nothing that can be understood: {0}")]
    Hello(#[source] io::Error),
    #[error("the client speaks version {0} of the protocol, this is version {VERSION}: both must be the same program")]
    Version(u32),
    #[error("the workspace {path} cannot be used: {cause}")]
    Workspace {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    #[error(transparent)]
    Landlock(#[from] LandlockError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A frame may be half sent, or a process still there. The end of this process is then the end of its unit, and
    /// systemd has the last word.
    #[error("a command went out of hand: {0}")]
    Call(#[source] CallFailed),
    #[error("the connection broke: {0}")]
    Connection(#[from] io::Error),
}

/// Becomes a command: the other half of a call, in a process of its own. Comes back only with an error, or after a probe.
pub fn run_confined() -> Result<(), ConfineError> {
    confine::run()
}

/// Serves the connection on the standard input to its end. To be called once, by a process with a single thread, since the
/// walls are put up around the calling thread.
pub fn serve(settings: &Settings) -> Result<(), ServeError> {
    // Descriptors that somebody left open must not reach a command.
    close_fds::set_fds_cloexec(3, &[]);
    let client = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(ServeError::Input)?;
    let peer = rustix::net::sockopt::socket_peercred(&client).map_err(|e| ServeError::Input(e.into()))?;
    prepare()?;
    let cgroups = Cgroups::find();

    client.set_read_timeout(Some(FRAME))?;
    client.set_write_timeout(Some(UNREAD))?;
    let Some(hello) = wire::receive(&mut &client).map_err(ServeError::Hello)? else { return Ok(()) };
    let root = match hello.head::<Request>().map_err(ServeError::Hello)? {
        Request::Hello { version: VERSION, root } => root,
        Request::Hello { version, .. } => return Err(refuse(&client, ServeError::Version(version))),
        _ => {
            return Err(ServeError::Hello(io::Error::new(io::ErrorKind::InvalidData, "the first frame must be hello")));
        }
    };
    let (session, landlock_abi) = match open(settings, root, cgroups.as_ref()) {
        Ok(opened) => opened,
        Err(e) => return Err(refuse(&client, e)),
    };

    client.set_read_timeout(None)?;
    let other_user = peer.uid != rustix::process::geteuid();
    let mut server = Server { client, session, cgroups, other_user, landlock_abi, processes: None };
    match server.requests() {
        // The client may go whenever it likes.
        Err(ServeError::Connection(e))
            if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Opens the root and puts up the launcher's own walls; tells Landlock's ABI.
fn open(settings: &Settings, root: Root, cgroups: Option<&Cgroups>) -> Result<(Session, u32), ServeError> {
    let workspace = |cause| ServeError::Workspace { path: settings.workspace.clone(), cause };
    let session = Session::open(&settings.workspace, root, settings.private_tmp).map_err(workspace)?;
    let landlock_abi = confine_launcher(&session, cgroups)?;
    Ok((session, landlock_abi))
}

/// Tells the client why it is not served, so that the reason is in the agent's log and not only in this process'.
fn refuse(mut client: &UnixStream, why: ServeError) -> ServeError {
    let refusal = Reply::Failed { failure: Failure::Broken(why.to_string()) };
    // silent-ok: the reason itself is what is given back
    let _ = wire::start(&refusal, 0).and_then(|frame| client.write_all(&frame));
    why
}

/// What the launcher asks of the kernel for itself, before anything else.
fn prepare() -> Result<(), ServeError> {
    let failed = |what| move |e: rustix::io::Errno| ServeError::System(what, e.into());
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // A session of its own, so that a Ctrl-C meant for the agent leaves the launcher time to end what runs.
    // silent-ok: it leads a process group already, which is as good
    let _ = rustix::process::setsid();
    // Everything that a command starts stays this process' descendant.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(failed("the subreaper"))?;
    // Nobody of this user may look into the launcher.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("the dumpable flag"))
}

/// The launcher's own walls: its root, what a shell needs, and the processes that it has to end.
fn confine_launcher(session: &Session, cgroups: Option<&Cgroups>) -> Result<u32, ServeError> {
    let own = vec![session.files.path.as_path(), session.temporary.path.as_path()];
    let run = vec![Path::new("/proc/self/exe")];
    let cgroups = cgroups.map(Cgroups::directory).into_iter().collect();
    // Also for root, who has them all; no program can bring any back, because of no_new_privs.
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).map_err(|e| ServeError::System("the capabilities", e.into()))?;
    let abi = landlock::enter(&Open { own, run, cgroups, processes: true })?;
    seccomp::enter()?;
    Ok(abi)
}

struct Server {
    client: UnixStream,
    session: Session,
    cgroups: Option<Cgroups>,
    /// Whoever asks is another user than this process.
    other_user: bool,
    landlock_abi: u32,
    /// How many processes this user had, and when.
    processes: Option<(u64, Instant)>,
}

impl Server {
    fn requests(&mut self) -> Result<(), ServeError> {
        self.answer(&Reply::Ready, &[])?;
        while let Some(frame) = wire::receive(&mut &self.client)? {
            self.serve(frame)?;
        }
        Ok(())
    }

    fn serve(&mut self, frame: Frame) -> Result<(), ServeError> {
        let request = match frame.head() {
            Ok(request) => request,
            Err(e) => return self.fail(Failure::Invalid(format!("the request cannot be read: {e}"))),
        };
        self.session.close();
        let files = &mut self.session.files;
        let done = match request {
            Request::Hello { .. } => Err(Failure::Invalid("hello was said already".into())),
            // It came when the command had ended already, which was answered.
            Request::Cancel => return Ok(()),
            Request::Read { path, max_bytes } => match files.read(&path, max_bytes) {
                Ok(content) => return self.answer(&Reply::Content { size: content.size }, &content.bytes),
                Err(e) => Err(e),
            },
            Request::Write { path, expect_sha256 } => files.write(&path, &frame.body, expect_sha256.as_deref()),
            Request::Append { path } => files.append(&path, &frame.body),
            Request::List { path } => match files.list(&path) {
                Ok(entries) => {
                    let entries = serde_json::to_vec(&entries).map_err(io::Error::from)?;
                    return self.answer(&Reply::Entries, &entries);
                }
                Err(e) => Err(e),
            },
            Request::Bash { timeout_ms } => match self.bash(frame.body, timeout_ms)? {
                Ok(exit) => return self.answer(&Reply::Exit { exit }, &[]),
                Err(e) => Err(e),
            },
            Request::Probe { loopback_port } => match self.probe(loopback_port)? {
                Ok(walls) => return self.answer(&Reply::Walls { walls }, &[]),
                Err(e) => Err(e),
            },
        };
        match done {
            Ok(()) => self.answer(&Reply::Done, &[]),
            Err(failure) => self.fail(failure),
        }
    }

    fn answer(&self, reply: &Reply, body: &[u8]) -> Result<(), ServeError> {
        let start = wire::start(reply, body.len())?;
        (&self.client).write_all(&start)?;
        Ok((&self.client).write_all(body)?)
    }

    fn fail(&self, failure: Failure) -> Result<(), ServeError> {
        self.answer(&Reply::Failed { failure }, &[])
    }

    fn bash(&mut self, command: Vec<u8>, timeout_ms: u64) -> Result<Result<Exit, Failure>, ServeError> {
        if command.len() > MAX_COMMAND {
            let most = MAX_COMMAND >> 10;
            let told = format!("a command may have {most} KiB: write the text to a file and use that");
            return Ok(Err(Failure::TooLarge(told)));
        }
        let Some(command) = String::from_utf8(command).ok().filter(|command| !command.contains('\0')) else {
            return Ok(Err(Failure::Invalid("a command must be text without NUL".into())));
        };
        if self.session.files.root != Root::Owner && self.landlock_abi < SIGNALS {
            let told = "visitors have no shell on this machine: its kernel (before Linux 6.12) cannot keep them apart";
            return Ok(Err(Failure::Denied(told.into())));
        }
        let timeout = Duration::from_millis(timeout_ms).min(Duration::from_secs(MAX_SECONDS));
        let client = self.client.try_clone()?;
        self.call(Task::Bash { command }, timeout, &client)
    }

    /// What holds, from inside of a confined process.
    fn probe(&mut self, loopback_port: u16) -> Result<Result<Walls, Failure>, ServeError> {
        let task = Task::Probe {
            loopback_port,
            other_user: self.other_user,
            cgroup: self.cgroups.is_some(),
            cgroup_limits: self.cgroups.as_ref().is_some_and(|cgroups| cgroups.limits),
            outside: self.session.outside.clone(),
        };
        // The answer is small enough to wait in the connection until the process has ended.
        let (ours, theirs) = UnixStream::pair()?;
        if let Err(failure) = self.call(task, Duration::from_secs(10), &theirs)? {
            return Ok(Err(failure));
        }
        drop(theirs);
        let mut walls = Vec::new();
        while let Some(frame) = wire::receive(&mut &ours)? {
            walls.extend(frame.body);
        }
        Ok(serde_json::from_slice(&walls)
            .map_err(|e| Failure::Broken(format!("the probe answered {:?}: {e}", String::from_utf8_lossy(&walls)))))
    }

    fn call(
        &mut self,
        task: Task,
        timeout: Duration,
        client: &UnixStream,
    ) -> Result<Result<Exit, Failure>, ServeError> {
        let root = self.session.files.root;
        let share = share(root);
        let cgroup = self.cgroups.as_mut().map(|cgroups| cgroups.make(Some(share))).transpose();
        let cgroup = match cgroup {
            Ok(cgroup) => cgroup,
            Err(e) => return Ok(Err(Failure::Broken(format!("a command's cgroup cannot be made: {e}")))),
        };
        let counted_by_cgroup = self.cgroups.as_ref().is_some_and(|cgroups| cgroups.limits);
        let files = &self.session.files;
        let guard = Guard::new(Watch {
            root,
            directory: files.directory(),
            temporary: self.session.temporary.directory.as_fd(),
        })?;
        let processors = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
        let order = Order {
            root: files.path.clone(),
            temporary: self.session.temporary.path.clone(),
            visitor: root != Root::Owner,
            launcher: std::process::id(),
            limits: Limits {
                seconds: (timeout.as_secs() + 1) * processors + 5,
                // What a whole user may have would let one command keep others from forking.
                processes: (!counted_by_cgroup).then(|| count(&mut self.processes) + share.processes),
                memory: share.memory.max(LEAST_PRIVATE),
                file: guard.largest_file(),
                // A visitor's sockets together are fewer than the machine's ports.
                files: if root == Root::Owner { 1024 } else { 192 },
            },
            task,
        };
        let ended = call::run(&order, timeout, guard, cgroup.as_ref(), client);
        if let Some(cgroup) = cgroup {
            cgroup.remove();
        }
        match ended {
            Ok(exit) => Ok(Ok(exit)),
            // Nothing was sent and nothing runs.
            Err(e @ (CallFailed::Start(_) | CallFailed::NotConfined(_))) => Ok(Err(Failure::Broken(e.to_string()))),
            Err(e) => Err(ServeError::Call(e)),
        }
    }
}

/// What a command may take. The unit and its slice allow more, so that a command meets its own limit first.
fn share(root: Root) -> Share {
    let eighth = machine_memory() / 8;
    match root {
        Root::Owner => Share { processes: PROCESSES.0, memory: eighth * 3 },
        Root::Chat(_) => Share { processes: PROCESSES.1, memory: eighth },
    }
}

/// How many processes and threads this user had lately.
fn count(known: &mut Option<(u64, Instant)>) -> u64 {
    let recent = known.filter(|(_, when)| when.elapsed() < COUNT);
    known.insert(recent.unwrap_or_else(|| (processes::of_this_user(), Instant::now()))).0
}
