//! Jobs as rows.
//!
//! Every write of a worker names its claim (replica and attempt) and must touch one row, else it no longer owns the job:
//! [`None`] here, and the worker lets go.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool, Row, postgres::PgRow};
use tracing::warn;
use uuid::Uuid;

pub use super::history::history;
use super::model::{Kind, Outcome, State, Step};
use super::verdict::MAX_RECLAIMS;
use crate::database::columns;
use crate::trace;

/// The right to work on a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job_id: Uuid,
    /// The replica that claimed it.
    pub replica_id: i64,
    /// Which claim of the job it is.
    pub attempt: i32,
}

/// A claimed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The right to work on it.
    pub claim: Claim,
    /// What it is to bring about.
    pub kind: Kind,
    /// For which agent; none where it is about a machine alone.
    pub agent_id: Option<i64>,
    /// The machine that it removes, if its kind is `retire`.
    pub vm_id: Option<Uuid>,
    /// What it is about to do.
    pub step: Step,
    /// What it has found so far.
    pub state: State,
    /// Failures in a row of this step.
    pub failures: i32,
    /// Replicas that died over it.
    pub reclaims: i32,
    /// Whether it is no longer wanted.
    pub cancel_requested: bool,
    /// The outbox row of the message that shows the steps.
    pub progress: Option<i64>,
    /// What led to it, for [`trace::follow`].
    pub trace_context: Option<String>,
}

macro_rules! job_columns {
    ($of:literal) => {
        columns!(
            $of: id, claimed_by, attempt, kind, agent_id, vm_id, step, state, failures, reclaims, cancel_requested, progress,
            trace_context
        )
    };
}

impl FromRow<'_, PgRow> for Job {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let Json(state) = row.try_get("state")?;
        Ok(Self {
            claim: Claim {
                job_id: row.try_get("id")?,
                replica_id: row.try_get("claimed_by")?,
                attempt: row.try_get("attempt")?,
            },
            kind: row.try_get("kind")?,
            agent_id: row.try_get("agent_id")?,
            vm_id: row.try_get("vm_id")?,
            step: row.try_get("step")?,
            state,
            failures: row.try_get("failures")?,
            reclaims: row.try_get("reclaims")?,
            cancel_requested: row.try_get("cancel_requested")?,
            progress: row.try_get("progress")?,
            trace_context: row.try_get("trace_context")?,
        })
    }
}

/// Puts an agent's job into the queue. An agent has at most one that is not done: a second is a unique violation.
pub async fn enqueue(conn: &mut PgConnection, kind: Kind, agent_id: i64, progress: Option<i64>) -> sqlx::Result<Uuid> {
    let id = Uuid::now_v7();
    sqlx::query("insert into jobs (id, kind, agent_id, step, progress, trace_context) values ($1, $2, $3, $4, $5, $6)")
        .bind(id)
        .bind(kind.as_str())
        .bind(agent_id)
        .bind(kind.first_step().as_str())
        .bind(progress)
        .bind(trace::here())
        .execute(conn)
        .await?;
    Ok(id)
}

/// The kind of the agent's job that is not done, if there is one.
pub async fn live(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<Option<Kind>> {
    sqlx::query_scalar("select kind from jobs where agent_id = $1 and not done")
        .bind(agent_id)
        .fetch_optional(conn)
        .await
}

/// Enqueues a job that makes a machine for the pool. Wake [`Queue::Jobs`](crate::wake::Queue) after the commit.
pub async fn enqueue_prepare(conn: &mut PgConnection) -> sqlx::Result<Uuid> {
    let id = Uuid::now_v7();
    sqlx::query("insert into jobs (id, kind, step, trace_context) values ($1, $2, $3, $4)")
        .bind(id)
        .bind(Kind::Prepare.as_str())
        .bind(Kind::Prepare.first_step().as_str())
        .bind(trace::here())
        .execute(conn)
        .await?;
    Ok(id)
}

/// Enqueues the job that removes this machine, unless one is live. Whoever calls has made the machine nobody's: see
/// [`retire`](crate::cloud::store::retire).
pub async fn enqueue_retire(conn: &mut PgConnection, vm_id: Uuid) -> sqlx::Result<()> {
    sqlx::query(
        "insert into jobs (id, kind, vm_id, step, trace_context) values ($1, $2, $3, $4, $5)
         on conflict (vm_id) where not done and vm_id is not null do nothing",
    )
    .bind(Uuid::now_v7())
    .bind(Kind::Retire.as_str())
    .bind(vm_id)
    .bind(Kind::Retire.first_step().as_str())
    .bind(trace::here())
    .execute(conn)
    .await?;
    Ok(())
}

/// Claims up to `limit` jobs whose time has come, of which at most `makers` make something, if the replica is registered.
pub async fn claim(conn: &mut PgConnection, replica_id: i64, limit: i64, makers: i64) -> sqlx::Result<Vec<Job>> {
    let rows = sqlx::query(concat!(
        "with making as materialized (
           select id from jobs
            where not done and claimed_by is null and run_at <= now() and step not in ('stop', 'remove', 'end')
              and exists (select from replicas where id = $1 and expires_at > now())
            order by run_at limit $3 for update skip locked),
         removing as materialized (
           select id from jobs
            where not done and claimed_by is null and run_at <= now() and step in ('stop', 'remove', 'end')
              and exists (select from replicas where id = $1 and expires_at > now())
            order by run_at limit $2 - (select count(*) from making) for update skip locked)
         update jobs j set claimed_by = $1, attempt = j.attempt + 1
          where j.id = any(array(select making.id from making union all select removing.id from removing))
         returning ",
        job_columns!("j.")
    ))
    .bind(replica_id)
    .bind(limit)
    .bind(makers.min(limit))
    .fetch_all(conn)
    .await?;
    // One by one: a job that a newer version wrote and this one cannot read must not take the others with it. It goes
    // back with the next check of what is in hand.
    let read = rows.iter().map(Job::from_row);
    Ok(read
        .filter_map(|job| job.inspect_err(|error| warn!(%error, "a job cannot be read by this version")).ok())
        .collect())
}

/// Gives back what is claimed in this replica's name but not in hand (see [`crate::slots`]).
pub async fn release_strays(db: &PgPool, replica_id: i64, held: &[Uuid]) -> sqlx::Result<u64> {
    let result = sqlx::query("update jobs set claimed_by = null where claimed_by = $1 and not done and id <> all($2)")
        .bind(replica_id)
        .bind(held)
        .execute(db)
        .await?;
    Ok(result.rows_affected())
}

/// The job as it stands, locked until the transaction ends, if the claim is still good.
pub async fn lock(conn: &mut PgConnection, claim: &Claim) -> sqlx::Result<Option<Job>> {
    sqlx::query_as(concat!(
        "select ",
        job_columns!(""),
        " from jobs where id = $1 and claimed_by = $2 and attempt = $3 and not done for update"
    ))
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .fetch_optional(conn)
    .await
}

/// Whether the job is no longer wanted, if the claim is still good.
pub async fn cancel_requested(conn: &mut PgConnection, claim: &Claim) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar(
        "select cancel_requested from jobs where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .fetch_optional(conn)
    .await
}

/// Saves where the job stands, out of the waiting list: `failures` is 0 after a step that succeeded.
pub async fn save(
    conn: &mut PgConnection,
    claim: &Claim,
    step: Step,
    state: &State,
    failures: i32,
) -> sqlx::Result<Option<()>> {
    let result = sqlx::query(
        "update jobs set step = $4, state = $5, failures = $6, error = case when $6 > 0 then error end, waiting_since = null
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .bind(step.as_str())
    .bind(Json(state))
    .bind(failures)
    .execute(conn)
    .await?;
    Ok((result.rows_affected() == 1).then_some(()))
}

/// Gives the job back until its next try, after a failure told in `error`.
pub async fn postpone(
    conn: &mut PgConnection,
    claim: &Claim,
    failures: i32,
    wait: Duration,
    error: &str,
) -> sqlx::Result<Option<()>> {
    let result = sqlx::query(
        "update jobs set claimed_by = null, failures = $4, error = $6,
                run_at = case when cancel_requested and step not in ('stop', 'remove', 'end') then now()
                              else now() + make_interval(secs => $5) end
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .bind(failures)
    .bind(wait.as_secs_f64())
    .bind(error)
    .execute(conn)
    .await?;
    Ok((result.rows_affected() == 1).then_some(()))
}

/// Gives the job back for another replica to go on with at once.
pub async fn hand_back(conn: &mut PgConnection, claim: &Claim) -> sqlx::Result<Option<()>> {
    let result = sqlx::query(
        "update jobs set claimed_by = null where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .execute(conn)
    .await?;
    Ok((result.rows_affected() == 1).then_some(()))
}

/// Ends the job.
pub async fn end(
    conn: &mut PgConnection,
    claim: &Claim,
    outcome: Outcome,
    error: Option<&str>,
) -> sqlx::Result<Option<()>> {
    let result = sqlx::query(
        "update jobs set done = true, claimed_by = null, outcome = $4, error = $5, ended_at = now()
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .bind(outcome.as_str())
    .bind(error)
    .execute(conn)
    .await?;
    Ok((result.rows_affected() == 1).then_some(()))
}

/// Asks the agent's job, if one is not done, to undo what it made; one that waits for its next try does it now.
pub async fn request_cancel(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update jobs set cancel_requested = true, run_at = least(run_at, now()) where agent_id = $1 and not done",
    )
    .bind(agent_id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() > 0)
}

/// Frees the jobs that unregistered replicas had claimed; the next claimant goes on at the saved step. One over which
/// many replicas died waits a while first: it may be what kills them.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        // What is locked at the moment is left to the next round.
        "with lost as materialized (
           select j.id from jobs j where not j.done and j.claimed_by is not null
              and not exists (select from replicas r where r.id = j.claimed_by) for update of j skip locked)
         update jobs j set claimed_by = null, reclaims = j.reclaims + 1,
                run_at = case when j.reclaims >= $1 then now() + interval '1 min' else j.run_at end
           from lost where j.id = lost.id",
    )
    .bind(MAX_RECLAIMS)
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
