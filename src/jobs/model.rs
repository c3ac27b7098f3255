//! What a job is: its kind, its steps, the ways through them, and what it has to remember between them. Nothing here touches
//! the world.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cause::Cause;
use crate::agents::Agent;
use crate::config::CloudKind;

/// What a job is to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[schema(as = JobKind)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Kind {
    /// The agent runs as its row says.
    Provision,
    /// Nothing of the agent is left but its row.
    Deprovision,
    /// The agent, which runs, runs as its row says now; else as it did before.
    Redeploy,
    /// The Python system's agent, which runs, becomes one of ours that runs as its row says, with all that it remembers; else it
    /// runs as it did before.
    Takeover,
    /// The agent runs as its row says, on its own machine if that can be mended, else on another.
    Repair,
    /// The agent's program does not run; all else stays.
    Stop,
    /// The agent, which was stopped, runs as its row says.
    Start,
    /// A machine waits in the pool.
    Prepare,
    /// Nothing of a machine is left.
    Retire,
}

impl Kind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Deprovision => "deprovision",
            Self::Redeploy => "redeploy",
            Self::Takeover => "takeover",
            Self::Repair => "repair",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Prepare => "prepare",
            Self::Retire => "retire",
        }
    }

    /// Whether it works at what was there before it, and may hold what an agent remembers.
    pub fn mends(self) -> bool {
        !matches!(self, Self::Provision | Self::Deprovision | Self::Prepare | Self::Retire)
    }

    /// Whether it changes an agent that runs, and leaves it running as before if that cannot be done.
    pub fn changes(self) -> bool {
        matches!(self, Self::Redeploy | Self::Takeover)
    }

    /// What brings about what is wanted of this agent, which runs.
    pub fn to_change(agent: &Agent) -> Self {
        if agent.is_pythons() { Self::Takeover } else { Self::Redeploy }
    }

    /// Where a job of this kind begins.
    pub fn first_step(self) -> Step {
        match self {
            Self::Provision | Self::Repair | Self::Prepare => Step::Place,
            Self::Redeploy | Self::Start => Step::Install,
            Self::Takeover => Step::Reach,
            Self::Stop => Step::Halt,
            Self::Deprovision | Self::Retire => Step::Stop,
        }
    }
}

/// What a job is about to do. Each step looks before it acts, so that it can be done twice.
///
/// [`next`] says which follows which. Whatever is undone goes from `Stop` to `End`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Step {
    /// Choose where the agent will run, and write that down before anything is there.
    Place,
    /// Have the machine made.
    Create,
    /// Wait until the machine answers over SSH.
    Reach,
    /// Put everything on the machine that does not depend on the agent.
    Prepare,
    /// Write the agent's files.
    Install,
    /// Start its program.
    Start,
    /// Wait until it answers.
    Health,
    /// Open it to its users.
    Finish,
    /// Put the machine into the pool.
    Store,
    /// Stop its program and nothing else, so that it can be started again.
    Halt,
    /// Write down that it is stopped.
    Rest,
    /// Stop its program.
    Stop,
    /// Remove what is there.
    Remove,
    /// Write down that it is gone.
    End,
}

impl Step {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Create => "create",
            Self::Reach => "reach",
            Self::Prepare => "prepare",
            Self::Install => "install",
            Self::Start => "start",
            Self::Health => "health",
            Self::Finish => "finish",
            Self::Store => "store",
            Self::Halt => "halt",
            Self::Rest => "rest",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::End => "end",
        }
    }

    /// Whether the step takes away rather than makes. These are never given up and cannot be cancelled: what was made
    /// must certainly go.
    pub fn removes(self) -> bool {
        matches!(self, Self::Stop | Self::Remove | Self::End)
    }
}

/// The way of a job that makes something, from its first step to its last, on a machine of this cloud.
pub fn way(kind: Kind, cloud: CloudKind) -> &'static [Step] {
    use Step::{Create, End, Finish, Halt, Health, Install, Place, Prepare, Reach, Remove, Rest, Start, Stop, Store};
    match (kind, cloud) {
        (Kind::Provision | Kind::Repair, CloudKind::Aleph) => &[Place, Create, Reach, Prepare, Install, Health, Finish],
        // A host is there already.
        (Kind::Provision | Kind::Repair, CloudKind::Hosts) => &[Place, Reach, Prepare, Install, Health, Finish],
        (Kind::Provision | Kind::Repair, CloudKind::Local) => &[Place, Install, Start, Health, Finish],
        (Kind::Redeploy | Kind::Start, CloudKind::Aleph | CloudKind::Hosts) => &[Install, Health, Finish],
        // It runs, so its machine is there; on what is none of a cloud's it never ran.
        (Kind::Takeover, _) => &[Reach, Prepare, Install, Health, Finish],
        (Kind::Redeploy | Kind::Start, CloudKind::Local) => &[Install, Start, Health, Finish],
        (Kind::Prepare, CloudKind::Aleph) => &[Place, Create, Reach, Prepare, Store],
        (Kind::Prepare, CloudKind::Hosts) => &[Place, Reach, Prepare, Store],
        (Kind::Prepare, CloudKind::Local) => &[Place, Store],
        (Kind::Stop, _) => &[Halt, Rest],
        (Kind::Deprovision | Kind::Retire, _) => &[Stop, Remove, End],
    }
}

/// What follows when this step of such a job has succeeded; none after the last.
pub fn next(kind: Kind, cloud: CloudKind, step: Step) -> Option<Step> {
    match step {
        Step::Stop => Some(Step::Remove),
        Step::Remove => Some(Step::End),
        _ => {
            let way = way(kind, cloud);
            way.iter().position(|s| *s == step).and_then(|place| way.get(place + 1)).copied()
        }
    }
}

/// What a job has found so far, kept in its row. Never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The machine that it works at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<Uuid>,
    /// The `wanted_version` that was installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
    /// Which key was, or is about to be, installed with it: see `agents.deployed_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<i32>,
    /// The protocol that the agent said it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<i32>,
    /// Why it undoes what it made, in words for the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The step at which it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Step>,
    /// Of what kind of thing it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When the step began: waits count from here, whoever works at the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// When the machine was first asked for, or last confirmed to be gone; by the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<DateTime<Utc>>,
    /// Whether the machine was booted once more because it did not answer.
    #[serde(skip_serializing_if = "is_false")]
    pub rebooted: bool,
    /// Machines that were given up.
    #[serde(skip_serializing_if = "is_zero")]
    pub tried: u32,
    /// Whether the agent's memory went with a machine that was given up.
    #[serde(skip_serializing_if = "is_false")]
    pub memory_lost: bool,
    /// Whether the machine was made, or taken from the pool, by this very job: it has nothing of its agent to lose.
    #[serde(skip_serializing_if = "is_false")]
    pub fresh: bool,
    /// Why the agent goes back to what it was before, in words for the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,
    /// The version that it goes back to. Once another one is wanted, it is not going back any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restoring: Option<i32>,
    /// Whether a try of this job may have changed something on a machine that was there before. Saved before that can be.
    #[serde(skip_serializing_if = "is_false")]
    pub reached: bool,
    /// Whether its node once said that it does not have the machine, and was asked for it again: its disk may be a new one.
    #[serde(skip_serializing_if = "is_false")]
    pub absent: bool,
    /// The place in the waiting list that its owner was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Outcome {
    /// What it was to bring about is so.
    Succeeded,
    /// It is not, and what had been made is removed again, or as it was before.
    Failed,
    /// It was no longer wanted; what had been made is removed again.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: Kind, cloud: CloudKind) -> Vec<&'static str> {
        std::iter::successors(Some(kind.first_step()), |step| next(kind, cloud, *step)).map(Step::as_str).collect()
    }

    #[test]
    fn each_kind_goes_its_way_to_the_end() {
        use CloudKind::{Aleph, Hosts, Local};
        let on_aleph = ["place", "create", "reach", "prepare", "install", "health", "finish"];
        assert_eq!(path(Kind::Provision, Local), ["place", "install", "start", "health", "finish"]);
        assert_eq!(path(Kind::Provision, Aleph), on_aleph);
        assert_eq!(path(Kind::Repair, Aleph), on_aleph);
        assert_eq!(path(Kind::Provision, Hosts), ["place", "reach", "prepare", "install", "health", "finish"]);
        assert_eq!(path(Kind::Redeploy, Aleph), ["install", "health", "finish"]);
        assert_eq!(path(Kind::Takeover, Aleph), ["reach", "prepare", "install", "health", "finish"]);
        assert_eq!(path(Kind::Redeploy, Local), ["install", "start", "health", "finish"]);
        assert_eq!(path(Kind::Prepare, Aleph), ["place", "create", "reach", "prepare", "store"]);
        for cloud in [Aleph, Hosts, Local] {
            for kind in [Kind::Deprovision, Kind::Retire] {
                assert_eq!(path(kind, cloud), ["stop", "remove", "end"]);
            }
            assert_eq!(path(Kind::Stop, cloud), ["halt", "rest"]);
            assert_eq!(path(Kind::Start, cloud), path(Kind::Redeploy, cloud));
        }
    }

    #[test]
    fn ways_begin_where_their_kind_begins() {
        let changing = [Kind::Redeploy, Kind::Takeover];
        let agents = [Kind::Provision, Kind::Deprovision, Kind::Repair, Kind::Stop, Kind::Start];
        for kind in agents.into_iter().chain(changing).chain([Kind::Prepare, Kind::Retire]) {
            for cloud in [CloudKind::Aleph, CloudKind::Hosts, CloudKind::Local] {
                assert_eq!(way(kind, cloud).first(), Some(&kind.first_step()));
            }
        }
    }

    #[test]
    fn what_is_undone_goes_on_in_every_kind() {
        assert_eq!(next(Kind::Provision, CloudKind::Local, Step::Stop), Some(Step::Remove));
        assert_eq!(next(Kind::Repair, CloudKind::Aleph, Step::Remove), Some(Step::End));
    }

    #[test]
    fn a_state_of_an_older_version_is_read_and_says_no_more_than_it_knows() {
        assert_eq!(serde_json::from_str::<State>("{}").expect("parses"), State::default());
        assert_eq!(serde_json::to_string(&State::default()).expect("JSON"), "{}");
    }
}
