//! Agents as processes of this host.
//!
//! Killed anywhere, the next claimant finds the directory by the row, and whether an agent runs there by its lock.

use super::{Done, Effect};
use crate::agents::Agent;
use crate::agents::keys::ModelKey;
use crate::cloud::local::{self, LocalError, Site};
use crate::cloud::store::LocalVm;
use crate::jobs::error::JobError;
use crate::jobs::model::Step;
use crate::jobs::turn::Turn;

/// Writes the agent's configuration, after stopping the agent if one runs. Whether nothing that it remembers is there.
pub async fn install(turn: &Turn<'_>, agent: &Agent, key: &ModelKey, vm: &LocalVm) -> Result<bool, JobError> {
    let site = Site::of(vm)?;
    local::program(&turn.app.config)?;
    let config = local::agent_config(&turn.app.config, agent, key, &site, vm.port)?;
    site.install(&config).await?;
    Ok(!config.db_path.exists())
}

/// Starts it.
pub async fn start(turn: &Turn<'_>) -> Result<Done, JobError> {
    let (vm, agent) = (turn.vm().await?, turn.agent().await?);
    let Some(place) = vm.local() else { return Ok(turn.on(&vm)) };
    match ensure_started(turn, &agent, &place).await? {
        Started::Running => Ok(turn.on(&vm)),
        Started::Outdated => Ok(turn.to(Step::Install, Effect::Nothing)),
        Started::Moved(moved) => Ok(turn.to(Step::Install, Effect::Moved(moved))),
    }
}

/// What came of starting an agent.
pub enum Started {
    /// It runs.
    Running,
    /// It does not: it is to run on another key than the one that was installed.
    Outdated,
    /// It does not: its port was taken by another program, and it gets this one.
    Moved(LocalVm),
}

/// Starts the agent if it does not run.
pub async fn ensure_started(turn: &Turn<'_>, agent: &Agent, vm: &LocalVm) -> Result<Started, JobError> {
    // Starting writes the configuration anew.
    let key = turn.key(agent).await?;
    if turn.job.state.key.unwrap_or(0) != key.version {
        return Ok(Started::Outdated);
    }
    let site = Site::of(vm)?;
    let program = local::program(&turn.app.config)?;
    let config = local::agent_config(&turn.app.config, agent, &key, &site, vm.port)?;
    match site.start(&program, &config).await {
        Ok(()) => Ok(Started::Running),
        Err(LocalError::PortTaken(_)) => {
            let port = local::free_port()
                .map_err(|error| JobError::retry("the server has no room for it at the moment", error))?;
            Ok(Started::Moved(LocalVm { port, ..vm.clone() }))
        }
        Err(error) => Err(error.into()),
    }
}
