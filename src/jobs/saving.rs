//! What becomes of a job after a step: each outcome is one transaction that says where the job stands, what changed with it,
//! what its owner sees, and what was tried.
//!
//! A kill before such a commit leaves the job at the step that it was at, and what the step had made is found there by
//! whoever does it again; a kill after it leaves the job at the next. Locks: agent, machine, job, installation.

use anyhow::anyhow;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tracing::{info, warn};

use super::card::{self, Progress, Scene};
use super::error::JobError;
use super::history::{self, Try};
use super::line;
use super::model::{Kind, Outcome, State, Step};
use super::operators;
use super::steps::{Done, Effect};
use super::store::{self, Job};
use super::turn::Turn;
use super::verdict::{Failure, Grade, Verdict, judge};
use crate::agents::{self, Agent, Status};
use crate::cloud::aleph::{AlephError, Shortage};
use crate::cloud::places;
use crate::cloud::store::{self as vms, Machine, Vm};
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

/// A failed step, in words for the owner and for the log.
struct Trouble {
    reason: String,
    grade: Grade,
    shortage: Option<Shortage>,
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
            Effect::Pinned { vm, host_key } => places::pin(&mut tx, *vm, host_key).await?,
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
        let counted = done.next == Step::Health || done.next == self.job.step;
        let failures = if counted { self.job.failures } else { 0 };
        let job = self.step_to(&mut tx, locked, done.next, done.state, failures).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        if removed {
            self.app.wake.wake(Queue::Jobs);
        }
        Ok(Some(job))
    }

    /// What follows from a step's failure.
    pub async fn failed(&self, error: JobError) -> Next {
        let trouble = match error {
            JobError::Cancelled => return self.undo(None).await,
            JobError::Failed { reason, source, grade } => {
                warn!(job.id = %self.job.claim.job_id, agent.id = self.job.agent_id, job.step = self.job.step.as_str(), job.failures = self.job.failures, error = %format!("{source:#}"), "a step failed: {reason}");
                Trouble { reason, grade, shortage: None }
            }
            JobError::Credits(shortage) => {
                let reason = AlephError::Credits(shortage.clone()).words().to_owned();
                Trouble { reason, grade: Grade::Last, shortage: Some(shortage) }
            }
            other => return Err(other),
        };
        let failures = self.job.failures.saturating_add(1);
        let vm = match self.job.state.vm.or(self.job.vm_id) {
            Some(id) => vms::get(&mut *self.app.db.acquire().await?, id).await?,
            None => None,
        };
        let failure = Failure {
            kind: self.job.kind,
            cloud: self.cloud(vm.as_ref()),
            step: self.job.step,
            failures,
            grade: trouble.grade,
            tried: self.job.state.tried,
            fresh: self.job.state.fresh,
            restoring: self.job.state.restored.is_some(),
        };
        match judge(failure, rand::random()) {
            Verdict::Again(wait) => self.postpone(&trouble, failures, wait).await,
            Verdict::Undo => self.undo(Some(trouble)).await,
            Verdict::Elsewhere => self.elsewhere(&trouble).await,
            Verdict::Restore => self.restore(&trouble).await,
            Verdict::GiveUp => self.give_up(&trouble).await,
        }
    }

    /// A job over which replicas keep dying: it may be what kills them.
    pub async fn too_deadly(&self) -> Next {
        warn!(job.id = %self.job.claim.job_id, agent.id = self.job.agent_id, job.reclaims = self.job.reclaims, "giving up a job over which replicas keep dying");
        let reason = "the servers that worked at it stopped several times".to_owned();
        let trouble = Trouble { reason, grade: Grade::Last, shortage: None };
        match self.job.kind {
            Kind::Provision if self.job.state.fresh || self.job.state.vm.is_none() => self.undo(Some(trouble)).await,
            _ => self.give_up(&trouble).await,
        }
    }

    async fn postpone(&self, trouble: &Trouble, failures: i32, wait: std::time::Duration) -> Next {
        let mut tx = self.app.db.begin().await?;
        let locked = self.lock(&mut tx).await?;
        if failures == 1 && !self.job.step.removes() {
            let mut scene = self.working(locked.vm.as_ref(), self.job.step, &self.job.state);
            if let Scene::Working { progress, .. } = &mut scene {
                progress.trouble = Some(trouble.reason.clone());
            }
            self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
        }
        self.record(&mut tx, Some(&trouble.reason)).await?;
        store::postpone(&mut tx, &self.job.claim, failures, wait, &trouble.reason).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(None)
    }

    /// Begins to undo what the job made: it failed, or is no longer wanted. A machine from the pool that nothing of the agent
    /// was written to goes back there.
    async fn undo(&self, trouble: Option<Trouble>) -> Next {
        if self.job.kind == Kind::Prepare {
            let reason = "it was cancelled".to_owned();
            let trouble = trouble.unwrap_or(Trouble { reason, grade: Grade::Last, shortage: None });
            return self.give_up(&trouble).await;
        }
        let mut tx = self.app.db.begin().await?;
        let locked = self.lock(&mut tx).await?;
        let mut state = self.job.state.clone();
        state.failed_at = trouble.as_ref().map(|_| self.job.step);
        state.failed = trouble.as_ref().map(|trouble| trouble.reason.clone());
        if let Some(vm) = &locked.vm
            && vms::release_warm(&mut tx, vm.id).await?
        {
            info!(vm.id = %vm.id, "a machine goes back to the pool unused");
            state.vm = None;
            line::hurry(&mut tx).await?;
        }
        self.show(&mut tx, locked.agent.as_ref(), &Scene::Undoing).await?;
        self.record(&mut tx, state.failed.as_deref()).await?;
        let job = self.step_to(&mut tx, locked, Step::Stop, state, 0).await?;
        if let Some(shortage) = trouble.as_ref().and_then(|trouble| trouble.shortage.as_ref()) {
            operators::tell_of_shortage(&mut tx, self.app, shortage).await?;
        }
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        info!(job.id = %self.job.claim.job_id, agent.id = self.job.agent_id, "undoing what the job made");
        Ok(Some(job))
    }

    /// Gives the machine up, for a job of its own to remove, and begins anew on another.
    async fn elsewhere(&self, trouble: &Trouble) -> Next {
        let mut tx = self.app.db.begin().await?;
        let locked = self.lock(&mut tx).await?;
        let old = &self.job.state;
        if let Some(vm) = &locked.vm {
            vms::retire(&mut tx, vm.id).await?;
            if let Machine::Aleph(instance) = &vm.machine {
                let (node, time) = (&instance.crn, self.app.config.crn_avoid);
                places::avoid(&mut tx, &node.hash, time, &trouble.reason).await?;
                warn!(vm.id = %vm.id, crn.hash = node.hash, crn.url = node.url, "a compute node is avoided for a while: {}", trouble.reason);
            }
        }
        let state = State {
            tried: old.tried + 1,
            memory_lost: old.memory_lost || (self.job.kind != Kind::Prepare && !old.fresh),
            ..State::default()
        };
        let scene = self.working(None, Step::Place, &state);
        self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
        self.record(&mut tx, Some(&trouble.reason)).await?;
        let job = self.step_to(&mut tx, locked, Step::Place, state, 0).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        self.app.wake.wake(Queue::Jobs);
        Ok(Some(job))
    }

    /// What was wanted does not work: wants again what did, as a newer version. Not if something else is wanted by now: that is
    /// tried instead.
    async fn restore(&self, trouble: &Trouble) -> Next {
        let mut tx = self.app.db.begin().await?;
        let locked = self.lock(&mut tx).await?;
        let agent = locked.agent()?.clone();
        let state = self.job.state.clone();
        self.record(&mut tx, Some(&trouble.reason)).await?;
        if state.version.is_some_and(|version| version < agent.wanted_version) {
            let job = self.step_to(&mut tx, locked, Step::Install, State { version: None, ..state }, 0).await?;
            tx.commit().await?;
            return Ok(Some(job));
        }
        let Some(version) = agents::store::restore_deployed(&mut tx, agent.id).await? else {
            tx.rollback().await?;
            return self.give_up(trouble).await;
        };
        warn!(job.id = %self.job.claim.job_id, agent.id, agent.version = version, "going back to what ran before");
        if trouble.grade == Grade::Restored {
            agents::store::set_deployed(&mut tx, agent.id, version).await?;
            let agent = agents::store::get(&mut tx, agent.id).await?;
            let scene = Scene::Restored { reason: trouble.reason.clone() };
            self.show(&mut tx, agent.as_ref(), &scene).await?;
            self.end_job(&mut tx, Outcome::Failed, Some(&trouble.reason)).await?;
            tx.commit().await?;
            self.app.wake.wake(Queue::Outbox);
            return Ok(None);
        }
        let restored = Some(trouble.reason.clone());
        let state = State { version: None, restored, failed_at: Some(self.job.step), ..state };
        let scene = self.working(locked.vm.as_ref(), Step::Install, &state);
        self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
        let job = self.step_to(&mut tx, locked, Step::Install, state, 0).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(Some(job))
    }

    /// Ends the job and leaves what there is; only a machine that has nothing of an agent goes.
    async fn give_up(&self, trouble: &Trouble) -> Next {
        let mut tx = self.app.db.begin().await?;
        let locked = self.lock(&mut tx).await?;
        let state = &self.job.state;
        if locked.job.cancel_requested && self.job.kind != Kind::Prepare {
            tx.rollback().await?;
            return Ok(Some(locked.job));
        }
        self.record(&mut tx, Some(&trouble.reason)).await?;
        let mut running = false;
        if let Some(agent) = &locked.agent {
            if self.job.kind == Kind::Redeploy && state.restored.is_none() {
                // Nothing was changed. What is wanted is what runs, so that nobody takes the agent for another.
                if let Some(version) = agents::store::restore_deployed(&mut tx, agent.id).await? {
                    agents::store::set_deployed(&mut tx, agent.id, version).await?;
                    running = agent.status == Status::Running;
                }
            }
            if !running {
                agents::store::set_status(&mut tx, agent.id, Status::Failed).await?;
            }
        }
        if let Some(vm) = locked.vm.as_ref().filter(|_| self.job.kind == Kind::Prepare || state.fresh)
            && !vms::release_warm(&mut tx, vm.id).await?
        {
            vms::retire(&mut tx, vm.id).await?;
        }
        let (kind, step) = (self.job.kind, self.job.step);
        let scene = Scene::GivenUp { kind, step, reason: trouble.reason.clone(), running };
        let agent = match self.job.agent_id {
            Some(id) => agents::store::get(&mut tx, id).await?,
            None => None,
        };
        self.show(&mut tx, agent.as_ref(), &scene).await?;
        self.end_job(&mut tx, Outcome::Failed, Some(&trouble.reason)).await?;
        if let Some(shortage) = &trouble.shortage {
            operators::tell_of_shortage(&mut tx, self.app, shortage).await?;
        }
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        self.app.wake.wake(Queue::Jobs);
        warn!(job.id = %self.job.claim.job_id, job.kind = kind.as_str(), agent.id = self.job.agent_id, "the job failed: {}", trouble.reason);
        Ok(None)
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
