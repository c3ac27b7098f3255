//! Setting a machine up, and putting the agent there.
//!
//! Everything is idempotent on the machine, so a kill in the middle is mended by doing it again. What is written of an agent
//! is written only after the row says that it may be (`touched`), and which version and which key it is.

use std::time::Duration;

use tokio::time::timeout;

use super::{Done, Effect, local};
use crate::agents::Agent;
use crate::agents::config::agent_config;
use crate::agents::keys::ModelKey;
use crate::cloud::store::Vm;
use crate::install::{InstallError, on_machine};
use crate::jobs::error::JobError;
use crate::jobs::model::{State, Step};
use crate::jobs::turn::Turn;
use crate::ssh::Command;

/// How long a new machine may take to be prepared, over all tries.
const PREPARED_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Everything on the machine that does not depend on the agent.
pub async fn prepare(turn: &Turn<'_>) -> Result<Done, JobError> {
    let vm = turn.vm().await?;
    let name = vm.name.as_deref().ok_or_else(Turn::lost_machine)?;
    let kit = &turn.remote(vm.machine.cloud())?.kit;
    let work = async {
        let mut session = turn.session(&vm).await?;
        kit.wait_for_first_boot(&mut session).await?;
        kit.prepare(&mut session, vm.id, name).await.map_err(|error| graded(turn, error))?;
        session.close().await;
        Ok::<_, JobError>(())
    };
    if !turn.job.state.fresh {
        turn.while_wanted(work).await??;
        return Ok(turn.on(&vm));
    }
    // One that stalls must not hold up a job for hours: each command has a deadline, but there are many.
    let left = turn.wait(None, PREPARED_WITHIN).await?.left();
    let late = |source| Err(JobError::machine("it took too long to set its machine up", source));
    turn.while_wanted(async { timeout(left, work).await.unwrap_or_else(late) }).await??;
    Ok(turn.on(&vm))
}

/// The agent's program and configuration.
pub async fn install(turn: &Turn<'_>) -> Result<Done, JobError> {
    let (vm, agent) = (turn.vm().await?, turn.agent().await?);
    let wanted = agent.wanted_version;
    if agent.is_pythons() && turn.job.state.restoring == Some(wanted) {
        return give_back(turn, &agent, &vm).await;
    }
    let key = turn.key(&agent).await?;
    let known = State { vm: Some(vm.id), version: Some(wanted), key: Some(key.version), ..turn.job.state.clone() };
    // Something else is wanted by now than what it was going back to.
    let known = match known.restoring {
        Some(version) if version != wanted => State { restoring: None, restored: None, ..known },
        _ => known,
    };
    if known != turn.job.state || !vm.touched {
        return Ok(Done { next: Step::Install, state: known, effect: Effect::Touched(vm.id) });
    }
    if !known.fresh && !known.reached {
        // Until here nothing was changed, and a machine that cannot be reached runs as ever.
        let empty = vm.local().is_none() && turn.while_wanted(is_empty(turn, &agent, &vm)).await??;
        let memory_lost = known.memory_lost || (empty && agent.deployed_version > 0);
        let state = State { reached: true, memory_lost, ..known };
        return Ok(Done { next: Step::Install, state, effect: Effect::Nothing });
    }
    match vm.local() {
        Some(place) => {
            let empty = local::install(turn, &agent, &key, &place).await?;
            let memory_lost = empty && !known.fresh;
            let state = State { memory_lost: known.memory_lost || memory_lost, ..known };
            return Ok(Done { next: turn.after(&vm, Step::Install), state, effect: Effect::Nothing });
        }
        None => turn.while_wanted(remotely(turn, &agent, &key, &vm)).await??,
    }
    Ok(turn.on(&vm))
}

/// Whether nothing that an agent remembers is on the machine: a node may have brought it up with an empty disk.
async fn is_empty(turn: &Turn<'_>, agent: &Agent, vm: &Vm) -> Result<bool, JobError> {
    // Where `on_machine` puts it, and where the Python system's agent has it.
    let ours = "if [ -e /var/lib/baal-agent/agent.db ]; then echo there; else echo nowhere; fi";
    let either =
        "if [ -e /var/lib/baal-agent/agent.db ] || [ -e /opt/baal-agent/app ]; then echo there; else echo nowhere; fi";
    let command = Command {
        what: "looking for the agent's memory",
        script: if agent.is_pythons() { either } else { ours }.into(),
        input: Vec::new(),
        secrets: Vec::new(),
        limit: Duration::from_secs(20),
    };
    let mut session = turn.session(vm).await?;
    let said = session.run(&command).await.map_err(|error| JobError::from(error).before_reaching())?;
    session.close().await;
    Ok(said.stdout.trim() == "nowhere")
}

async fn remotely(turn: &Turn<'_>, agent: &Agent, key: &ModelKey, vm: &Vm) -> Result<(), JobError> {
    let kit = &turn.remote(vm.machine.cloud())?.kit;
    let config = on_machine(agent_config(&turn.app.config, agent, key)?);
    let mut session = turn.session(vm).await?;
    let installed = match agent.is_pythons() {
        true => kit.take_over(&mut session, vm.id, &config).await,
        false => kit.install(&mut session, vm.id, &config).await,
    };
    installed.map_err(|error| graded(turn, error))?;
    session.close().await;
    Ok(())
}

/// What was wanted did not work, and the Python system's agent is still the one that counts: it is started again, as it was.
async fn give_back(turn: &Turn<'_>, agent: &Agent, vm: &Vm) -> Result<Done, JobError> {
    let kit = &turn.remote(vm.machine.cloud())?.kit;
    let given_back = async {
        let mut session = turn.session(vm).await?;
        kit.give_back(&mut session, vm.id).await?;
        session.close().await;
        Ok::<_, JobError>(())
    };
    turn.while_wanted(given_back).await??;
    let state = State {
        vm: Some(vm.id),
        version: Some(agent.wanted_version),
        key: Some(agent.deployed_key),
        ..turn.job.state.clone()
    };
    Ok(Done { next: turn.after(vm, Step::Install), state, effect: Effect::Nothing })
}

/// A new machine that turns out to be another's is its node's fault; an agent's own was exchanged.
fn graded(turn: &Turn<'_>, error: InstallError) -> JobError {
    match error {
        InstallError::Foreign if turn.job.state.fresh => {
            JobError::machine("its machine turned out to be another one's, so nothing was changed there", error)
        }
        error => error.into(),
    }
}
