//! From a bare Debian to a healthy agent over HTTPS, over one SSH session. Everything can be done again: what is there already
//! is left alone.

pub mod authority;

use std::path::Path;
use std::sync::Arc;

use baal_protocol::AgentConfig;

use crate::config::Config;
use crate::ssh::{Session, SshError};

/// Why a machine could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The way to the machine, or a command there.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The new program or configuration is not healthy; the machine went back to what it had, which is.
    #[error("the agent did not become healthy and the one before it runs again: {0}")]
    Restored(String),
    /// No authority gave a certificate.
    #[error("no certificate could be had for {name}: {cause}")]
    Certificate {
        /// The public name.
        name: String,
        /// What the web server's log says.
        cause: String,
    },
    /// Our own files.
    #[error("{0}")]
    Own(String),
}

/// What is put on machines, read once: the agent's program and its hash, units, scripts, and how certificates are made.
#[derive(Clone)]
pub struct Kit(Arc<()>);

impl Kit {
    /// Finds the agent's program (BAAL_AGENT_BINARY, or `baal-agent` beside this program) and reads the authority's files.
    pub fn load(_config: &Config) -> Result<Self, InstallError> {
        todo!()
    }

    /// SHA-256 of the agent's program, in hexadecimal.
    pub fn program_sha256(&self) -> &str {
        todo!()
    }

    /// Waits until the machine's first boot is over, where cloud-init runs it.
    pub async fn wait_for_first_boot(&self, _session: &mut Session) -> Result<(), InstallError> {
        todo!()
    }

    /// Everything that an agent needs but its configuration: users, units, program, web server with the certificate for
    /// `name` (a host name or address, perhaps with a port that does not matter here).
    pub async fn prepare(&self, _session: &mut Session, _name: &str) -> Result<(), InstallError> {
        todo!()
    }

    /// Program and configuration; the agent is started and healthy on the machine when this returns.
    pub async fn install(&self, _session: &mut Session, _config: &AgentConfig) -> Result<(), InstallError> {
        todo!()
    }

    /// Removes agent, configuration, data and certificates: for machines that are used again.
    pub async fn wipe(&self, _session: &mut Session) -> Result<(), InstallError> {
        todo!()
    }
}

/// Where the agent's files are on a machine, whatever is wanted of the agent: ports, paths and sockets of its configuration.
pub fn on_machine(_config: AgentConfig) -> AgentConfig {
    todo!()
}

/// The agent's program: BAAL_AGENT_BINARY, or `baal-agent` beside this program.
pub fn program(_config: &Config) -> Result<std::path::PathBuf, InstallError> {
    let _ = Path::new("");
    todo!()
}
