//! The last steps, which change rows only.

use anyhow::anyhow;
use baal_protocol::Role;
use sqlx::PgConnection;
use tracing::info;

use super::card::Scene;
use super::error::JobError;
use super::failing::CANCELLED;
use super::model::{Kind, Outcome, State, Step};
use super::saving::Next;
use super::steps::{Done, Effect};
use super::turn::Turn;
use crate::agents::{self, Agent, Status};
use crate::cloud::store as vms;
use crate::database;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Place, send_message};
use crate::telegram::texts;
use crate::turns::store::{self as turns, Kind as TurnKind, Request};
use crate::wake::Queue;

impl Turn<'_> {
    /// The agent answers: opens it, unless it is no longer wanted or something else is wanted of it by now.
    pub async fn finish(&self) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let state = &self.job.state;
        // Conversations are locked before agents everywhere.
        if self.job.kind == Kind::Provision
            && let Some(id) = self.job.agent_id
            && let Some(agent) = agents::store::get(&mut tx, id).await?
        {
            agents::store::introduce(&mut tx, &agent).await?;
        }
        let locked = self.lock(&mut tx).await?;
        if locked.job.cancel_requested {
            tx.rollback().await?;
            return Ok(Some(locked.job));
        }
        let agent = locked.agent()?;
        let Some((vm, url)) = locked.vm.as_ref().and_then(|vm| Some((vm, vm.url()?))) else {
            tx.rollback().await?;
            if self.job.kind.changes() || self.job.kind == Kind::Start {
                return Err(Self::lost_machine());
            }
            let state = State { vm: None, ..state.clone() };
            return self.save(Done { next: Step::Place, state, effect: Effect::Nothing }).await;
        };
        let Some(version) = state.version.filter(|version| *version == agent.wanted_version) else {
            // It does run; what was restored is not what failed any more.
            let state = State { restored: None, restoring: None, ..state.clone() };
            if let Some(version) = state.version {
                // Should what is wanted now not work, this is what it goes back to.
                agents::store::set_deployed(&mut tx, agent.id, version).await?;
                if !self.is_given_back(agent) {
                    agents::keys::set_deployed(&mut tx, agent.id, state.key.unwrap_or(0)).await?;
                }
                // From here on the Python system's program has been replaced, and nothing goes back to it.
                agents::store::set_protocol(&mut tx, agent.id, state.protocol.unwrap_or(1)).await?;
            }
            let scene = self.working(Some(vm), Step::Install, &state);
            self.show(&mut tx, Some(agent), &scene).await?;
            self.record(&mut tx, None).await?;
            let job = self.step_to(&mut tx, locked, Step::Install, state, 0).await?;
            tx.commit().await?;
            self.app.wake.wake(Queue::Outbox);
            return Ok(Some(job));
        };
        let protocol = state.protocol.unwrap_or(1);
        agents::store::set_running(&mut tx, agent.id, &url, protocol, version).await?;
        if !self.is_given_back(agent) {
            agents::keys::set_deployed(&mut tx, agent.id, state.key.unwrap_or(0)).await?;
        }
        let scene = match (self.job.kind, &state.restored) {
            (_, Some(reason)) => Scene::Restored { reason: reason.clone() },
            (Kind::Redeploy, None) => Scene::Updated,
            (Kind::Takeover, None) => Scene::TakenOver,
            (Kind::Start, None) if !state.memory_lost => Scene::Started,
            (Kind::Repair, None) => Scene::Repaired { memory_lost: state.memory_lost },
            (_, None) if state.memory_lost => Scene::Repaired { memory_lost: true },
            _ => self.ready(&mut tx, agent).await?,
        };
        self.show(&mut tx, Some(agent), &scene).await?;
        self.record(&mut tx, None).await?;
        let outcome = if state.restored.is_some() { Outcome::Failed } else { Outcome::Succeeded };
        self.end_job(&mut tx, outcome, state.restored.as_deref()).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        // Turns may have been waiting for it.
        self.app.wake.wake(Queue::Turns);
        info!(job.id = %self.job.claim.job_id, job.kind = self.job.kind.as_str(), agent.id, agent.url = url, agent.version = version, vm.id = %vm.id, "the agent runs as wanted");
        Ok(None)
    }

    /// Whether what answers is the Python system's agent still, or again: which key that has is known as well as before.
    fn is_given_back(&self, agent: &Agent) -> bool {
        agent.is_pythons() && self.job.state.protocol == Some(1)
    }

    /// What is told of an agent that is ready. One that its owner's chat talks to says hello there itself.
    async fn ready(&self, conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<Scene> {
        let instead = agents::store::talked_to_instead(conn, agent).await?;
        if instead.is_none() {
            let place = Place { bot_id: agent.bot_id, chat_id: agent.chat_id, thread_id: None };
            let (name, language_code) = agents::store::owner_of(conn, agent).await?;
            let request = Request { message: String::new(), name, language_code };
            let who = (agent.id, agent.owner_id, Role::Owner);
            turns::enqueue_special(conn, &self.app.config.vault, place, who, TurnKind::Hello, &request).await?;
        }
        let username = agents::store::bot_username(conn, agent.bot_id).await?.unwrap_or_default();
        let link = agents::links::ready_link(conn, &self.app.config.vault, &username, agent).await?;
        Ok(Scene::Ready { link, instead })
    }

    /// The agent's program has ended: says so to its owner. Its machine stays.
    pub async fn rest(&self) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        let agent = locked.agent()?;
        // Deleting it cancels as well. An operator who cancels comes too late: the program has ended.
        if agent.status == Status::Deleting {
            tx.rollback().await?;
            return self.failed(JobError::Cancelled).await;
        }
        agents::store::set_status(&mut tx, agent.id, Status::Stopped).await?;
        let (text, buttons) = texts::agent_stopped(agent);
        let place = Place { bot_id: agent.bot_id, chat_id: agent.chat_id, thread_id: None };
        let call = Call::reply(place.bot_id, place.chat_id, &send_message(place, &text, buttons)).notice();
        outbox::enqueue(&mut tx, &call).await?;
        self.record(&mut tx, None).await?;
        self.end_job(&mut tx, Outcome::Succeeded, None).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        // Whoever waits for an answer is told.
        self.app.wake.wake(Queue::Turns);
        info!(job.id = %self.job.claim.job_id, agent.id, vm.id = locked.vm.as_ref().map(|vm| tracing::field::display(vm.id)), "the agent is stopped; its machine stays and is paid for");
        Ok(None)
    }

    /// The machine is ready: puts it into the pool.
    pub async fn store(&self) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        // Nobody wants it any more.
        if locked.job.cancel_requested {
            tx.rollback().await?;
            return Ok(Some(locked.job));
        }
        let Some(vm) = &locked.vm else { return Err(Self::lost_machine()) };
        vms::set_warm(&mut tx, vm.id).await?;
        self.record(&mut tx, None).await?;
        self.end_job(&mut tx, Outcome::Succeeded, None).await?;
        super::line::hurry(&mut tx).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Jobs);
        info!(job.id = %self.job.claim.job_id, vm.id = %vm.id, "a machine waits in the pool");
        Ok(None)
    }

    /// Nothing is left: says so, and why.
    pub async fn end(&self) -> Next {
        let mut tx = database::begin(&self.app.db).await?;
        let locked = self.lock(&mut tx).await?;
        let left = match &locked.agent {
            Some(agent) => !vms::machines_of(&mut tx, agent.id).await?.is_empty(),
            None => locked.vm.is_some(),
        };
        if left {
            tx.rollback().await?;
            let state = self.job.state.clone();
            return self.save(Done { next: Step::Stop, state, effect: Effect::Nothing }).await;
        }
        if let Some(agent) = locked.agent.as_ref().filter(|agent| agent.status == Status::Deleting)
            && vms::leaves_traces(&mut tx, agent.id).await?
        {
            tx.rollback().await?;
            let source = anyhow!("jobs of their own remove the machines that were given up");
            return Err(JobError::retry("a machine that it had before is still being removed", source));
        }
        let (outcome, error) = match &locked.agent {
            None => (Outcome::Succeeded, None),
            Some(agent) if agent.status == Status::Deleting => {
                agents::store::set_deleted(&mut tx, agent.id).await?;
                self.show(&mut tx, Some(agent), &Scene::Deleted).await?;
                (if self.job.kind == Kind::Deprovision { Outcome::Succeeded } else { Outcome::Cancelled }, None)
            }
            Some(agent) => {
                let failed = self.job.state.failed.clone();
                let outcome = if failed.is_some() { Outcome::Failed } else { Outcome::Cancelled };
                let reason = failed.unwrap_or_else(|| CANCELLED.into());
                agents::store::set_status(&mut tx, agent.id, Status::Failed).await?;
                let (step, cause) = (self.job.state.failed_at, self.job.state.cause);
                let scene = Scene::Failed { step, cause, reason: reason.clone() };
                self.show(&mut tx, Some(agent), &scene).await?;
                (outcome, Some(reason))
            }
        };
        self.record(&mut tx, None).await?;
        self.end_job(&mut tx, outcome, error.as_deref()).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Outbox);
        info!(job.id = %self.job.claim.job_id, agent.id = self.job.agent_id, vm.id = self.job.vm_id.map(tracing::field::display), job.outcome = outcome.as_str(), "nothing is left");
        Ok(None)
    }
}
