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

    /// The same where nothing can have been changed yet, for the machine was not reached.
    pub fn before_reaching(self) -> Self {
        match self {
            Self::Failed { reason, source, grade: Grade::Passing } => {
                Self::Failed { reason, source, grade: Grade::Away }
            }
            other => other,
        }
    }

    /// A machine of a cloud that this process has no access to. Whatever removes it tries on, the rest fails.
    pub fn not_ours(cloud: CloudKind) -> Self {
        let cloud = cloud.as_str();
        Self::fail(
            "the operator switched CLOUD, and its machine belongs to the cloud of before",
            anyhow!("the machine belongs to CLOUD={cloud}; set it back until its machines are gone"),
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
            SshError::Broken(_) => (Grade::Passing, "the connection to its machine broke"),
            SshError::TimedOut { .. } => (Grade::Passing, "its machine took too long"),
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
            InstallError::Foreign => {
                let reason = "another machine answers in its place, so nothing was changed there; the operators of this service have to look";
                Self::failed(Grade::Foreign, reason, error)
            }
            InstallError::Restored(_) => Self::failed(Grade::Restored, "the new version did not become healthy", error),
            InstallError::Certificate { ref cause, .. } => {
                let grade = if is_limit(cause) { Grade::Shared } else { Grade::Passing };
                Self::failed(grade, "no certificate could be had for its address", error)
            }
            InstallError::Own(_) => Self::fail("this service is not set up rightly; its operators have to look", error),
        }
    }
}

/// Whether an authority gives no more certificates for the moment (RFC 8555, section 6.7).
fn is_limit(cause: &str) -> bool {
    let cause = cause.to_ascii_lowercase();
    ["ratelimited", "rate limit", "too many"].iter().any(|words| cause.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grade(error: JobError) -> Grade {
        match error {
            JobError::Failed { grade, .. } => grade,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_connection_that_breaks_tells_nothing_of_what_was_done_before() {
        let broken = || JobError::from(SshError::Broken("reset".into()));
        assert_eq!(grade(broken()), Grade::Passing);
        assert_eq!(grade(broken().before_reaching()), Grade::Away);
        assert_eq!(grade(JobError::fail("ours", anyhow!("ours")).before_reaching()), Grade::Last);
    }

    #[test]
    fn an_authority_that_gives_no_more_certificates_is_not_the_machines_fault() {
        let certificate =
            |cause: &str| grade(InstallError::Certificate { name: "a.example".into(), cause: cause.into() }.into());
        assert_eq!(certificate("429 urn:ietf:params:acme:error:rateLimited"), Grade::Shared);
        assert_eq!(certificate("connection refused"), Grade::Passing);
    }
}
