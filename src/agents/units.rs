//! Stopping an agent's program for a while, and starting it again: what operators do. Part of [`service`](super::service), by
//! whose rules these go.
//!
//! Its machine stays, with all that the agent remembers, and is paid for as before. Until it is started nothing else is done
//! with the agent but deleting it and writing down what is wanted of it.

use sqlx::PgConnection;

use super::model::{Agent, Status};
use super::service::{ServiceError, get_owned};
use super::{external, standing, store, upkeep};
use crate::jobs;
use crate::jobs::model::Kind;

fn conflict<T>(message: String) -> Result<T, ServiceError> {
    Err(ServiceError::Conflict { message })
}

/// Has the program of a running agent stopped; its owner is told once it is.
pub async fn stop(conn: &mut PgConnection, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let agent = idle(conn, owner_id, id, "stopped").await?;
    match agent.status {
        Status::Running if agent.is_pythons() => {
            return conflict(format!(
                "{} still runs the program of the Python system, which can't be stopped from here. Update it first: /update {id}",
                agent.name
            ));
        }
        Status::Running => {}
        Status::Stopped => return conflict(format!("{} is stopped already.", agent.name)),
        status => return conflict(format!("{} is {status}, so there is nothing to stop.", agent.name)),
    }
    jobs::start(conn, Kind::Stop, &agent).await?;
    Ok(agent)
}

/// Has the program of a stopped agent started, as the agent is wanted now.
pub async fn start(conn: &mut PgConnection, owner_id: i64, id: i64) -> Result<Agent, ServiceError> {
    let mut agent = idle(conn, owner_id, id, "started").await?;
    match agent.status {
        Status::Stopped => {}
        Status::Running => return conflict(format!("{} is running already.", agent.name)),
        Status::Failed => {
            return conflict(format!("{} failed and was not stopped: repair it, and it runs again.", agent.name));
        }
        status => return conflict(format!("{} is {status}, so it cannot be started.", agent.name)),
    }
    upkeep::begin(conn, &mut agent, Kind::Start).await?;
    Ok(agent)
}

/// The agent, locked, if no job works at it and it has a machine of ours.
async fn idle(conn: &mut PgConnection, owner_id: i64, id: i64, done: &str) -> Result<Agent, ServiceError> {
    get_owned(conn, owner_id, id).await?;
    let agent = upkeep::locked(conn, owner_id, id).await?;
    external::refuse_machine_work(&agent, done)?;
    if let Some(live) = standing::of_one(conn, id).await?.live {
        return conflict(format!("{} is {} at the moment. Please wait for that to end.", agent.name, live.doing()));
    }
    if matches!(agent.status, Status::Running | Status::Stopped) && !store::has_machine(conn, id).await? {
        return conflict(format!("{} has no machine, so there is nothing that could be {done}.", agent.name));
    }
    Ok(agent)
}
