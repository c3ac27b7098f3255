//! What operators may do about jobs.

use sqlx::PgConnection;
use uuid::Uuid;

use super::lookup::{self, Entry};
use super::model::{Kind, Step};
use crate::agents::service::{self, ServiceError};
use crate::agents::{self, Status};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// There is no such job (any more).
    #[error("There is no job {0}.")]
    Unknown(Uuid),
    /// Not in its present state; the text is the whole sentence.
    #[error("{0}")]
    Refused(String),
    /// The agent's.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<sqlx::Error> for SteerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Service(error.into())
    }
}

/// What came of a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It waited for its next try, which is due now.
    Hurried,
    /// It had failed: this job begins anew.
    Begun(Uuid),
}

/// Locks the job's row until the transaction ends, after its agent's, as everybody does. Jobs as they stood before.
async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<(Entry, Option<agents::Agent>), SteerError> {
    let unknown = || SteerError::Unknown(id);
    let agent_id = lookup::get(conn, id).await?.ok_or_else(unknown)?.agent_id;
    let agent = match agent_id {
        Some(id) => agents::store::lock(conn, id).await?,
        None => None,
    };
    sqlx::query("select from jobs where id = $1 for no key update").bind(id).fetch_optional(&mut *conn).await?;
    Ok((lookup::get(conn, id).await?.ok_or_else(unknown)?, agent))
}

/// Tries once more: a job that waits for its next try does it now; after one that failed its agent gets another. Wake
/// [`Queue::Jobs`](crate::wake::Queue) and [`Queue::Outbox`](crate::wake::Queue) after the commit.
pub async fn retry(conn: &mut PgConnection, id: Uuid) -> Result<(Entry, Retried), SteerError> {
    let (job, agent) = lock(conn, id).await?;
    let refused = |why: String| Err(SteerError::Refused(why));
    match (job.outcome.as_deref(), job.claimed_by) {
        (None, Some(_)) => refused("It is being worked at; there is nothing to hurry.".into()),
        (None, None) => {
            sqlx::query("update jobs set run_at = least(run_at, now()) where id = $1").bind(id).execute(conn).await?;
            Ok((job, Retried::Hurried))
        }
        (Some("failed" | "cancelled"), _) => {
            let Some(agent) = agent else {
                return refused("The pool makes its machines by itself; there is nothing to retry.".into());
            };
            if agent.status != Status::Failed {
                return refused(format!("Agent {} is {}: it is not to be set up again.", agent.id, agent.status));
            }
            service::retry(conn, agent.owner_id, agent.id).await?;
            let begun = sqlx::query_scalar("select id from jobs where agent_id = $1 and not done")
                .bind(agent.id)
                .fetch_one(conn)
                .await?;
            Ok((job, Retried::Begun(begun)))
        }
        (Some(outcome), _) => refused(format!("It has {outcome}; there is nothing to retry.")),
    }
}

/// Asks a job to end: what it set up is removed again, what was there before it is left as it is. What removes something
/// cannot be cancelled, nor a stop that is done: an agent whose stop is cancelled before is put in order by a redeploy. Wake [`Queue::Jobs`](crate::wake::Queue) after the commit.
pub async fn cancel(conn: &mut PgConnection, id: Uuid) -> Result<Entry, SteerError> {
    let (job, _) = lock(conn, id).await?;
    let refused = |why: &str| Err(SteerError::Refused(why.into()));
    if job.outcome.is_some() {
        return refused("It is over; there is nothing to cancel.");
    }
    let takes_away = [Kind::Deprovision, Kind::Retire].iter().any(|kind| kind.as_str() == job.kind);
    if takes_away || ["stop", "remove", "end"].contains(&job.step.as_str()) {
        return refused("It is removing something, which is done to its end.");
    }
    if job.step == Step::Rest.as_str() {
        return refused("It has stopped the agent already; start it, and it runs again.");
    }
    sqlx::query("update jobs set cancel_requested = true, run_at = least(run_at, now()) where id = $1")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(job)
}
