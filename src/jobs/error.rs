//! How a step can fail to get on.

use anyhow::anyhow;

use super::verdict::Grade;
use crate::cloud::aleph::{AlephError, Shortage};
use crate::cloud::local::LocalError;
use crate::config::CloudKind;
use crate::install::InstallError;
use crate::ssh::SshError;
use crate::vault::Undecryptable;

/// Why a step did not get done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Something in the world.
    #[error("{reason}")]
    Failed {
        /// In words for the agent's owner: part of a sentence, without a full stop.
        reason: String,
        /// For the log.
        source: anyhow::Error,
        /// What is known of it.
        grade: Grade,
    },
    /// Another machine cannot be paid for.
    #[error(transparent)]
    Credits(#[from] Shortage),
    /// The job is no longer wanted.
    #[error("the job was cancelled")]
    Cancelled,
    /// This process is shutting down.
    #[error("this replica is stopping")]
    Stopping,
    /// Another replica may work on the job by now.
    #[error("the job's claim is lost")]
    LeaseLost,
    /// Where the job stands is to be read again.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl JobError {
    /// A failure of this grade.
    pub fn failed(grade: Grade, reason: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::Failed { reason: reason.into(), source: source.into(), grade }
    }

    /// A failure that may pass.
    pub fn retry(reason: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::failed(Grade::Passing, reason, source)
    }

    /// A failure that will not pass.
    pub fn fail(reason: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::failed(Grade::Last, reason, source)
    }

    /// A failure of the machine.
    pub fn machine(reason: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::failed(Grade::Machine, reason, source)
    }

    /// A machine of a cloud that this process has no access to. Whatever removes it tries on, the rest fails.
    pub fn not_ours(cloud: CloudKind) -> Self {
        let cloud = cloud.as_str();
        Self::fail(
            "the operator switched CLOUD, and its machine belongs to the cloud of before",
            anyhow!(
                "the machine belongs to CLOUD={cloud}; start a worker with that setting until its machines are gone"
            ),
        )
    }
}

impl From<LocalError> for JobError {
    fn from(error: LocalError) -> Self {
        let reason = match &error {
            LocalError::Io { .. } => "the server could not write or read its files (its disk may be full)",
            LocalError::ProgramMissing(_) => return Self::fail("the agent's program is missing on the server", error),
            LocalError::Elsewhere(_) => "the place where its files were put cannot be reached from this server",
            LocalError::Gone(_) => "its files have disappeared from the server",
            LocalError::Busy(_) => "its files are being worked on by somebody else",
            LocalError::PortTaken(_) => "another program took its place on the server",
            LocalError::Ended { .. } => "its program stopped right after it was started",
            LocalError::WouldNotStop(_) => "its program could not be stopped",
        };
        Self::retry(reason, error)
    }
}

impl From<Undecryptable> for JobError {
    fn from(error: Undecryptable) -> Self {
        Self::fail("its stored secret cannot be read on the server", error)
    }
}

impl From<AlephError> for JobError {
    fn from(error: AlephError) -> Self {
        let words = error.words();
        match error {
            AlephError::Credits(shortage) => Self::Credits(shortage),
            AlephError::Own(_) => Self::fail(words, error),
            _ => Self::retry(words, error),
        }
    }
}

impl From<SshError> for JobError {
    fn from(error: SshError) -> Self {
        let (grade, reason) = match &error {
            SshError::Key(_) => (Grade::Last, "this service is not set up rightly; its operators have to look"),
            SshError::Unreachable { .. } | SshError::Refused { .. } => (Grade::Away, "its machine does not let us in"),
            SshError::Broken(_) => (Grade::Away, "the connection to its machine broke"),
            SshError::TimedOut { .. } => (Grade::Away, "its machine took too long"),
            SshError::HostKeyChanged { .. } => (
                Grade::Foreign,
                "another machine answers in its place, so nothing was sent to it; the operators of this service have to look",
            ),
            SshError::Failed { .. } => (Grade::Passing, "its machine could not be set up"),
        };
        Self::failed(grade, reason, error)
    }
}

impl From<InstallError> for JobError {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Ssh(error) => error.into(),
            InstallError::Restored(_) => Self::failed(Grade::Restored, "the new version did not become healthy", error),
            InstallError::Certificate { .. } => Self::retry("no certificate could be had for its address", error),
            InstallError::Own(_) => Self::fail("this service is not set up rightly; its operators have to look", error),
        }
    }
}
