//! The step that finds a machine, or has one written down: known before it exists.
//!
//! Whatever makes a machine's row does so under the lock on the installation's row, in the transaction that counts all rows
//! not ended, asks the waiting list and the account, and saves the job's next step. A kill before that commit leaves nothing
//! (a signed message that nobody posted is nothing); a kill after it leaves a job that knows its machine. A machine taken
//! from the pool is the agent's from that commit on.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlx::PgConnection;
use tracing::info;
use uuid::Uuid;

use super::card::Scene;
use super::error::JobError;
use super::line;
use super::model::{Kind, Outcome, State, Step, next};
use super::saving::{Locked, Next};
use super::steps::{Done, Effect};
use super::store::Job;
use super::turn::Turn;
use crate::agents::{self, service};
use crate::cloud::aleph::{Funds, Instance};
use crate::cloud::hosts;
use crate::cloud::local;
use crate::cloud::places;
use crate::cloud::store::{self as vms, LocalData, Machine, Root, Vm, VmState};
use crate::config::CloudKind;
use crate::database;
use crate::wake::Queue;

/// What a new machine would be.
enum Plan {
    /// A directory and a port of this host.
    Local(LocalData),
    /// Whichever host nobody has.
    Host,
    /// To be composed, if there is room for it.
    Unknown,
    /// This instance, paid from these funds.
    Aleph { vm: Uuid, instance: Box<Instance>, funds: Funds },
}

/// What the rows said to it: the job went on, or there is room for another machine.
type Settled = ControlFlow<Option<Job>>;

/// Machines that are not certainly gone, by the hash of the compute node that they are on.
async fn ours(conn: &mut PgConnection) -> sqlx::Result<HashMap<String, i64>> {
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "select crn_hash, count(*) from vms where ended_at is null and crn_hash is not null group by crn_hash",
    )
    .fetch_all(conn)
    .await?;
    Ok(counts.into_iter().collect())
}

impl Turn<'_> {
    /// The machine that there is, or one from the pool, or a new one, or a place in the waiting list.
    pub async fn place(&self) -> Next {
        if let Some(vm) = self.present().await? {
            let step = self.after(&vm, Step::Place);
            // What nothing of an agent was ever written to has nothing to lose either.
            let untouched = !vm.touched && vm.machine.cloud() != CloudKind::Local;
            let fresh = untouched || (self.job.state.fresh && self.job.state.vm == Some(vm.id));
            let state = State { vm: Some(vm.id), fresh, line: None, ..self.job.state.clone() };
            return self.save(Done { next: step, state, effect: Effect::Nothing }).await;
        }
        let plan = match self.app.config.cloud {
            CloudKind::Local => {
                let root = Root::make(&self.app.config.local_dir)?;
                let port = local::free_port()
                    .map_err(|error| JobError::retry("the server has no room for it at the moment", error))?;
                Plan::Local(LocalData { root, port })
            }
            CloudKind::Hosts => Plan::Host,
            CloudKind::Aleph => Plan::Unknown,
        };
        if let ControlFlow::Break(next) = self.settle(plan).await? {
            return Ok(next);
        }
        let plan = self.while_wanted(self.compose()).await??;
        match self.settle(plan).await? {
            ControlFlow::Break(next) => Ok(next),
            ControlFlow::Continue(()) => Err(Self::lost_machine()),
        }
    }

    /// What follows a step on this machine.
    pub fn after(&self, vm: &Vm, step: Step) -> Step {
        next(self.job.kind, vm.machine.cloud(), step).unwrap_or(step)
    }

    async fn present(&self) -> Result<Option<Vm>, JobError> {
        let mut conn = self.app.db.acquire().await?;
        if let Some(id) = self.job.state.vm
            && let Some(vm) = vms::get(&mut conn, id).await?
        {
            return Ok(Some(vm));
        }
        Ok(match self.job.agent_id {
            Some(id) => vms::machines_of(&mut conn, id).await?.into_iter().next(),
            None => None,
        })
    }

    /// A signed message for an instance on one of the best nodes that did not fail lately. Nothing is sent but questions.
    async fn compose(&self) -> Result<Plan, JobError> {
        let aleph = self.app.aleph.as_ref().ok_or_else(|| JobError::not_ours(CloudKind::Aleph))?;
        let funds = aleph.funds().await?;
        // Whoever cannot pay for one cannot pay for any; the sum is known under the lock.
        funds.check(1)?;
        let (avoid, ours, installation) = {
            let mut conn = self.app.db.acquire().await?;
            (places::avoided(&mut conn).await?, ours(&mut conn).await?, vms::installation_id(&mut conn).await?)
        };
        let node = aleph.draw(&avoid, &ours, rand::random()).await?;
        let vm = Uuid::new_v4();
        let instance = aleph.compose(&node, installation, vm).await?;
        info!(job.id = %self.job.claim.job_id, vm.id = %vm, vm.hash = instance.item_hash, crn.hash = node.hash, crn.url = node.url, "an instance is composed");
        Ok(Plan::Aleph { vm, instance: Box::new(instance), funds })
    }

    async fn settle(&self, plan: Plan) -> Result<Settled, JobError> {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        if locked.job.cancel_requested {
            tx.rollback().await?;
            return Ok(ControlFlow::Break(Some(locked.job)));
        }
        let unended = vms::count_unended(&mut tx).await?;
        let ahead = line::ahead(&mut tx, self.job.claim.job_id).await?;
        if ahead == 0
            && let Some(agent) = &locked.agent
            && let Some(vm) = vms::claim_warm(&mut tx, self.app.config.cloud, agent.id).await?
        {
            info!(job.id = %self.job.claim.job_id, agent.id, vm.id = %vm.id, "a machine from the pool");
            let job = self.placed(&mut tx, locked, &vm, Step::Install).await?;
            tx.commit().await?;
            self.app.wake.wake(Queue::Outbox);
            self.app.wake.wake(Queue::Jobs);
            return Ok(ControlFlow::Break(Some(job)));
        }
        let mut room = unended + ahead < self.app.config.max_vms;
        if let Plan::Host = plan {
            room = room && ahead < hosts::count_free(&mut tx).await?;
        }
        if !room {
            return self.queue_up(tx, locked, ahead + 1).await.map(ControlFlow::Break);
        }
        let (id, machine, name, host_key) = match plan {
            Plan::Unknown => {
                tx.rollback().await?;
                return Ok(ControlFlow::Continue(()));
            }
            Plan::Local(data) => (Uuid::new_v4(), Machine::Local(data), None, None),
            Plan::Host => {
                let place = hosts::free(&mut tx).await?;
                let host = match &place {
                    Some(place) => hosts::get(&mut tx, place.host_id).await?,
                    None => None,
                };
                // None if the operator is at it this very moment.
                let Some(host) = host else {
                    return self.queue_up(tx, locked, ahead + 1).await.map(ControlFlow::Break);
                };
                (Uuid::new_v4(), Machine::Host(host.place()), Some(host.name()), host.host_key)
            }
            Plan::Aleph { vm, instance, funds } => {
                funds.check(unended + 1)?;
                let aleph = self.app.aleph.as_ref().ok_or_else(|| JobError::not_ours(CloudKind::Aleph))?;
                let name = aleph.public_name(&instance.item_hash)?;
                (vm, Machine::Aleph(instance), Some(name), None)
            }
        };
        let agent_id = self.job.agent_id;
        let state = if agent_id.is_some() { VmState::Assigned } else { VmState::Preparing };
        let vm = Vm { id, agent_id, state, machine, host_key, name, touched: false };
        vms::insert_machine(&mut tx, &vm).await?;
        let step = self.after(&vm, Step::Place);
        let job = self.placed(&mut tx, locked, &vm, step).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        self.app.wake.wake(Queue::Jobs);
        Ok(ControlFlow::Break(Some(job)))
    }

    async fn placed(&self, conn: &mut PgConnection, locked: Locked, vm: &Vm, step: Step) -> Result<Job, JobError> {
        // An agent that ever ran had a machine before, and has no other now: its owner is told once it runs again.
        let memory_lost =
            self.job.state.memory_lost || locked.agent.as_ref().is_some_and(|agent| agent.deployed_version > 0);
        if let Some(agent) = &locked.agent {
            // Machines that it had before know the secret of then, and are not always gone at once.
            let secret = service::new_secret(&self.app.config.vault);
            agents::store::set_secret(conn, agent.id, &secret).await?;
        }
        let state = State { vm: Some(vm.id), fresh: true, memory_lost, line: None, ..self.job.state.clone() };
        let scene = self.working(Some(vm), step, &state);
        self.show(conn, locked.agent.as_ref(), &scene).await?;
        self.record(conn, None).await?;
        let job = self.step_to(conn, locked, step, state, 0).await?;
        if self.job.state.line.is_some() {
            // There may be room for the next in line as well.
            line::hurry(conn).await?;
        }
        Ok(job)
    }

    /// Waits for a place, told its number; a job of the pool does not wait, for agents come first.
    async fn queue_up(&self, mut tx: sqlx::Transaction<'static, sqlx::Postgres>, locked: Locked, place: i64) -> Next {
        if self.job.kind == Kind::Prepare {
            // No failure: the pool asks again once there is room.
            let why = "there is no room for another machine";
            self.record(&mut tx, Some(why)).await?;
            self.end_job(&mut tx, Outcome::Cancelled, Some(why)).await?;
            tx.commit().await?;
            info!(job.id = %self.job.claim.job_id, "the pool gets no machine at the moment: {why}");
            return Ok(None);
        }
        let state = State { line: Some(place), ..self.job.state.clone() };
        if self.job.state.line != Some(place) {
            let scene = Scene::Waiting { kind: self.job.kind, place };
            self.show(&mut tx, locked.agent.as_ref(), &scene).await?;
            info!(job.id = %self.job.claim.job_id, agent.id = self.job.agent_id, place, "waiting in line for a machine");
        }
        line::wait(&mut tx, &self.job.claim, &state).await?.ok_or(JobError::LeaseLost)?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        Ok(None)
    }
}
