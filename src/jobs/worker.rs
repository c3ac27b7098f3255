//! Does jobs: claims them in short transactions, works outside any, and saves each step with its effect in one.
//!
//! A claim is only ever let go by a write that says so, or when it is found lost: a job that nobody works at while its
//! replica lives would stay where it is for ever.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt as _;
use sqlx::PgConnection;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::card::{self, Scene};
use super::error::JobError;
use super::model::{Kind, Outcome, State, Step};
use super::steps::{self, Done, Effect};
use super::store::{self, Job};
use super::verdict::{Failure, Grade, MAX_RECLAIMS, Verdict, judge};
use crate::agents::{self, Agent, Status};
use crate::app::App;
use crate::cloud::store as vms;
use crate::replica::Replica;
use crate::slots::{Slots, bounded, ids};
use crate::telegram::outbox;
use crate::wake::Queue;

/// Jobs of one replica at the same moment.
const AT_ONCE: usize = 8;
const POLL: Duration = Duration::from_millis(1_500);
/// How long jobs may take to come to a point where they can be handed back.
const DRAIN: Duration = Duration::from_secs(6);

#[derive(Clone)]
struct Worker {
    app: App,
    replica: Replica,
    stop: CancellationToken,
}

/// Claims jobs and does them until `stop`, or until the replica is given up; then those under way are handed back.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let worker = Worker { app: app.clone(), replica: replica.clone(), stop: stop.child_token() };
    let mut slots = Slots::new(AT_ONCE);
    while !stop.is_cancelled() && !replica.lost().is_cancelled() {
        if let Some(held) = slots.due() {
            slots.looked("jobs", bounded(store::release_strays(&app.db, replica.id(), &ids(held))).await);
        }
        let free = slots.free();
        if free > 0 && replica.may_send() {
            for job in slots.claim("jobs", worker.claim(free)).await.unwrap_or_default() {
                let worker = worker.clone();
                slots.spawn((job.claim.job_id, job.claim.attempt), async move { worker.work(job).await });
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = replica.lost().cancelled() => {}
            () = app.wake.wait(Queue::Jobs, POLL) => {}
            () = slots.one_ends(), if free == 0 => {}
        }
    }
    worker.stop.cancel();
    if timeout(DRAIN, slots.all_end()).await.is_err() {
        warn!("jobs were abandoned in the middle of a step; another replica takes them over");
    }
}

/// What follows from a job's step: the job as it stands then, or nothing if it is no longer ours.
type Next = Result<Option<Job>, JobError>;

impl Worker {
    async fn claim(&self, limit: usize) -> sqlx::Result<Vec<Job>> {
        store::claim(&mut *self.app.db.acquire().await?, self.replica.id(), limit as i64).await
    }

    async fn work(&self, mut job: Job) {
        info!(job.id = %job.claim.job_id, job.kind = job.kind.as_str(), job.step = job.step.as_str(), agent.id = job.agent_id, attempt = job.claim.attempt, "working at a job");
        loop {
            match self.advance(&job).await {
                Ok(Some(next)) => job = next,
                Ok(None) => return,
                Err(JobError::Stopping) => return self.hand_back(&job).await,
                Err(JobError::Database(error)) => {
                    warn!(job.id = %job.claim.job_id, %error, "the job cannot be saved at the moment");
                    match self.read_again(&job).await {
                        Some(found) => job = found,
                        None => return,
                    }
                }
                Err(error) => {
                    warn!(job.id = %job.claim.job_id, %error, "letting go of a job");
                    return;
                }
            }
        }
    }

    /// The job as Postgres has it: after an error it is not known whether a commit took place. None if it is lost, or if
    /// this process ends meanwhile (its registration goes, and the job is taken back).
    async fn read_again(&self, job: &Job) -> Option<Job> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = self.replica.lost().cancelled() => return None,
                () = sleep(Duration::from_secs(1)) => {}
            }
            let found = async { store::lock(&mut *self.app.db.acquire().await?, &job.claim).await };
            match found.await {
                Ok(found) => return found,
                Err(error) => warn!(job.id = %job.claim.job_id, %error, "the job cannot be read; trying again"),
            }
        }
    }

    async fn hand_back(&self, job: &Job) {
        let done = async { store::hand_back(&mut *self.app.db.acquire().await?, &job.claim).await };
        match done.await {
            Ok(_) => {
                info!(job.id = %job.claim.job_id, job.step = job.step.as_str(), "job handed back");
                self.app.wake.wake(Queue::Jobs);
            }
            Err(error) => warn!(%error, "a job could not be handed back; it will be taken back"),
        }
    }

    /// Waits until this replica may act on the world: until its registration is certainly good.
    async fn permitted(&self) -> Result<(), JobError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(JobError::Stopping);
            }
            if self.replica.lost().is_cancelled() {
                return Err(JobError::LeaseLost);
            }
            if self.replica.may_send() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn advance(&self, job: &Job) -> Next {
        self.permitted().await?;
        if !job.step.removes() {
            if job.cancel_requested {
                return self.turn_back(job, None).await;
            }
            if job.reclaims >= MAX_RECLAIMS {
                warn!(job.id = %job.claim.job_id, agent.id = job.agent_id, job.reclaims, "giving up a job over which replicas keep dying");
                return self.turn_back(job, Some("the servers that worked at it stopped several times".into())).await;
            }
        }
        let done = match job.step {
            Step::Finish => return self.finish(job).await,
            Step::End => return self.end(job).await,
            _ => AssertUnwindSafe(steps::perform(&self.app, job, &self.stop)).catch_unwind().await,
        };
        // What the panic said is in the log already.
        let done = done.unwrap_or_else(|_| Err(JobError::retry("something unexpected happened", anyhow!("panic"))));
        match done {
            Ok(done) => self.save(job, done).await,
            Err(JobError::Cancelled) => self.turn_back(job, None).await,
            Err(JobError::Failed { reason, source, last }) => self.failed(job, reason, source, last).await,
            Err(error) => Err(error),
        }
    }

    /// Saves a step's end with its effect.
    async fn save(&self, job: &Job, done: Done) -> Next {
        let mut tx = self.app.db.begin().await?;
        let (agent, current) = lock(&mut tx, job).await?;
        match done.effect {
            Effect::Nothing => {}
            Effect::Placed(vm) => vms::insert(&mut tx, agent.id, &vm).await?,
            Effect::Moved(vm) => vms::set_port(&mut tx, &vm).await?,
            Effect::Gone(ids) => vms::end(&mut tx, &ids).await?,
        }
        if !done.next.removes() {
            show(&mut tx, job, &agent, &Scene::Working { step: done.next, trouble: None }).await?;
        }
        // Failures are counted until the agent answers: it may start well and die before that, again and again.
        let failures = if done.next == Step::Health { job.failures } else { 0 };
        store::save(&mut tx, &job.claim, done.next, &done.state, failures).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(Some(Job { step: done.next, state: done.state, failures, ..current }))
    }

    /// Begins to undo what a provision made.
    async fn turn_back(&self, job: &Job, failed: Option<String>) -> Next {
        let mut tx = self.app.db.begin().await?;
        let (agent, current) = lock(&mut tx, job).await?;
        let state = State { failed, ..job.state.clone() };
        show(&mut tx, job, &agent, &Scene::Undoing).await?;
        store::save(&mut tx, &job.claim, Step::Stop, &state, 0).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        info!(job.id = %job.claim.job_id, agent.id = job.agent_id, "undoing what the job made");
        Ok(Some(Job { step: Step::Stop, state, failures: 0, ..current }))
    }

    async fn failed(&self, job: &Job, reason: String, source: anyhow::Error, last: bool) -> Next {
        let failures = job.failures.saturating_add(1);
        warn!(job.id = %job.claim.job_id, agent.id = job.agent_id, job.step = job.step.as_str(), failures, error = %format!("{source:#}"), "a step failed: {reason}");
        let failure = Failure {
            kind: job.kind,
            cloud: self.app.config.cloud,
            step: job.step,
            failures,
            grade: if last { Grade::Last } else { Grade::Passing },
            tried: job.state.tried,
            fresh: job.state.fresh,
            restoring: job.state.restored.is_some(),
        };
        let wait = match judge(failure, rand::random()) {
            Verdict::Again(wait) => wait,
            _ => return self.turn_back(job, Some(reason)).await,
        };
        let mut tx = self.app.db.begin().await?;
        let (agent, _) = lock(&mut tx, job).await?;
        if failures == 1 && !job.step.removes() {
            show(&mut tx, job, &agent, &Scene::Working { step: job.step, trouble: Some(reason.clone()) }).await?;
        }
        store::postpone(&mut tx, &job.claim, failures, wait, &reason).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(None)
    }

    /// The agent answers: opens it, unless it is no longer wanted or something else is wanted of it by now.
    async fn finish(&self, job: &Job) -> Next {
        let mut tx = self.app.db.begin().await?;
        // Conversations are locked before agents everywhere.
        if let Some(agent) = agents::store::get(&mut tx, job.agent_id.ok_or(JobError::LeaseLost)?).await? {
            agents::store::introduce(&mut tx, &agent).await?;
        }
        let (agent, current) = lock(&mut tx, job).await?;
        if current.cancel_requested {
            tx.rollback().await?;
            return Ok(Some(current));
        }
        let vm = vms::open_of(&mut tx, agent.id).await?.into_iter().find(|vm| Some(vm.id) == job.state.vm);
        let (Some(vm), Some(version)) = (vm, job.state.version.filter(|version| *version == agent.wanted_version))
        else {
            tx.rollback().await?;
            let done = Done { next: Step::Place, state: job.state.clone(), effect: Effect::Nothing };
            return self.save(job, done).await;
        };
        let protocol = job.state.protocol.unwrap_or(1);
        agents::store::set_running(&mut tx, agent.id, &vm.url(), protocol, version).await?;
        let bot_username = agents::store::bot_username(&mut tx, agent.bot_id).await?;
        show(&mut tx, job, &agent, &Scene::Ready { bot_username }).await?;
        store::end(&mut tx, &job.claim, Outcome::Succeeded, None).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        // Turns may have been waiting for it.
        self.app.wake.wake(Queue::Turns);
        info!(job.id = %job.claim.job_id, agent.id = job.agent_id, agent.url = vm.url(), "agent provisioned");
        Ok(None)
    }

    /// Nothing is left: says so, and why.
    async fn end(&self, job: &Job) -> Next {
        let mut tx = self.app.db.begin().await?;
        let (agent, _) = lock(&mut tx, job).await?;
        if !vms::open_of(&mut tx, agent.id).await?.is_empty() {
            tx.rollback().await?;
            let done = Done { next: Step::Stop, state: job.state.clone(), effect: Effect::Nothing };
            return self.save(job, done).await;
        }
        let (outcome, error, scene) = if agent.status == Status::Deleting {
            agents::store::set_deleted(&mut tx, agent.id).await?;
            let outcome = if job.kind == Kind::Provision { Outcome::Cancelled } else { Outcome::Succeeded };
            (outcome, None, Scene::Deleted)
        } else {
            let reason = job.state.failed.clone().unwrap_or_else(|| "it was cancelled".into());
            agents::store::set_status(&mut tx, agent.id, Status::Failed).await?;
            (Outcome::Failed, Some(reason.clone()), Scene::Failed { reason })
        };
        show(&mut tx, job, &agent, &scene).await?;
        store::end(&mut tx, &job.claim, outcome, error.as_deref()).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        info!(job.id = %job.claim.job_id, agent.id = job.agent_id, job.outcome = outcome.as_str(), "nothing of the agent is left");
        Ok(None)
    }
}

/// Locks the agent and then the job, in the order in which the service does; the job as it stands.
async fn lock(conn: &mut PgConnection, job: &Job) -> Result<(Agent, Job), JobError> {
    let agent =
        agents::store::lock(conn, job.agent_id.ok_or(JobError::LeaseLost)?).await?.ok_or(JobError::LeaseLost)?;
    let job = store::lock(conn, &job.claim).await?.ok_or(JobError::LeaseLost)?;
    Ok((agent, job))
}

/// Puts the card into the job's message, if it has one.
async fn show(conn: &mut PgConnection, job: &Job, agent: &Agent, scene: &Scene) -> sqlx::Result<()> {
    let Some(message) = job.progress else { return Ok(()) };
    let card = card::card(agent, scene);
    outbox::enqueue_progress(conn, &card.edit(agent.bot_id, agent.chat_id, message)).await
}
