//! Does jobs: claims them in short transactions, works outside any, and saves each step with its effect in one.
//!
//! A claim is only ever let go by a write that says so, or when it is found lost: a job that nobody works at while its
//! replica lives would stay where it is for ever.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use super::error::JobError;
use super::model::Step;
use super::saving::Next;
use super::steps;
use super::store::{self, Job};
use super::turn::Turn;
use super::verdict::MAX_RECLAIMS;
use crate::app::App;
use crate::replica::Replica;
use crate::slots::{Slots, bounded, ids};
use crate::trace;
use crate::wake::Queue;

/// Jobs of one replica at the same moment. Most of them wait for machines, without a connection or a lock.
const AT_ONCE: usize = 32;
/// Those of them that only jobs get which remove something: machines that stall while they are made must not keep others from
/// being given back.
const FOR_REMOVAL: usize = 4;
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
            () = slots.one_ends(), if free <= FOR_REMOVAL => {}
        }
    }
    worker.stop.cancel();
    if timeout(DRAIN, slots.all_end()).await.is_err() {
        warn!("jobs were abandoned in the middle of a step; another replica takes them over");
    }
}

impl Worker {
    async fn claim(&self, limit: usize) -> sqlx::Result<Vec<Job>> {
        let makers = limit.saturating_sub(FOR_REMOVAL);
        store::claim(&mut *self.app.db.acquire().await?, self.replica.id(), limit as i64, makers as i64).await
    }

    /// Does a job's steps, in a span whose fields all log lines of the job have.
    async fn work(&self, job: Job) {
        let span = info_span!("job", job.id = %job.claim.job_id, job.kind = job.kind.as_str(), agent.id = job.agent_id);
        trace::follow(&span, job.trace_context.as_deref());
        // On the heap: what a step holds, with an SSH session in it, is more than wrappers should carry over the stack.
        Box::pin(self.do_steps(job)).instrument(span).await;
    }

    async fn do_steps(&self, mut job: Job) {
        info!(job.step = job.step.as_str(), attempt = job.claim.attempt, "working at a job");
        loop {
            let turn =
                Turn { app: &self.app, replica: &self.replica, stop: &self.stop, job: &job, began: Instant::now() };
            match Box::pin(advance(&turn)).instrument(trace::step(job.step.as_str())).await {
                Ok(Some(next)) => job = next,
                Ok(None) => return,
                Err(JobError::Stopping) => return self.hand_back(&job).await,
                Err(JobError::Database(error)) => {
                    warn!(%error, "the job cannot be saved at the moment");
                    match self.read_again(&job).await {
                        Some(found) => job = found,
                        None => return,
                    }
                }
                Err(error) => {
                    warn!(%error, "letting go of a job");
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
                Err(error) => warn!(%error, "the job cannot be read; trying again"),
            }
        }
    }

    async fn hand_back(&self, job: &Job) {
        let done = async { store::hand_back(&mut *self.app.db.acquire().await?, &job.claim).await };
        match done.await {
            Ok(_) => {
                info!(job.step = job.step.as_str(), "job handed back");
                self.app.wake.wake(Queue::Jobs);
            }
            Err(error) => warn!(%error, "a job could not be handed back; it will be taken back"),
        }
    }
}

/// Does the job's step and saves what came of it.
async fn advance(turn: &Turn<'_>) -> Next {
    turn.permitted().await?;
    let job = turn.job;
    if !job.step.removes() {
        // What is stopped is stopped, whatever an operator wants by now: that step sees who it was.
        if job.cancel_requested && job.step != Step::Rest {
            return turn.failed(JobError::Cancelled).await;
        }
        if job.reclaims >= MAX_RECLAIMS {
            return turn.too_deadly().await;
        }
    }
    // What the panic said is in the log already.
    let unexpected = |_| Err(JobError::retry("something unexpected happened", anyhow!("panic")));
    match AssertUnwindSafe(step_shown(turn)).catch_unwind().await.unwrap_or_else(unexpected) {
        Err(error @ (JobError::Failed { .. } | JobError::Credits(_) | JobError::Cancelled)) => turn.failed(error).await,
        next => next,
    }
}

/// The step, and beside it what its owner sees of it.
async fn step_shown(turn: &Turn<'_>) -> Next {
    tokio::select! {
        next = step(turn) => next,
        never = turn.keep_showing() => match never {},
    }
}

async fn step(turn: &Turn<'_>) -> Next {
    match turn.job.step {
        Step::Place => turn.place().await,
        Step::Finish => turn.finish().await,
        Step::Rest => turn.rest().await,
        Step::Store => turn.store().await,
        Step::End => turn.end().await,
        _ => turn.save(steps::perform(turn).await?).await,
    }
}
