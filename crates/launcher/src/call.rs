//! One command, from its start to the end of everything it started.

use crate::cgroup::Cgroup;
use crate::confine::{CONFINED, Order, SUBCOMMAND};
use crate::guard::Guard;
use crate::processes::{self, StillAlive};
use crate::serve::FRAME;
use crate::wire::{self, Ending, Exit, MAX_OUTPUT, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitIdStatus, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much output is read at once, and may wait for the client, in bytes.
const PIECE: usize = 32 << 10;
/// How long the client may take no output after the command's end.
const UNREAD: Duration = Duration::from_secs(60);

/// Why a command did not run, or its end cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum CallFailed {
    #[error("the command cannot be started: {0}")]
    Start(#[source] io::Error),
    /// What the process said that could not confine itself.
    #[error("the command could not be confined and did not run: {0}")]
    NotConfined(String),
    #[error("the command cannot be watched: {0}")]
    Watch(#[from] io::Error),
    #[error(transparent)]
    StillAlive(#[from] StillAlive),
}

impl From<Errno> for CallFailed {
    fn from(e: Errno) -> Self {
        Self::Watch(e.into())
    }
}

/// Runs a command and sends its output; its end is left to the caller to send. Whatever happens, nothing of it is left
/// alive, or it is [`StillAlive`].
pub fn run(
    order: &Order,
    timeout: Duration,
    guard: Guard,
    cgroup: Option<&Cgroup>,
    client: &UnixStream,
) -> Result<Exit, CallFailed> {
    let began = Instant::now();
    client.set_nonblocking(true)?;
    let (shell, output) = match start(order, cgroup) {
        Ok(started) => started,
        Err(e) => {
            client.set_nonblocking(false)?;
            return Err(e);
        }
    };
    let mut call =
        Call { client, output: Some(output), pending: Vec::new(), sent: 0, dropped: 0, head: Some(Vec::new()) };
    let watched = call.until_end(shell, began, timeout, guard);
    // Killed in any case, the errors' too.
    let taken = processes::end_all(shell, cgroup);
    let (status, cut) = watched?;
    let status = status.or(taken?);
    call.drain()?;
    client.set_nonblocking(false)?;
    if let Some(said) = call.head {
        // A call that was ended before its walls stood has done nothing.
        if cut.is_none() {
            return Err(CallFailed::NotConfined(String::from_utf8_lossy(&said).trim().to_owned()));
        }
    }
    let ending = match cut {
        None if cgroup.is_some_and(Cgroup::out_of_memory) => Ending::OutOfMemory,
        None => ended_by_itself(status),
        Some(cut) => cut,
    };
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Exit { ending, output_bytes: call.sent, dropped_bytes: call.dropped, elapsed_ms })
}

/// Starts the launcher again to confine itself and become the command; standard output and error are one pipe.
fn start(order: &Order, cgroup: Option<&Cgroup>) -> Result<(Pid, File), CallFailed> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let order = serde_json::to_vec(order).map_err(|e| CallFailed::Start(e.into()))?;
    // `Command` keeps the pipe's other end open, so it must not outlive this.
    let mut child = Command::new("/proc/self/exe")
        .arg(SUBCOMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()
        .map_err(CallFailed::Start)?;
    let shell = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    // It waits for its order, so it is in its cgroup before it does anything.
    if let Some(Err(e)) = cgroup.map(|cgroup| cgroup.take(shell)) {
        // silent-ok: the first error is what counts
        let _ = child.kill().and_then(|()| child.wait());
        return Err(CallFailed::Start(io::Error::new(e.kind(), format!("its cgroup: {e}"))));
    }
    if let Some(mut stdin) = child.stdin.take() {
        // An error means that it ended already, which is seen soon.
        // silent-ok: see above
        let _ = stdin.write_all(&order);
    }
    Ok((shell, File::from(ours)))
}

struct Call<'a> {
    client: &'a UnixStream,
    /// `None` once everybody who could write has ended.
    output: Option<File>,
    /// Not taken by the client yet.
    pending: Vec<u8>,
    sent: u64,
    dropped: u64,
    /// What came before the confinement was told; `None` from then on.
    head: Option<Vec<u8>>,
}

impl Call<'_> {
    /// Passes output on until the shell ends, or has to be ended: then tells why.
    fn until_end(
        &mut self,
        shell: Pid,
        began: Instant,
        timeout: Duration,
        mut guard: Guard,
    ) -> Result<(Option<WaitIdStatus>, Option<Ending>), CallFailed> {
        let process = pidfd_open(shell, PidfdFlags::empty())?;
        let deadline = began + timeout;
        let mut next_look = began + guard.pace();
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok((None, Some(Ending::TimedOut)));
            }
            if now >= next_look {
                if let Some(full) = guard.look()? {
                    return Ok((None, Some(full)));
                }
                next_look = Instant::now() + guard.pace();
            }
            let wait = next_look.min(deadline).saturating_duration_since(now);
            // The output waits in the pipe, and the command with it, while the client has not taken what was sent.
            let to_client = if self.pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut ready =
                vec![PollFd::new(self.client, to_client | PollFlags::RDHUP), PollFd::new(&process, PollFlags::IN)];
            if let Some(output) = self.output.as_ref().filter(|_| self.pending.is_empty()) {
                ready.push(PollFd::new(output, PollFlags::IN));
            }
            match poll(&mut ready, Some(&timespec(wait))) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let ready: Vec<PollFlags> = ready.iter().map(PollFd::revents).collect();
            if ready[0].intersects(PollFlags::IN | PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
                self.heard()?;
                return Ok((None, Some(Ending::Cancelled)));
            }
            if ready[0].contains(PollFlags::OUT) {
                self.send()?;
            }
            if ready.get(2).is_some_and(|output| !output.is_empty()) {
                self.read()?;
            }
            if !ready[1].is_empty()
                && let Some(status) = processes::ended(shell)?
            {
                return Ok((Some(status), None));
            }
        }
    }

    /// Reads what the client says meanwhile. All that it can say ends the command; saying nothing any more as well.
    fn heard(&self) -> Result<(), CallFailed> {
        self.client.set_nonblocking(false)?;
        self.client.set_read_timeout(Some(FRAME))?;
        let said = wire::receive(&mut &*self.client);
        self.client.set_read_timeout(None)?;
        self.client.set_nonblocking(true)?;
        match said {
            // silent-ok: the connection is at its end, which the next read tells again
            Ok(None) | Err(_) => Ok(()),
            Ok(Some(frame)) => match frame.head::<Request>() {
                Ok(Request::Cancel) => Ok(()),
                _ => Err(CallFailed::Watch(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "something else than a cancel was asked while a command ran",
                ))),
            },
        }
    }

    /// Takes the next piece of output; false when there is none now.
    fn read(&mut self) -> Result<bool, CallFailed> {
        let Some(output) = &mut self.output else { return Ok(false) };
        let mut piece = vec![0; PIECE];
        match output.read(&mut piece) {
            Ok(0) => self.output = None,
            Ok(read) => {
                piece.truncate(read);
                self.pass_on(piece)?;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
        Ok(true)
    }

    fn pass_on(&mut self, mut piece: Vec<u8>) -> Result<(), CallFailed> {
        if let Some(head) = &mut self.head {
            head.extend(piece);
            if !head.starts_with(CONFINED) {
                // As much as a message may have; nothing that is not confined says more.
                head.truncate(4096);
                return Ok(());
            }
            piece = head.split_off(CONFINED.len());
            self.head = None;
        }
        let room = usize::try_from(MAX_OUTPUT - self.sent).unwrap_or(usize::MAX).min(piece.len());
        self.dropped += (piece.len() - room) as u64;
        piece.truncate(room);
        if !piece.is_empty() {
            self.sent += room as u64;
            self.pending.extend(wire::start(&Reply::Output, room)?);
            self.pending.extend(piece);
            self.send()?;
        }
        Ok(())
    }

    /// Gives the client what it takes now. One that has gone takes everything.
    fn send(&mut self) -> Result<(), CallFailed> {
        while !self.pending.is_empty() {
            match self.client.write(&self.pending) {
                Ok(written) => {
                    self.pending.drain(..written);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // silent-ok: the client is gone; the end of the connection follows
                Err(_) => self.pending.clear(),
            }
        }
        Ok(())
    }

    /// Sends what is left in the pipe; nobody writes there any more.
    fn drain(&mut self) -> Result<(), CallFailed> {
        while self.read()? {
            while !self.pending.is_empty() {
                let mut ready = [PollFd::new(self.client, PollFlags::OUT)];
                if poll(&mut ready, Some(&timespec(UNREAD)))? == 0 {
                    return Err(CallFailed::Watch(io::ErrorKind::TimedOut.into()));
                }
                self.send()?;
            }
        }
        Ok(())
    }
}

fn ended_by_itself(status: Option<WaitIdStatus>) -> Ending {
    let code = status.as_ref().and_then(WaitIdStatus::exit_status);
    let signal = status.as_ref().and_then(WaitIdStatus::terminating_signal);
    match (code, signal) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        // The kernel always tells one of them; without either it was the launcher's own SIGKILL.
        (None, None) => Ending::Signal(9),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}
