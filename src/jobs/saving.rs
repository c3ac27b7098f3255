//! What becomes of a job after a step: each outcome is one transaction that says where the job stands, what changed with it,
//! what its owner sees, and what was tried.
//!
//! A kill before such a commit leaves the job at the step that it was at, and what the step had made is found there by
//! whoever does it again; a kill after it leaves the job at the next. Locks: agent, machine, job, installation.

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::card::{self, Progress, Scene};
use super::error::JobError;
use super::history::{self, Try};
use super::line;
use super::model::{Outcome, State, Step};
use super::steps::{Done, Effect};
use super::store::{self, Job};
use super::turn::Turn;
use crate::agents::{self, Agent};
use crate::cloud::places;
use crate::cloud::store::{self as vms, Vm};
use crate::config::CloudKind;
use crate::telegram::outbox;
use crate::wake::Queue;

/// What follows from a job's step: the job as it stands then, or nothing if it is no longer ours.
pub type Next = Result<Option<Job>, JobError>;

/// The rows that a job is about, locked until the transaction ends.
pub struct Locked {
    /// Its agent, if it has one.
    pub agent: Option<Agent>,
    /// Its machine, if that has not ended.
    pub vm: Option<Vm>,
    /// The job as it stands.
    pub job: Job,
    /// The time.
    pub now: DateTime<Utc>,
}

impl Locked {
    /// The agent of a job that cannot be without one.
    pub fn agent(&self) -> Result<&Agent, JobError> {
        self.agent.as_ref().ok_or(JobError::LeaseLost)
    }
}

impl Turn<'_> {
    /// Locks what the job is about, in the order in which everybody does.
    pub async fn lock(&self, conn: &mut PgConnection) -> Result<Locked, JobError> {
        let agent = match self.job.agent_id {
            Some(id) => Some(agents::store::lock(conn, id).await?.ok_or(JobError::LeaseLost)?),
            None => None,
        };
        let vm = match self.job.state.vm.or(self.job.vm_id) {
            Some(id) => vms::lock(conn, id).await?,
            None => None,
        };
        let job = store::lock(conn, &self.job.claim).await?.ok_or(JobError::LeaseLost)?;
        let now = sqlx::query_scalar("select clock_timestamp()").fetch_one(conn).await?;
        Ok(Locked { agent, vm, job, now })
    }

    /// Where the job's machine is, or would be made.
    pub fn cloud(&self, vm: Option<&Vm>) -> CloudKind {
        vm.map_or(self.app.config.cloud, |vm| vm.machine.cloud())
    }

    /// Puts the card into the job's message, if it has one.
    pub async fn show(&self, conn: &mut PgConnection, agent: Option<&Agent>, scene: &Scene) -> sqlx::Result<()> {
        let (Some(message), Some(agent)) = (self.job.progress, agent) else { return Ok(()) };
        outbox::enqueue_progress(conn, &card::card(agent, scene).edit(agent.bot_id, agent.chat_id, message)).await
    }

    pub fn working(&self, vm: Option<&Vm>, step: Step, state: &State) -> Scene {
        Scene::Working {
            kind: self.job.kind,
            cloud: self.cloud(vm),
            step,
            progress: Progress { tried: state.tried, restoring: state.restored.is_some(), ..Progress::default() },
        }
    }

    /// Shows how long the step has been waiting.
    pub async fn show_waiting(&self, minutes: u64) -> Result<(), JobError> {
        let (Some(id), Some(_)) = (self.job.agent_id, self.job.progress) else { return Ok(()) };
        let mut tx = self.app.db.begin().await?;
        let agent = agents::store::get(&mut tx, id).await?;
        let vm = match self.job.state.vm {
            Some(id) => vms::get(&mut tx, id).await?,
            None => None,
        };
        // Locked so that nobody else's newer words are overwritten.
        store::lock(&mut tx, &self.job.claim).await?.ok_or(JobError::LeaseLost)?;
        let mut scene = self.working(vm.as_ref(), self.job.step, &self.job.state);
        if let Scene::Working { progress, .. } = &mut scene {
            progress.minutes = minutes;
        }
        self.show(&mut tx, agent.as_ref(), &scene).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(())
    }

    /// Writes down that the step was tried.
    pub async fn record(&self, conn: &mut PgConnection, error: Option<&str>) -> sqlx::Result<()> {
        let tried = Try {
            job_id: self.job.claim.job_id,
            step: self.job.step.as_str(),
            vm: self.job.state.vm.or(self.job.vm_id),
            took: self.began.elapsed(),
            error,
        };
        history::record(conn, &tried).await
    }

    /// The job's next step, saved; the caller commits.
    pub async fn step_to(
        &self,
        conn: &mut PgConnection,
        locked: Locked,
        next: Step,
        mut state: State,
        failures: i32,
    ) -> Result<Job, JobError> {
        if next != self.job.step || state.since.is_none() {
            state.since = Some(locked.now);
        }
        if next != self.job.step {
            (state.asked, state.rebooted) = (None, false);
        }
        store::save(conn, &self.job.claim, next, &state, failures).await?.ok_or(JobError::LeaseLost)?;
        Ok(Job { step: next, state, failures, ..locked.job })
    }

    /// Saves a step's end with its effect.
    pub async fn save(&self, done: Done) -> Next {
        let mut tx = self.app.db.begin().await?;
        let locked = self.lock(&mut tx).await?;
        let mut removed = false;
        match &done.effect {
            Effect::Nothing => {}
            Effect::Moved(vm) => vms::set_port(&mut tx, vm).await?,
            Effect::Pinned { vm, host_key } => {
                if !places::pin(&mut tx, *vm, host_key).await? {
                    tx.rollback().await?;
                    let source = anyhow!("another machine of ours shows the host key {host_key}");
                    return Err(JobError::machine(
                        "its node named the address of another machine as its own, so nothing was sent to it",
                        source,
                    ));
                }
            }
            Effect::Touched(vm) => vms::set_touched(&mut tx, *vm).await?,
            Effect::Gone(ids) => {
                vms::end(&mut tx, ids).await?;
                line::hurry(&mut tx).await?;
                removed = true;
            }
        }
        if !done.next.removes() && (done.next != self.job.step || self.job.state.since.is_none()) {
            let scene = self.working(locked.vm.as_ref(), done.next, &done.state);
            self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
        }
        self.record(&mut tx, None).await?;
        // Failures are counted until the agent answers: it may start well and die before that, again and again.
        // So are those for which its machine was waited for again.
        let counted = done.next == Step::Health || done.next == self.job.step || self.job.step == Step::Reach;
        let failures = if counted { self.job.failures } else { 0 };
        let job = self.step_to(&mut tx, locked, done.next, done.state, failures).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        if removed {
            self.app.wake.wake(Queue::Jobs);
        }
        Ok(Some(job))
    }

    /// A step that succeeded but for what the rows say: the job's machine is unknown.
    pub fn lost_machine() -> JobError {
        JobError::fail("it is no longer known where it was put", anyhow!("the row of its machine is missing"))
    }

    /// Ends the job; the caller commits.
    pub async fn end_job(
        &self,
        conn: &mut PgConnection,
        outcome: Outcome,
        error: Option<&str>,
    ) -> Result<(), JobError> {
        store::end(conn, &self.job.claim, outcome, error).await?.ok_or(JobError::LeaseLost)
    }
}
