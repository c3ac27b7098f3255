//! What becomes of a job after a step that did not succeed, and of one that is no longer wanted. See [`saving`](super::saving).

use std::time::Duration;

use tracing::{info, warn};

use super::card::{Left, Scene};
use super::cause::Cause;
use super::error::JobError;
use super::leaving;
use super::line;
use super::model::{Kind, Outcome, State, Step};
use super::operators;
use super::saving::{Locked, Next};
use super::store;
use super::turn::Turn;
use super::verdict::{Failure, Grade, Verdict, judge};
use crate::agents::{self, Agent, Status};
use crate::cloud::aleph::{AlephError, Shortage};
use crate::cloud::places;
use crate::cloud::store::{self as vms, Machine, Vm};
use crate::database;
use crate::wake::Queue;

/// Why a job ended that an operator did not want any more, in words for the owner.
pub(super) const CANCELLED: &str = "an operator cancelled it";

/// Whether nothing of the agent is to be left.
fn is_going(agent: &Agent) -> bool {
    matches!(agent.status, Status::Deleting | Status::Deleted)
}

/// A failed step, in words for the owner and for the log.
struct Trouble {
    reason: String,
    grade: Grade,
    shortage: Option<Shortage>,
}

impl Turn<'_> {
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
            reached: self.job.state.reached,
            absent: self.job.state.absent,
        };
        match judge(failure, rand::random()) {
            Verdict::Again(wait) => self.postpone(&trouble, failures, wait).await,
            Verdict::Reach => self.reach_again(&trouble, failures).await,
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

    fn cause(&self, trouble: &Trouble, vm: Option<&Vm>) -> Cause {
        match trouble.shortage {
            Some(_) => Cause::Credits,
            None => Cause::of(self.job.step, self.cloud(vm), trouble.grade),
        }
    }

    async fn postpone(&self, trouble: &Trouble, failures: i32, wait: Duration) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
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

    /// Goes back to where its machine is waited for.
    async fn reach_again(&self, trouble: &Trouble, failures: i32) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        let scene = self.working(locked.vm.as_ref(), Step::Reach, &self.job.state);
        self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
        self.record(&mut tx, Some(&trouble.reason)).await?;
        let job = self.step_to(&mut tx, locked, Step::Reach, self.job.state.clone(), failures).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(Some(job))
    }

    /// Begins to undo what the job made: it failed, or is no longer wanted. A machine from the pool that nothing of the agent
    /// was written to goes back there.
    async fn undo(&self, trouble: Option<Trouble>) -> Next {
        match trouble {
            Some(trouble) if matches!(self.job.kind, Kind::Prepare | Kind::Stop | Kind::Start) => {
                return self.give_up(&trouble).await;
            }
            None if self.is_left_alone().await? => return self.call_off().await,
            _ => {}
        }
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        let mut state = self.job.state.clone();
        state.failed_at = trouble.as_ref().map(|_| self.job.step);
        state.failed = trouble.as_ref().map(|trouble| trouble.reason.clone());
        state.cause = trouble.as_ref().map(|trouble| self.cause(trouble, locked.vm.as_ref()));
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

    /// Whether a job that is no longer wanted leaves what there is: it did not make it, and nobody wants it removed.
    async fn is_left_alone(&self) -> Result<bool, JobError> {
        let has_another = self.job.state.vm.is_some() && !self.job.state.fresh;
        if !(self.job.kind.mends() || self.job.kind == Kind::Provision && has_another) {
            return Ok(self.job.kind == Kind::Prepare);
        }
        let Some(id) = self.job.agent_id else { return Ok(true) };
        let agent = agents::store::get(&mut *self.app.db.acquire().await?, id).await?;
        Ok(agent.is_some_and(|agent| !is_going(&agent)))
    }

    /// Ends a job that an operator has cancelled.
    async fn call_off(&self) -> Next {
        let reason = CANCELLED.to_owned();
        self.end_here(&Trouble { reason, grade: Grade::Last, shortage: None }, Outcome::Cancelled).await
    }

    /// Gives the machine up, for a job of its own to remove, and begins anew on another.
    async fn elsewhere(&self, trouble: &Trouble) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        let old = &self.job.state;
        if let Some(vm) = &locked.vm {
            vms::retire(&mut tx, vm.id).await?;
            if let Machine::Aleph(instance) = &vm.machine
                && !instance.crn.hash.is_empty()
            {
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

    /// Whether something else is wanted by now than what this job tried.
    pub(super) fn is_outdated(&self, agent: &Agent) -> bool {
        self.job.state.version.is_some_and(|version| version < agent.wanted_version)
    }

    /// Tries what is wanted by now instead.
    async fn try_newer(&self, mut tx: sqlx::Transaction<'static, sqlx::Postgres>, locked: Locked) -> Next {
        let state = State { version: None, ..self.job.state.clone() };
        let job = self.step_to(&mut tx, locked, Step::Install, state, 0).await?;
        tx.commit().await?;
        Ok(Some(job))
    }

    /// What was wanted does not work: wants again what did, as a newer version, and installs that: what the machine went back
    /// to by itself need not be what the rows say. Not if something else is wanted by now: that is tried instead.
    async fn restore(&self, trouble: &Trouble) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        if locked.job.cancel_requested {
            tx.rollback().await?;
            return Ok(Some(locked.job));
        }
        let agent = locked.agent()?.clone();
        if self.is_outdated(&agent) {
            self.record(&mut tx, Some(&trouble.reason)).await?;
            return self.try_newer(tx, locked).await;
        }
        let Some(version) = agents::store::restore_deployed(&mut tx, agent.id).await? else {
            tx.rollback().await?;
            return self.give_up(trouble).await;
        };
        self.record(&mut tx, Some(&trouble.reason)).await?;
        warn!(job.id = %self.job.claim.job_id, agent.id, agent.version = version, "going back to what ran before");
        let state = State {
            version: None,
            restored: Some(trouble.reason.clone()),
            restoring: Some(version),
            failed_at: Some(self.job.step),
            ..self.job.state.clone()
        };
        let scene = self.working(locked.vm.as_ref(), Step::Install, &state);
        self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
        let job = self.step_to(&mut tx, locked, Step::Install, state, 0).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(Some(job))
    }

    /// Ends the job and leaves what there is; only a machine that has nothing of an agent goes.
    async fn give_up(&self, trouble: &Trouble) -> Next {
        self.end_here(trouble, Outcome::Failed).await
    }

    async fn end_here(&self, trouble: &Trouble, outcome: Outcome) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        let state = &self.job.state;
        let cancelled = outcome == Outcome::Cancelled;
        let expected =
            if cancelled { !locked.agent.as_ref().is_some_and(is_going) } else { !locked.job.cancel_requested };
        if !expected && self.job.kind != Kind::Prepare {
            tx.rollback().await?;
            return Ok(Some(locked.job));
        }
        self.record(&mut tx, Some(&trouble.reason)).await?;
        if !cancelled && self.job.kind.changes() && locked.agent.as_ref().is_some_and(|agent| self.is_outdated(agent)) {
            return self.try_newer(tx, locked).await;
        }
        let mut left = Left::Nothing;
        if let Some(agent) = &locked.agent {
            left = self.leave(&mut tx, agent, &locked, trouble.grade).await?;
        }
        if let Some(vm) = locked.vm.as_ref().filter(|_| self.job.kind == Kind::Prepare || state.fresh)
            && !vms::release_warm(&mut tx, vm.id).await?
        {
            vms::retire(&mut tx, vm.id).await?;
        }
        let (kind, step) = (self.job.kind, self.job.step);
        let cause = (!cancelled).then(|| self.cause(trouble, locked.vm.as_ref()));
        let scene = Scene::GivenUp { kind, step, cause, reason: trouble.reason.clone(), left };
        let agent = match self.job.agent_id {
            Some(id) => agents::store::get(&mut tx, id).await?,
            None => None,
        };
        self.show(&mut tx, agent.as_ref(), &scene).await?;
        self.end_job(&mut tx, outcome, Some(&trouble.reason)).await?;
        if let Some(agent) = &agent {
            let goes_on = match kind {
                // Where it failed nothing is known of the machine, which may well run as ever.
                Kind::Stop => cancelled || agent.wanted_version != agent.deployed_version,
                Kind::Redeploy | Kind::Takeover => left == Left::AsBefore && self.is_outdated(agent),
                _ => false,
            };
            if goes_on {
                leaving::go_on(&mut tx, agent).await?;
            }
        }
        if let Some(shortage) = &trouble.shortage {
            operators::tell_of_shortage(&mut tx, self.app, shortage).await?;
        }
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        self.app.wake.wake(Queue::Jobs);
        warn!(job.id = %self.job.claim.job_id, job.kind = kind.as_str(), agent.id = self.job.agent_id, job.outcome = outcome.as_str(), "the job ends: {}", trouble.reason);
        Ok(None)
    }
}
