//! The look at a machine before it becomes a host: nothing is changed there.

use tracing::debug;

use super::inspect::{fingerprint, is_expected, judge, question};
use crate::config::Config;
use crate::ssh::{self, Address, Key, Session, SshError};

/// What a machine showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its host key in OpenSSH's form.
    pub host_key: String,
    /// The same as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// Its system's name and version.
    pub system: String,
}

/// Why a machine cannot be a host.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Our own key.
    #[error("our SSH key cannot be used ({0}); ALEPH_SSH_PRIVKEY_PATH names it, and `ssh-keygen -t ed25519` makes one")]
    NoKey(String),
    /// It does not answer, or the connection broke.
    #[error(transparent)]
    Ssh(SshError),
    /// Its host key cannot be read.
    #[error("{0} shows a host key that cannot be read")]
    Unreadable(Address),
    /// Not the host key that it was to show.
    #[error("{address} shows the host key {shown}, not the expected one; it was not added")]
    Unexpected {
        /// Where.
        address: Address,
        /// The fingerprint of what it shows.
        shown: String,
    },
    /// It does not let us in.
    #[error(
        "{address} does not accept our SSH key for root. Append this line to /root/.ssh/authorized_keys there:\n{public}"
    )]
    Refused {
        /// Where.
        address: Address,
        /// Our public key.
        public: String,
    },
    /// It lacks something.
    #[error("{address} cannot hold agents:\n- {}", wrong.join("\n- "))]
    Unfit {
        /// Where.
        address: Address,
        /// All that is wrong, each with what to do.
        wrong: Vec<String>,
    },
}

/// Looks at the machine, without changing anything there. `expected` is the host key that it must show: in OpenSSH's form, or
/// its fingerprint.
pub async fn look(config: &Config, address: &Address, expected: Option<&str>) -> Result<Found, LookError> {
    let key = Key::load(&config.ssh_private_key).map_err(|error| LookError::NoKey(error.to_string()))?;
    let host_key = ssh::host_key(address).await.map_err(LookError::Ssh)?;
    let fingerprint = fingerprint(&host_key).ok_or_else(|| LookError::Unreadable(address.clone()))?;
    if expected.is_some_and(|expected| !is_expected(&host_key, expected)) {
        return Err(LookError::Unexpected { address: address.clone(), shown: fingerprint });
    }
    let mut session = Session::connect(&key, address, &host_key).await.map_err(|error| match error {
        SshError::Refused { address } => LookError::Refused { address, public: key.public() },
        other => LookError::Ssh(other),
    })?;
    let answer = session.run(&question()).await;
    session.close().await;
    let answer = answer.map_err(LookError::Ssh)?;
    debug!(host = %address, stderr = answer.stderr, "the machine was looked at");
    let system = judge(&answer.stdout).map_err(|wrong| LookError::Unfit { address: address.clone(), wrong })?;
    Ok(Found { host_key, fingerprint, system })
}
