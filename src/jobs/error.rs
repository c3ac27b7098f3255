//! How a step can fail to get on.

use crate::cloud::local::LocalError;
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
        /// Whether trying again is known to be of no use.
        last: bool,
    },
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
    /// A failure that may pass.
    pub fn retry(reason: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::Failed { reason: reason.into(), source: source.into(), last: false }
    }

    /// A failure that will not pass.
    pub fn fail(reason: impl Into<String>, source: impl Into<anyhow::Error>) -> Self {
        Self::Failed { reason: reason.into(), source: source.into(), last: true }
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
