//! What each step does to the world, outside any transaction. Each looks first, so that it can be done again.

mod create;
mod halt;
mod health;
mod install;
mod local;
mod reach;
mod remove;

use uuid::Uuid;

use super::error::JobError;
use super::model::{State, Step};
use super::turn::Turn;
use crate::agents::keys::{self, KeyError, ModelKey};
use crate::agents::{self, Agent};
use crate::cloud::aleph::Execution;
use crate::cloud::store::{self as vms, LocalVm, Machine, Vm};
use crate::config::CloudKind;
use crate::ssh::{Address, Session};

/// What a step that succeeded leads to; saved as a whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// What to do next.
    pub next: Step,
    /// What is known now.
    pub state: State,
    /// What other rows are to say.
    pub effect: Effect,
}

/// A step's change of other rows; made twice it is the same.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// None.
    Nothing,
    /// The agent gets another port.
    Moved(LocalVm),
    /// What the machine showed at first contact.
    Pinned {
        /// Which machine.
        vm: Uuid,
        /// In OpenSSH's form.
        host_key: String,
    },
    /// Something of the agent is about to be written to it.
    Touched(Uuid),
    /// Nothing is left of these.
    Gone(Vec<Uuid>),
}

/// Does the job's step, but for those which only change rows.
pub async fn perform(turn: &Turn<'_>) -> Result<Done, JobError> {
    match turn.job.step {
        Step::Create => create::create(turn).await,
        Step::Reach => reach::reach(turn).await,
        Step::Prepare => install::prepare(turn).await,
        Step::Install => install::install(turn).await,
        Step::Start => local::start(turn).await,
        Step::Health => health::health(turn).await,
        Step::Halt => halt::halt(turn).await,
        Step::Stop => remove::stop(turn).await,
        Step::Remove => remove::remove(turn).await,
        Step::Place | Step::Finish | Step::Rest | Step::Store | Step::End => {
            Ok(turn.to(turn.job.step, Effect::Nothing))
        }
    }
}

impl Turn<'_> {
    /// The same knowledge, another step.
    fn to(&self, next: Step, effect: Effect) -> Done {
        Done { next, state: self.job.state.clone(), effect }
    }

    /// On to the step that follows on this machine.
    fn on(&self, vm: &Vm) -> Done {
        self.to(self.after(vm, self.job.step), Effect::Nothing)
    }

    /// The job's machine. A redeploy begins with the one that its agent has.
    async fn vm(&self) -> Result<Vm, JobError> {
        let mut conn = self.app.db.acquire().await?;
        let vm = match (self.job.state.vm, self.job.agent_id) {
            (Some(id), _) => vms::get(&mut conn, id).await?,
            (None, Some(id)) => vms::machines_of(&mut conn, id).await?.into_iter().next(),
            (None, None) => None,
        };
        vm.ok_or_else(Self::lost_machine)
    }

    /// The agent as it is wanted now.
    async fn agent(&self) -> Result<Agent, JobError> {
        let id = self.job.agent_id.ok_or_else(Self::lost_machine)?;
        agents::store::get(&mut *self.app.db.acquire().await?, id).await?.ok_or_else(Self::lost_machine)
    }

    /// The key that the agent is to run on.
    async fn key(&self, agent: &Agent) -> Result<ModelKey, JobError> {
        let key = keys::of_agent(&mut *self.app.db.acquire().await?, &self.app.config, agent).await;
        key.map_err(|error| match error {
            KeyError::Database(error) => error.into(),
            KeyError::Undecryptable(error) => error.into(),
        })
    }

    /// Where the machine's SSH server is at this moment: ports move.
    async fn address(&self, vm: &Vm) -> Result<Option<Address>, JobError> {
        match &vm.machine {
            Machine::Host(place) => Ok(Some(place.ssh.clone())),
            Machine::Aleph(instance) => {
                let aleph = self.app.aleph.as_ref().ok_or_else(|| JobError::not_ours(CloudKind::Aleph))?;
                match aleph.execution(instance).await? {
                    Execution::Running { ssh } => Ok(ssh),
                    Execution::Absent | Execution::Booting | Execution::Failed(_) => Ok(None),
                }
            }
            Machine::Local(_) => Ok(None),
        }
    }

    /// A session on the machine, which must show the host key that it showed first.
    async fn session(&self, vm: &Vm) -> Result<Session, JobError> {
        let away = || {
            let source = anyhow::anyhow!("the machine has no address or no known host key");
            JobError::failed(super::verdict::Grade::Away, "its machine does not run", source)
        };
        let remote = self.remote(vm.machine.cloud())?;
        let host_key = vm.host_key.as_deref().ok_or_else(away)?;
        let address = self.address(vm).await.map_err(JobError::before_reaching)?.ok_or_else(away)?;
        let session = Session::connect(&remote.key, &address, host_key).await;
        session.map_err(|error| JobError::from(error).before_reaching())
    }
}
