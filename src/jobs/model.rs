//! What a job is: its kind, its steps, and what it has to remember between them. Nothing here touches the world.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a job is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Kind {
    /// The agent runs as its row says.
    Provision,
    /// Nothing of the agent is left but its row.
    Deprovision,
}

impl Kind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Deprovision => "deprovision",
        }
    }

    /// Where a job of this kind begins.
    pub fn first_step(self) -> Step {
        match self {
            Self::Provision => Step::Place,
            Self::Deprovision => Step::Stop,
        }
    }
}

/// What a job is about to do. Each step looks before it acts, so that it can be done twice.
///
/// A provision goes from `Place` to `Finish`. A deprovision goes from `Stop` to `End`; so does a provision that was
/// cancelled or has failed, and thereby undoes what it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Step {
    /// Choose where the agent will run, and write that down before anything is there.
    Place,
    /// Write the agent's files.
    Install,
    /// Start its program.
    Start,
    /// Wait until it answers.
    Health,
    /// Open it to its users.
    Finish,
    /// Stop its program.
    Stop,
    /// Remove its files.
    Remove,
    /// Write down that it is gone.
    End,
}

impl Step {
    /// The steps that a provision shows.
    pub const PROVISION: [Self; 5] = [Self::Place, Self::Install, Self::Start, Self::Health, Self::Finish];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Install => "install",
            Self::Start => "start",
            Self::Health => "health",
            Self::Finish => "finish",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::End => "end",
        }
    }

    /// What follows when this step has succeeded; none after the last.
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Place => Some(Self::Install),
            Self::Install => Some(Self::Start),
            Self::Start => Some(Self::Health),
            Self::Health => Some(Self::Finish),
            Self::Stop => Some(Self::Remove),
            Self::Remove => Some(Self::End),
            Self::Finish | Self::End => None,
        }
    }

    /// Whether the step takes away rather than makes. These are never given up and cannot be cancelled: what was made
    /// must certainly go.
    pub fn removes(self) -> bool {
        matches!(self, Self::Stop | Self::Remove | Self::End)
    }
}

/// What a job has found so far, kept in its row. Never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where the agent is being put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Uuid>,
    /// The `wanted_version` that was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// The protocol that the agent said it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<i32>,
    /// Why a provision undoes what it made, in words for the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was wanted is so.
    Succeeded,
    /// It could not be brought about, and what was made is undone.
    Failed,
    /// It was no longer wanted, and what was made is undone.
    Cancelled,
}

impl Outcome {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Tries of one step of a provision before it fails.
pub const MAX_FAILURES: i32 = 6;
/// Replicas that may die over a provision before it fails: it may be what kills them.
pub const MAX_RECLAIMS: i32 = 5;

/// What to do about a step that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try the step again after this wait.
    Again(Duration),
    /// Undo what was made.
    Undo,
}

/// Judges the `failures`th failure in a row of a step. `final_` says that trying again is known to be of no use; `jitter`
/// is random in 0..1 and keeps jobs that failed together from coming back together.
pub fn judge(step: Step, failures: i32, final_: bool, jitter: f64) -> Verdict {
    if !step.removes() && (final_ || failures >= MAX_FAILURES) {
        return Verdict::Undo;
    }
    let doublings = failures.clamp(1, 9) - 1;
    let seconds = f64::from(1 << doublings).min(300.0);
    Verdict::Again(Duration::from_secs_f64(seconds * (0.75 + jitter / 2.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: Kind) -> Vec<&'static str> {
        std::iter::successors(Some(kind.first_step()), |step| step.next()).map(Step::as_str).collect()
    }

    #[test]
    fn each_kind_goes_its_way_to_the_end() {
        assert_eq!(path(Kind::Provision), ["place", "install", "start", "health", "finish"]);
        assert_eq!(path(Kind::Deprovision), ["stop", "remove", "end"]);
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<_> = (1..=11).map(|n| judge(Step::Stop, n, false, 0.5)).collect();
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256].map(|s| Verdict::Again(Duration::from_secs(s)));
        assert_eq!(waits, expected);
    }

    #[test]
    fn a_provision_gives_up_and_a_removal_never_does() {
        assert!(matches!(judge(Step::Health, MAX_FAILURES - 1, false, 0.0), Verdict::Again(_)));
        assert_eq!(judge(Step::Health, MAX_FAILURES, false, 0.0), Verdict::Undo);
        assert_eq!(judge(Step::Install, 1, true, 0.0), Verdict::Undo);
        assert!(matches!(judge(Step::Remove, 1_000, true, 1.0), Verdict::Again(_)));
    }

    #[test]
    fn a_state_of_an_older_version_is_read() {
        assert_eq!(serde_json::from_str::<State>("{}").expect("parses"), State::default());
    }
}
