//! What may be done with an agent that is there already: other words, the present program, repair. Part of
//! [`service`](super::service), by whose rules these go.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::external;
use super::keys;
use super::model::{Agent, Status};
use super::service::{ServiceError, owned_by};
use super::standing::{self, Standing};
use super::store;
use super::validate::{validate_model, validate_name, validate_prompt};
use crate::app::App;
use crate::cloud::places;
use crate::cloud::store::{self as vms, Machine};
use crate::jobs;
use crate::jobs::model::Kind;

/// What is to be different about an agent; what is none stays.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// See [`validate_name`].
    pub name: Option<String>,
    /// See [`validate_prompt`].
    pub system_prompt: Option<String>,
    /// One of MODELS.
    pub model: Option<String>,
}

/// A change that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// As it is wanted now.
    pub agent: Agent,
    /// What brings it about.
    pub taken_up: TakenUp,
}

/// What brings a change about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenUp {
    /// A job that was started for it, with a message that shows its progress.
    ByNewJob,
    /// Nothing: its machine is none of ours, and what changed is only in its row.
    AtOnce,
    /// The job under way, which sees at its end that something else is wanted by now. With what it is doing, after
    /// "Ada is".
    ByLiveJob(String),
    /// Nothing yet: the agent does not run, or is being cleared away after a failure. Its repair will.
    ByRepair,
    /// Nothing yet: operators have stopped the agent. Starting it will.
    ByStart,
}

/// Changes an agent. Changes that come quickly one after another end with the last.
pub async fn change(
    conn: &mut PgConnection,
    app: &App,
    owner_id: i64,
    id: i64,
    change: Change,
) -> Result<Changed, ServiceError> {
    let name = change.name.as_deref().map(validate_name).transpose()?;
    let prompt = change.system_prompt.as_deref().map(validate_prompt).transpose()?;
    let model = change.model.as_deref().map(|model| validate_model(&app.config.models, model)).transpose()?;
    let agent = locked(conn, owner_id, id).await?;
    if agent.external {
        return external::change(conn, agent, (name, prompt, model)).await;
    }
    want(conn, &agent, (name.as_ref(), prompt.as_ref(), model.as_ref())).await
}

/// Puts the present program and configuration in place, by a new version of the same words. An agent of the Python system, on whose
/// machine that system's program runs until something is changed about it, becomes one of ours.
pub async fn update(conn: &mut PgConnection, _app: &App, owner_id: i64, id: i64) -> Result<Changed, ServiceError> {
    let agent = locked(conn, owner_id, id).await?;
    external::refuse_machine_work(&agent, "updated")?;
    not_stopped(&agent)?;
    if agent.status == Status::Failed {
        return Err(ServiceError::Conflict {
            message: format!(
                "{} isn't running, so there is nothing to update. /repair {id} brings it to life, with the newest program.",
                agent.name
            ),
        });
    }
    want(conn, &agent, (None, None, None)).await
}

/// Makes the agent ready again from whatever is left of it, with a new message that shows the progress. What it
/// remembers is kept, unless its machine is certainly gone.
///
/// Until then it is as one that is being set up: no message reaches it, and its senders are told so.
pub async fn repair(conn: &mut PgConnection, _app: &App, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let mut agent = locked(conn, owner_id, id).await?;
    external::refuse_machine_work(&agent, "repaired")?;
    not_stopped(&agent)?;
    if let Some(live) = standing::of_one(conn, id).await?.live {
        return Err(ServiceError::Conflict {
            message: format!("{} is {} at the moment. Please wait for that to end.", agent.name, live.doing()),
        });
    }
    // One that never ran and is nowhere is set up like a new one.
    let never = agent.deployed_version == 0 && !store::has_machine(conn, id).await?;
    begin(conn, &mut agent, if never { Kind::Provision } else { Kind::Repair }).await?;
    Ok(agent)
}

/// Gives a failed agent another machine, though it has one that may hold what it remembers: that one is removed, with all
/// that is on it. Only ever at its owner's word. A new message shows the progress.
pub async fn begin_anew(conn: &mut PgConnection, app: &App, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let mut agent = locked(conn, owner_id, id).await?;
    external::refuse_machine_work(&agent, "set up anew")?;
    not_stopped(&agent)?;
    if let Some(live) = standing::of_one(conn, id).await?.live {
        return Err(ServiceError::Conflict {
            message: format!("{} is {} at the moment. Please wait for that to end.", agent.name, live.doing()),
        });
    }
    if agent.status != Status::Failed {
        return Err(ServiceError::Conflict {
            message: format!(
                "{} is running, so nothing was thrown away. /repair {id} mends it and keeps what it remembers.",
                agent.name
            ),
        });
    }
    for vm in vms::machines_of(conn, id).await? {
        vms::retire(conn, vm.id).await?;
        if let Machine::Aleph(instance) = &vm.machine
            && !instance.crn.hash.is_empty()
        {
            let reason = "an owner gave up a machine there that could not be mended";
            places::avoid(conn, &instance.crn.hash, app.config.crn_avoid, reason).await?;
        }
    }
    store::set_undeployed(conn, id).await?;
    agent.deployed_version = 0;
    begin(conn, &mut agent, Kind::Provision).await?;
    Ok(agent)
}

/// Tries once more to make a failed agent ready, with a new message that shows the progress.
pub async fn retry(conn: &mut PgConnection, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let mut agent = owned_by(owner_id, store::lock(conn, id).await?)?;
    external::refuse_machine_work(&agent, "set up anew")?;
    not_stopped(&agent)?;
    if agent.status != Status::Failed {
        return Err(ServiceError::Conflict {
            message: match agent.status {
                Status::Running => format!("{} is running already. Press Chat under /list to talk to it.", agent.name),
                status => format!("{} is {status}. Please wait for that to end.", agent.name),
            },
        });
    }
    // A provision that fails takes everything away again. What a failed repair left holds what the agent remembers.
    let kind = if store::has_machine(conn, id).await? { Kind::Repair } else { Kind::Provision };
    begin(conn, &mut agent, kind).await?;
    Ok(agent)
}

/// How these agents are getting on, by number; whose they are is the caller's to check.
pub async fn standings(conn: &mut PgConnection, agents: &[Agent]) -> Result<HashMap<i64, Standing>, ServiceError> {
    let ids: Vec<i64> = agents.iter().map(|agent| agent.id).collect();
    Ok(standing::of(conn, &ids).await?)
}

/// How this agent is getting on; whose it is is the caller's to check.
pub async fn standing(conn: &mut PgConnection, agent: &Agent) -> Result<Standing, ServiceError> {
    Ok(standing::of_one(conn, agent.id).await?)
}

/// The user's agent, locked, unless somebody is deleting it.
pub(super) async fn locked(conn: &mut PgConnection, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let agent = owned_by(owner_id, store::lock(conn, id).await?)?;
    match agent.status {
        Status::Deleting => {
            Err(ServiceError::Conflict { message: format!("{} is being deleted; nothing can be changed.", agent.name) })
        }
        _ => Ok(agent),
    }
}

/// Writes a new version down and sees to it that a job takes it up. The agent is locked, as it is by whatever ends its
/// jobs: a job that is under way here has not yet looked for the last time whether something else is wanted.
async fn want(
    conn: &mut PgConnection,
    agent: &Agent,
    (name, prompt, model): (Option<&String>, Option<&String>, Option<&String>),
) -> Result<Changed, ServiceError> {
    let (name, prompt) = (name.unwrap_or(&agent.name), prompt.unwrap_or(&agent.system_prompt));
    let agent = store::want(conn, agent.id, name, prompt, model.unwrap_or(&agent.model)).await?;
    let live = standing::of_one(conn, agent.id).await?.live;
    let taken_up = match (live, agent.status) {
        // What takes away looks at nothing that is wanted.
        (Some(live), _) if live.is_undoing() => TakenUp::ByRepair,
        (Some(live), _) if live.is_stopping() => TakenUp::ByStart,
        (Some(live), _) => TakenUp::ByLiveJob(live.doing()),
        (None, Status::Running) => {
            jobs::start(conn, Kind::to_change(&agent), &agent).await?;
            TakenUp::ByNewJob
        }
        (None, Status::Stopped) => TakenUp::ByStart,
        (None, _) => TakenUp::ByRepair,
    };
    Ok(Changed { agent, taken_up })
}

/// Has all agents of the user run on the key that is connected, or on the operator's where none is: those that run are
/// deployed anew, without messages of their own, the others with their repair. How many were not on it.
pub async fn rekey(conn: &mut PgConnection, owner_id: i64) -> sqlx::Result<usize> {
    store::lock_owner(conn, owner_id).await?;
    let version = keys::connected(conn, owner_id).await?.map_or(0, |own| own.version);
    let mut behind = 0;
    for agent in store::owned(conn, owner_id).await? {
        let Some(agent) = store::lock(conn, agent.id).await? else { continue };
        // Which key an agent has that runs elsewhere is not for us to say.
        let gone = agent.external || matches!(agent.status, Status::Deleting | Status::Deleted);
        let there = agent.deployed_key == version && (version != 0 || !agent.may_hold_key);
        if gone || (agent.wanted_key == version && there) {
            continue;
        }
        keys::want(conn, agent.id, version).await?;
        // A job that is under way sees by the version that something else is wanted.
        store::want(conn, agent.id, &agent.name, &agent.system_prompt, &agent.model).await?;
        let live = standing::of_one(conn, agent.id).await?.live;
        if live.is_none() && agent.status == Status::Running {
            jobs::store::enqueue(conn, Kind::to_change(&agent), agent.id, None).await?;
        }
        behind += 1;
    }
    Ok(behind)
}

/// An agent that operators have stopped is not brought to life by anybody but them.
fn not_stopped(agent: &Agent) -> Result<(), ServiceError> {
    if agent.status != Status::Stopped {
        return Ok(());
    }
    Err(ServiceError::Conflict {
        message: format!("{} was stopped by the people who run this bot. They have to start it first.", agent.name),
    })
}

pub(super) async fn begin(conn: &mut PgConnection, agent: &mut Agent, kind: Kind) -> sqlx::Result<()> {
    store::set_provisioning(conn, agent.id).await?;
    (agent.status, agent.url) = (Status::Provisioning, None);
    jobs::start(conn, kind, agent).await
}
