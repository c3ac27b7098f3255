//! What becomes of a job after a step: each outcome is one transaction that says where the job stands, what changed with it,
//! what its owner sees, and what was tried.
//!
//! A kill before such a commit leaves the job at the step that it was at, and what the step had made is found there by
//! whoever does it again; a kill after it leaves the job at the next. Locks: agent, machine, job, installation.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::time::sleep;
use tracing::{Span, warn};

use super::card::{self, Progress, Scene};
use super::details;
use super::error::JobError;
use super::expected;
use super::history::{self, Try};
use super::line;
use super::model::{Outcome, State, Step, way};
use super::steps::{Done, Effect};
use super::store::{self, Job};
use super::turn::Turn;
use crate::agents::{self, Agent};
use crate::cloud::places;
use crate::cloud::store::{self as vms, Vm};
use crate::config::CloudKind;
use crate::database;
use crate::telegram::outbox;
use crate::telegram::texts::PAUSED_BY_LOGOUT;
use crate::trace;
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
        let mut scene = scene.clone();
        if let Scene::Working { kind, cloud, step, progress } = &mut scene {
            let way = way(*kind, *cloud);
            progress.clock = expected::clock(conn, self.job.claim.job_id, (*kind, *cloud), way, *step).await?;
        }
        let details = match scene.failed_at().filter(|_| self.app.config.is_operator(agent.owner_id)) {
            Some(step) => Some(details::of(conn, self.job.claim.job_id, step).await?),
            None => None,
        };
        let card = card::card(agent, &scene, details.as_ref());
        outbox::enqueue_progress(conn, &card.edit(agent.bot_id, agent.chat_id, message)).await
    }

    pub fn working(&self, vm: Option<&Vm>, step: Step, state: &State) -> Scene {
        Scene::Working {
            kind: self.job.kind,
            cloud: self.cloud(vm),
            step,
            progress: Progress { tried: state.tried, restoring: state.restored.is_some(), ..Progress::default() },
        }
    }

    /// Shows every now and then how long it has taken and may still take. To be polled beside the step, and dropped with it.
    pub async fn keep_showing(&self) -> Infallible {
        if self.job.progress.is_none() || self.job.agent_id.is_none() || self.job.step.removes() {
            std::future::pending::<()>().await;
        }
        loop {
            sleep(match self.began.elapsed().as_secs() {
                0..60 => Duration::from_secs(5),
                60..600 => Duration::from_secs(15),
                _ => Duration::from_secs(60),
            })
            .await;
            // What is shown is worth no failure.
            if let Err(error) = self.show_again().await {
                warn!(job.id = %self.job.claim.job_id, %error, "how far a job is cannot be shown");
            }
        }
    }

    async fn show_again(&self) -> Result<(), JobError> {
        let Some(id) = self.job.agent_id else { return Ok(()) };
        let mut tx = database::begin(&self.app.db).await?;
        let agent = agents::store::get(&mut tx, id).await?;
        let vm = match self.job.state.vm {
            Some(id) => vms::get(&mut tx, id).await?,
            None => None,
        };
        // Locked so that nobody's newer words are overwritten, and looked at again, for they may be there already.
        let job = store::lock(&mut tx, &self.job.claim).await?;
        if !job.is_some_and(|job| job.step == self.job.step) {
            return Ok(());
        }
        let scene = self.working(vm.as_ref(), self.job.step, &self.job.state);
        self.show(&mut tx, agent.as_ref(), &scene).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(())
    }

    /// Writes down that the step was tried.
    pub async fn record(&self, conn: &mut PgConnection, error: Option<&str>) -> sqlx::Result<()> {
        if error.is_some() {
            trace::failed(&Span::current(), "step");
        }
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
        let mut tx = database::begin(&self.app.db).await?;
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
            Effect::Touched(vm) => {
                vms::set_touched(&mut tx, *vm).await?;
                if let (Some(agent), Some(key)) = (&locked.agent, done.state.key)
                    && !agents::keys::about_to_reach(&mut tx, agent.id, key).await?
                {
                    // Another key is wanted since the step began: it begins anew.
                    tx.rollback().await?;
                    return Ok(Some(locked.job));
                }
            }
            Effect::Gone(ids) => {
                vms::end(&mut tx, ids).await?;
                if let Some(agent) = self.job.agent_id {
                    agents::keys::gone_with_machine(&mut tx, agent).await?;
                }
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
        if let Some(agent) = self.job.agent_id {
            // From here on nobody is on the way to take away a key that may still be there.
            agents::keys::pause(conn, &[agent], PAUSED_BY_LOGOUT).await?;
        }
        store::end(conn, &self.job.claim, outcome, error).await?.ok_or(JobError::LeaseLost)
    }
}
