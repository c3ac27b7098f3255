//! What is said between the agent and the launcher: one frame a message over a Unix stream socket.
//!
//! A frame is the head's length and the body's length (two big-endian `u32`), the head as JSON, and the body as it is. The
//! client speaks first, [`Request::Hello`]; every request is then answered to its end before the next is read, except
//! that [`Request::Cancel`], or the end of the client's side, is heard while a command runs.

use crate::Root;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Read};

/// The version of this protocol; both sides are the same binary, so another one is an error.
pub const VERSION: u32 = 1;
/// The longest head, in bytes.
pub const MAX_HEAD: usize = 64 << 10;
/// The longest body, in bytes.
pub const MAX_BODY: usize = 64 << 20;
/// The largest file that is read whole or written, in bytes.
pub const MAX_FILE: u64 = 50 << 20;
/// The longest shell command, in bytes: Linux takes an argument of 128 KiB (`MAX_ARG_STRLEN`).
pub const MAX_COMMAND: usize = 100 << 10;
/// The most entries of a directory that are told; a listing of just as many was cut.
pub const MAX_ENTRIES: usize = 1000;
/// How much of a command's output is passed on, in bytes; what comes after is counted and dropped.
pub const MAX_OUTPUT: u64 = 8 << 20;
/// The longest time a command may run, in seconds.
pub const MAX_SECONDS: u64 = 900;

/// The length of the two numbers before a head.
pub(crate) const PREFIX: usize = 8;

/// What the client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// The first frame of a connection: whose files it is about.
    Hello { version: u32, root: Root },
    /// What do the walls hold? Asked from inside a confined child; `loopback_port` is one that something listens on.
    Probe { loopback_port: u16 },
    /// A regular file's first `max_bytes`, at most [`MAX_FILE`].
    Read { path: String, max_bytes: u64 },
    /// The body becomes the file, at once or not at all. With `expect_sha256` (lower-case hexadecimal) only if that is the
    /// digest of what is there now.
    Write { path: String, expect_sha256: Option<String> },
    /// The body is added to the file's end.
    Append { path: String },
    /// What is in a directory.
    List { path: String },
    /// The body is a command for `bash -c`.
    Bash { timeout_ms: u64 },
    /// The running command is to be ended.
    Cancel,
}

/// What the launcher answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// To `Hello`.
    Ready,
    /// To `Probe`.
    Walls { walls: Walls },
    /// To `Read`; the body is the content, the rest of the file is not sent.
    Content { size: u64 },
    /// To `Write` and `Append`.
    Done,
    /// To `List`; the body is a JSON array of [`Entry`].
    Entries,
    /// A piece of what a command prints; the body.
    Output,
    /// The last answer to `Bash`: nothing of the command runs any more.
    Exit { exit: Exit },
    /// The request was not done.
    Failed { failure: Failure },
}

/// Why a request was not done, in a sentence for the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", content = "message", rename_all = "snake_case")]
pub enum Failure {
    /// There is no such file or directory.
    #[error("{0}")]
    NotFound(String),
    /// It is out of bounds.
    #[error("{0}")]
    Denied(String),
    /// The file is not what the caller expected, or is being written by somebody else.
    #[error("{0}")]
    Conflict(String),
    /// A limit on size.
    #[error("{0}")]
    TooLarge(String),
    /// The disk or the quota is full.
    #[error("{0}")]
    NoSpace(String),
    /// The request makes no sense, such as a directory where a file is meant.
    #[error("{0}")]
    Invalid(String),
    /// The launcher or the system failed.
    #[error("{0}")]
    Broken(String),
}

/// A file's content, or its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    /// The whole file's size in bytes.
    pub size: u64,
    /// There is more than `bytes`.
    pub truncated: bool,
}

impl FileContent {
    /// What `write` expects, to change a file only if nobody else did. `None` when the content was cut.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        (!self.truncated).then(|| Sha256::digest(&self.bytes).into())
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; bytes that are no UTF-8 are replaced, and characters that nobody sees told as escapes (`\\n`).
    pub name: String,
    pub kind: EntryKind,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
}

/// What an entry is; a symbolic link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub ending: Ending,
    /// Bytes of output passed on.
    pub output_bytes: u64,
    /// Bytes of output dropped after [`MAX_OUTPUT`].
    pub dropped_bytes: u64,
    /// How long it took, in milliseconds, the killing included.
    pub elapsed_ms: u64,
}

/// Why a command came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The shell ended by itself with this status.
    Code(i32),
    /// The shell was killed by this signal.
    Signal(i32),
    TimedOut,
    Cancelled,
    /// The disk came near its end.
    DiskFull,
    /// The visitor's directory outgrew its quota.
    QuotaFull,
    /// The kernel killed for want of memory.
    OutOfMemory,
}

/// What is really enforced, found out by trying from inside a confined child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// Whom tools run as: the number of the user.
    pub user: u32,
    /// Tools run as another user than the agent.
    pub other_user: bool,
    /// The owner's tools and the visitors' run as different users; only known of both together ([`Walls::and`]).
    pub visitors_apart: bool,
    /// The kernel's Landlock ABI, 0 without Landlock.
    pub landlock_abi: u32,
    /// A file of the tools' user outside of the root could not be opened.
    pub files_closed: bool,
    /// Only calls on the allowed side of the filter go through.
    pub seccomp: bool,
    pub no_new_privs: bool,
    /// Every command has a cgroup of its own and is ended with it.
    pub cgroup: bool,
    /// That cgroup limits memory and processes.
    pub cgroup_limits: bool,
    /// The agent's own port could not be reached from inside.
    pub loopback_closed: bool,
}

impl Walls {
    /// What is not enforced, in words for a log and `/version`; empty when all is.
    pub fn missing(&self) -> Vec<&'static str> {
        let walls = [
            (self.other_user, "tools run as the agent's own user"),
            (self.visitors_apart, "the owner's tools and the visitors' run as the same user"),
            (self.landlock_abi > 0 && self.files_closed, "Landlock does not keep files closed"),
            (self.seccomp, "no seccomp filter"),
            (self.no_new_privs, "no_new_privs is not set"),
            (self.cgroup, "commands have no cgroup of their own"),
            (self.loopback_closed, "this machine's own ports can be reached"),
        ];
        walls.into_iter().filter(|(holds, _)| !holds).map(|(_, words)| words).collect()
    }

    /// What holds for the owner, `self`, and for visitors as well.
    pub fn and(&self, visitors: &Self) -> Self {
        Self {
            user: self.user,
            other_user: self.other_user && visitors.other_user,
            visitors_apart: self.user != visitors.user,
            landlock_abi: self.landlock_abi.min(visitors.landlock_abi),
            files_closed: self.files_closed && visitors.files_closed,
            seccomp: self.seccomp && visitors.seccomp,
            no_new_privs: self.no_new_privs && visitors.no_new_privs,
            cgroup: self.cgroup && visitors.cgroup,
            cgroup_limits: self.cgroup_limits && visitors.cgroup_limits,
            loopback_closed: self.loopback_closed && visitors.loopback_closed,
        }
    }

    /// All of it is enforced. Limits of memory and processes may also be the unit's, so they are not asked for.
    pub fn complete(&self) -> bool {
        self.missing().is_empty()
    }
}

/// A received frame, its head still as bytes.
#[derive(Debug)]
pub struct Frame {
    head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Frame {
    #[cfg(feature = "client")]
    pub(crate) fn new(head: Vec<u8>, body: Vec<u8>) -> Self {
        Self { head, body }
    }

    /// What the head says.
    pub fn head<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.head).map_err(io::Error::from)
    }
}

/// The lengths of head and body that a frame's first eight bytes tell.
pub(crate) fn lengths(prefix: [u8; PREFIX]) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = prefix;
    let head = u32::from_be_bytes([a, b, c, d]) as usize;
    let body = u32::from_be_bytes([e, f, g, h]) as usize;
    if head > MAX_HEAD || body > MAX_BODY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than allowed"));
    }
    Ok((head, body))
}

/// Everything of a frame but its body, which has to follow.
pub(crate) fn start<T: Serialize>(head: &T, body: usize) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    if head.len() > MAX_HEAD || body > MAX_BODY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame would be longer than allowed"));
    }
    let mut bytes = Vec::with_capacity(PREFIX + head.len());
    bytes.extend((head.len() as u32).to_be_bytes());
    bytes.extend((body as u32).to_be_bytes());
    bytes.extend(head);
    Ok(bytes)
}

/// Reads one frame; `None` when the other side has ended before one.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut prefix = [0; PREFIX];
    let mut filled = 0;
    while filled < PREFIX {
        match from.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let (head, body) = lengths(prefix)?;
    Ok(Some(Frame { head: exactly(from, head)?, body: exactly(from, body)? }))
}

/// Grows with what arrives, so that a length alone takes no memory.
fn exactly(from: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

/// A digest as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // silent-ok: writing to a String cannot fail
        let _ = write!(text, "{byte:02x}");
        text
    })
}
