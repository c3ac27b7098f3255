//! Agents as processes of this host.
//!
//! Killed anywhere, the next claimant finds the directory by the row, and whether an agent runs there by its lock.

use super::{Done, Effect};
use crate::agents::Agent;
use crate::cloud::local::{self, LocalError, Site};
use crate::cloud::store::LocalVm;
use crate::jobs::error::JobError;
use crate::jobs::model::Step;
use crate::jobs::turn::Turn;

/// Writes the agent's configuration, after stopping the agent if one runs. Whether nothing that it remembers is there.
pub async fn install(turn: &Turn<'_>, agent: &Agent, vm: &LocalVm) -> Result<bool, JobError> {
    let site = Site::of(vm)?;
    local::program(&turn.app.config)?;
    let config = local::agent_config(&turn.app.config, agent, &site, vm.port)?;
    site.install(&config).await?;
    Ok(!config.db_path.exists())
}

/// Starts it.
pub async fn start(turn: &Turn<'_>) -> Result<Done, JobError> {
    let (vm, agent) = (turn.vm().await?, turn.agent().await?);
    let Some(place) = vm.local() else { return Ok(turn.on(&vm)) };
    match ensure_started(turn, &agent, &place).await? {
        None => Ok(turn.on(&vm)),
        Some(moved) => Ok(turn.to(Step::Install, Effect::Moved(moved))),
    }
}

/// Starts the agent if it does not run. If its port was taken by another program it is not started, and gets the port
/// that is returned.
pub async fn ensure_started(turn: &Turn<'_>, agent: &Agent, vm: &LocalVm) -> Result<Option<LocalVm>, JobError> {
    let site = Site::of(vm)?;
    let program = local::program(&turn.app.config)?;
    let config = local::agent_config(&turn.app.config, agent, &site, vm.port)?;
    match site.start(&program, &config).await {
        Ok(()) => Ok(None),
        Err(LocalError::PortTaken(_)) => {
            let port = local::free_port()
                .map_err(|error| JobError::retry("the server has no room for it at the moment", error))?;
            Ok(Some(LocalVm { port, ..vm.clone() }))
        }
        Err(error) => Err(error.into()),
    }
}
