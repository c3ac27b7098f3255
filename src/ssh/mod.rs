//! Machines over SSH: the host key is read before authenticating and pinned, every command has a deadline on both sides, and
//! what users wrote travels on standard input, never inside a command.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a machine's SSH server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// IP address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why something could not be done over SSH. No text holds what was sent.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// Our own key.
    #[error("the SSH key cannot be used: {0}")]
    Key(String),
    /// Nobody answers, or not as an SSH server.
    #[error("{address} does not answer over SSH: {cause}")]
    Unreachable {
        /// Where.
        address: Address,
        /// Why.
        cause: String,
    },
    /// It is not the machine that it was.
    #[error(
        "the machine at {address} shows another host key than before; somebody may be in between, or it was replaced"
    )]
    HostKeyChanged {
        /// Where.
        address: Address,
    },
    /// Our key is not accepted.
    #[error("the machine at {address} does not accept our SSH key")]
    Refused {
        /// Where.
        address: Address,
    },
    /// The connection ended in the middle.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It took too long. The command is ended on the machine too.
    #[error("`{what}` took longer than {} s", limit.as_secs())]
    TimedOut {
        /// Which command, in words.
        what: &'static str,
        /// Its deadline.
        limit: Duration,
    },
    /// The command ran and failed.
    #[error("`{what}` failed with status {status}: {stderr}")]
    Failed {
        /// Which command, in words.
        what: &'static str,
        /// Its exit status; 255 where a signal ended it.
        status: u32,
        /// The end of what it complained of.
        stderr: String,
    },
}

/// The private key with which machines are reached; `Debug` shows the public half.
#[derive(Clone)]
pub struct Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads an OpenSSH key file (ed25519, RSA) without a passphrase.
    pub fn load(_path: &Path) -> Result<Self, SshError> {
        todo!()
    }

    /// The public half, in OpenSSH's form without a comment.
    pub fn public(&self) -> String {
        todo!()
    }
}

/// The host key that a machine shows, in OpenSSH's form; we do not authenticate.
pub async fn host_key(_address: &Address) -> Result<String, SshError> {
    todo!()
}

/// A command: a fixed text (no user's words), what goes to its standard input, and how long it may take.
#[derive(Clone)]
pub struct Command {
    /// What it is, in words, for errors and logs.
    pub what: &'static str,
    /// Shell text, run by `bash` as root on the machine.
    pub script: String,
    /// Its standard input.
    pub input: Vec<u8>,
    /// Its deadline, kept on both sides.
    pub limit: Duration,
}

/// What a command printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output, at most 1 MiB of it.
    pub stdout: String,
    /// Standard error, at most 64 KiB from its end.
    pub stderr: String,
}

/// An authenticated connection as root.
pub struct Session {}

impl Session {
    /// Connects to a machine that must show `host_key`.
    pub async fn connect(_key: &Key, _address: &Address, _host_key: &str) -> Result<Self, SshError> {
        todo!()
    }

    /// Runs a command to its end. After a time-out or a broken connection the session is of no more use.
    pub async fn run(&mut self, _command: &Command) -> Result<Output, SshError> {
        todo!()
    }

    /// Bytes sent and received so far, without SSH's own overhead.
    pub fn traffic(&self) -> (u64, u64) {
        todo!()
    }

    /// Says goodbye.
    pub async fn close(self) {
        todo!()
    }
}
