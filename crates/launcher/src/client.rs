//! The agent's side: opens connections to the launcher and asks.

use crate::Root;
use crate::wire::{
    self, Entry, Exit, Failure, FileContent, Frame, MAX_FILE, MAX_SECONDS, PREFIX, Reply, Request, VERSION, Walls, hex,
};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long the launcher may take to be there.
const OPEN: Duration = Duration::from_secs(15);
/// How long anything but a command may take.
const ANSWER: Duration = Duration::from_secs(90);

/// Connections at once about the owner's root, and about all visitors' together: fewer than systemd lets in, which turns
/// away the one too many where it could wait.
static OWNERS: Semaphore = Semaphore::const_new(40);
static VISITORS: Semaphore = Semaphore::const_new(40);
/// Connections at once about one visitor's root: nobody takes all the visitors' places.
const OF_ONE_VISITOR: usize = 4;
static EACH: LazyLock<Mutex<HashMap<Root, Weak<Semaphore>>>> = LazyLock::new(Mutex::default);
/// Before a connection that was ended at once is tried again.
const ONCE_MORE_AFTER: Duration = Duration::from_millis(200);
/// A root that is no chat's, to ask about what holds for visitors.
const NOBODYS: Root = Root::Chat([0; 16]);

/// Where the launcher is.
#[derive(Clone, Debug)]
pub enum Launcher {
    /// Sockets at which systemd starts one launcher per connection, as another user: one for the owner's root, and as yet
    /// another user one for visitors'.
    Socket { owner: PathBuf, guests: PathBuf },
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
    /// Opens a connection about one root, when it is its turn.
    pub async fn open(&self, root: &Root) -> Result<Session, CallError> {
        let opened = async {
            let place = Place::of(*root).await?;
            let connected = match self.connect(root).await {
                Err(CallError::Unavailable(e)) if matches!(self, Self::Socket { .. }) && was_ended(&e) => {
                    tokio::time::sleep(ONCE_MORE_AFTER).await;
                    self.connect(root).await
                }
                other => other,
            };
            connected.map(|session| Session { place: Some(place), ..session })
        };
        timeout(OPEN, opened).await.map_err(|_| late("the launcher did not answer in time"))?
    }

    /// What is really enforced for the owner and for visitors alike; see [`Session::probe`].
    pub async fn probe(&self, loopback_port: u16) -> Result<Walls, CallError> {
        let owner = self.open(&Root::Owner).await?.probe(loopback_port).await?;
        match self {
            Self::Socket { .. } => Ok(owner.and(&self.open(&NOBODYS).await?.probe(loopback_port).await?)),
            Self::Child { .. } => Ok(owner),
        }
    }

    async fn connect(&self, root: &Root) -> Result<Session, CallError> {
        let stream = match self {
            Self::Socket { owner, guests } => {
                UnixStream::connect(if *root == Root::Owner { owner } else { guests }).await?
            }
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
        let mut session = Session { receiver, sender, buffer: BytesMut::new(), usable: true, place: None };
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
    /// Given back with the session.
    #[expect(dead_code, reason = "held until it is dropped")]
    place: Option<Place>,
}

/// A place among the connections at once.
#[derive(Debug)]
struct Place {
    _shared: SemaphorePermit<'static>,
    _own: Option<OwnedSemaphorePermit>,
}

impl Place {
    async fn of(root: Root) -> io::Result<Self> {
        let (shared, own) = match root {
            Root::Owner => (&OWNERS, None),
            Root::Chat(_) => (&VISITORS, Some(of_one(root))),
        };
        // The own one first: who waits for it takes no shared one.
        let own = match own {
            Some(own) => Some(own.acquire_owned().await.map_err(io::Error::other)?),
            None => None,
        };
        Ok(Self { _shared: shared.acquire().await.map_err(io::Error::other)?, _own: own })
    }
}

/// The places of one visitor, for as long as any is taken or waited for.
fn of_one(root: Root) -> Arc<Semaphore> {
    let mut each = EACH.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(places) = each.get(&root).and_then(Weak::upgrade) {
        return places;
    }
    each.retain(|_, places| places.strong_count() > 0);
    let places = Arc::new(Semaphore::new(OF_ONE_VISITOR));
    each.insert(root, Arc::downgrade(&places));
    places
}

/// So it looks when systemd has no room for a connection.
fn was_ended(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
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
