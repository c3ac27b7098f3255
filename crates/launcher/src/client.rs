//! The agent's side: opens connections to the launcher and asks.

use crate::Root;
use crate::wire::{
    self, Entry, Exit, Failure, FileContent, Frame, MAX_FILE, MAX_SECONDS, PREFIX, Reply, Request, VERSION, Walls, hex,
};
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long the launcher may take to be there.
const OPEN: Duration = Duration::from_secs(15);
/// How long anything but a command may take.
const ANSWER: Duration = Duration::from_secs(90);

/// Where the launcher is.
#[derive(Clone, Debug)]
pub enum Launcher {
    /// A socket at which systemd starts one launcher per connection, as another user.
    Socket(PathBuf),
    /// A child of this process and its user: `program tools --workspace DIR`. The walls are not complete.
    Child { program: PathBuf, workspace: PathBuf },
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A sentence for the model.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The launcher cannot be reached, or the connection broke; for the log. The session is of no more use.
    #[error("the launcher of the tools is not available: {0}")]
    Unavailable(#[from] io::Error),
}

impl Launcher {
    /// Opens a connection about one root.
    pub async fn open(&self, root: &Root) -> Result<Session, CallError> {
        timeout(OPEN, self.connect(root)).await.map_err(|_| late("the launcher did not answer in time"))?
    }

    async fn connect(&self, root: &Root) -> Result<Session, CallError> {
        let stream = match self {
            Self::Socket(path) => UnixStream::connect(path).await?,
            Self::Child { program, workspace } => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                // Not killed with the session: it ends by itself when the connection does, after what it runs.
                Command::new(program)
                    .arg("tools")
                    .arg("--workspace")
                    .arg(workspace)
                    .env_clear()
                    .stdin(Stdio::from(OwnedFd::from(theirs)))
                    .stdout(Stdio::null())
                    .spawn()?;
                UnixStream::from_std(ours)?
            }
        };
        let (receiver, sender) = stream.into_split();
        let mut session = Session { receiver, sender, buffer: BytesMut::new(), usable: true };
        match session.ask(&Request::Hello { version: VERSION, root: *root }, &[]).await {
            Ok((Reply::Ready, _)) => Ok(session),
            Ok((other, _)) => Err(unexpected(&other)),
            // Why a connection is not served is the operator's business, not the model's.
            Err(CallError::Failed(why)) => Err(io::Error::other(why).into()),
            Err(e) => Err(e),
        }
    }
}

/// One connection to the launcher, about one root. Requests go one after another. Dropped, it ends whatever runs; so does
/// dropping the future of a call, after which the session is of no more use.
#[derive(Debug)]
pub struct Session {
    receiver: OwnedReadHalf,
    sender: OwnedWriteHalf,
    /// Of the frame being received.
    buffer: BytesMut,
    /// False while a request is under way, and for good once one was left in the middle.
    usable: bool,
}

impl Session {
    /// What is really enforced, found out from inside a confined child. Something must listen on `loopback_port` of
    /// 127.0.0.1 for the answer about it to mean anything.
    pub async fn probe(&mut self, loopback_port: u16) -> Result<Walls, CallError> {
        match self.ask(&Request::Probe { loopback_port }, &[]).await? {
            (Reply::Walls { walls }, _) => Ok(walls),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// A regular file's first `max_bytes`, at most [`MAX_FILE`].
    pub async fn read(&mut self, path: &str, max_bytes: u64) -> Result<FileContent, CallError> {
        match self.ask(&Request::Read { path: path.into(), max_bytes }, &[]).await? {
            (Reply::Content { size }, bytes) => Ok(FileContent { truncated: size > bytes.len() as u64, bytes, size }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Makes or replaces a file at once, and the directories above it. With `expect_sha256` only if what is there has that
    /// digest ([`FileContent::sha256`]); else it is a [`Failure::Conflict`].
    pub async fn write(
        &mut self,
        path: &str,
        content: &[u8],
        expect_sha256: Option<[u8; 32]>,
    ) -> Result<(), CallError> {
        let expect_sha256 = expect_sha256.map(|digest| hex(&digest));
        self.put(&Request::Write { path: path.into(), expect_sha256 }, content).await
    }

    /// Adds to a file's end, or makes it, with the directories above it.
    pub async fn append(&mut self, path: &str, content: &[u8]) -> Result<(), CallError> {
        self.put(&Request::Append { path: path.into() }, content).await
    }

    async fn put(&mut self, request: &Request, content: &[u8]) -> Result<(), CallError> {
        if content.len() as u64 > MAX_FILE {
            return Err(Failure::TooLarge(format!("a file may have {} MiB", MAX_FILE >> 20)).into());
        }
        match self.ask(request, content).await? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// What is in a directory, by name, at most [`wire::MAX_ENTRIES`].
    pub async fn list(&mut self, path: &str) -> Result<Vec<Entry>, CallError> {
        match self.ask(&Request::List { path: path.into() }, &[]).await? {
            (Reply::Entries, body) => Ok(serde_json::from_slice(&body).map_err(io::Error::from)?),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Runs `bash -c command` for at most `timeout` (and 15 minutes), and passes on what it prints, both streams as one,
    /// as it comes. While `output` is full the command waits. `stop` ends it. When this comes back, nothing that the command
    /// started is alive.
    pub async fn bash(
        &mut self,
        command: &str,
        timeout: Duration,
        output: mpsc::Sender<Bytes>,
        stop: &CancellationToken,
    ) -> Result<Exit, CallError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.begin()?;
        self.send(&Request::Bash { timeout_ms }, command.as_bytes()).await?;
        // The launcher keeps the time; this is for one that hangs. A reader that does not read holds a command up, but
        // its time still runs out.
        let last = timeout.min(Duration::from_secs(MAX_SECONDS)) + ANSWER;
        let exit = tokio::time::timeout(last, self.follow(output, stop)).await;
        let exit = exit.map_err(|_| late("the launcher did not end a command in time"))??;
        self.usable = true;
        Ok(exit?)
    }

    /// Until the command's end. The inner error is the launcher's answer, the outer one the connection's.
    async fn follow(
        &mut self,
        output: mpsc::Sender<Bytes>,
        stop: &CancellationToken,
    ) -> Result<Result<Exit, Failure>, CallError> {
        let mut stopped = false;
        loop {
            let frame = tokio::select! {
                frame = self.receive() => frame?,
                () = stop.cancelled(), if !stopped => {
                    stopped = true;
                    self.send(&Request::Cancel, &[]).await?;
                    continue;
                }
            };
            match frame.head()? {
                Reply::Output => {
                    let piece = Bytes::from(frame.body);
                    // Nobody has to read the output of a command that was stopped, or to read at all.
                    if let Err(TrySendError::Full(piece)) = output.try_send(piece)
                        && !stopped
                    {
                        tokio::select! {
                            // silent-ok: whoever wanted the output is gone
                            _ = output.send(piece) => {}
                            () = stop.cancelled() => {
                                stopped = true;
                                self.send(&Request::Cancel, &[]).await?;
                            }
                        }
                    }
                }
                Reply::Exit { exit } => return Ok(Ok(exit)),
                Reply::Failed { failure } => return Ok(Err(failure)),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// One request that has one answer.
    async fn ask(&mut self, request: &Request, body: &[u8]) -> Result<(Reply, Vec<u8>), CallError> {
        self.begin()?;
        let answered = async {
            self.send(request, body).await?;
            self.receive().await
        };
        let frame = timeout(ANSWER, answered).await.map_err(|_| late("the launcher did not answer in time"))??;
        let reply = frame.head()?;
        self.usable = true;
        match reply {
            Reply::Failed { failure } => Err(failure.into()),
            reply => Ok((reply, frame.body)),
        }
    }

    /// The session is of no use until the request that begins here is answered.
    fn begin(&mut self) -> Result<(), CallError> {
        if !std::mem::take(&mut self.usable) {
            return Err(io::Error::other("an earlier request of this session was left in the middle").into());
        }
        Ok(())
    }

    async fn send(&mut self, request: &Request, body: &[u8]) -> io::Result<()> {
        self.sender.write_all(&wire::start(request, body.len())?).await?;
        self.sender.write_all(body).await
    }

    /// The next frame. May be dropped at any moment and asked for again: what has arrived is kept.
    async fn receive(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<PREFIX>() {
                let (head, body) = wire::lengths(*prefix)?;
                let whole = PREFIX + head + body;
                if self.buffer.len() >= whole {
                    let mut frame = self.buffer.split_to(whole);
                    frame.advance(PREFIX);
                    let head = frame.split_to(head);
                    return Ok(Frame::new(head.into(), frame.into()));
                }
                self.buffer.reserve(whole - self.buffer.len());
            }
            if self.receiver.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended the connection"));
            }
        }
    }
}

fn late(what: &'static str) -> CallError {
    CallError::Unavailable(io::Error::new(io::ErrorKind::TimedOut, what))
}

fn unexpected(reply: &Reply) -> CallError {
    CallError::Unavailable(io::Error::new(io::ErrorKind::InvalidData, format!("it answered {reply:?}")))
}
