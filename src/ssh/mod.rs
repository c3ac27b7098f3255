//! Machines over SSH: the host key is read before authenticating and pinned, every command has a deadline on both sides, and
//! what users wrote travels on standard input, never inside a command.

mod client;
mod command;
mod key;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use client::{Session, host_key};
pub use command::{Command, Output};
pub use key::Key;

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
    #[error("`{what}` took longer than {} s", limit.as_secs_f32())]
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
        /// Its exit status; 128 + n where signal n ended the script, 255 where one ended everything.
        status: u32,
        /// The end of what it complained of.
        stderr: String,
    },
}
