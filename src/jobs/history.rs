//! What was tried, when, and what came of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

/// A try of a step that is over.
#[derive(Debug, Clone)]
pub struct Try<'a> {
    /// Of which job.
    pub job_id: Uuid,
    /// The step's word; kept as it is, for versions know different ones.
    pub step: &'static str,
    /// The machine that it worked at.
    pub vm: Option<Uuid>,
    /// How long it took.
    pub took: Duration,
    /// Why it did not succeed, in words for the owner.
    pub error: Option<&'a str>,
}

/// Writes it down, within the transaction that saves or postpones.
pub async fn record(conn: &mut PgConnection, tried: &Try<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into job_steps (job_id, step, vm_id, started_at, ended_at, error)
         values ($1, $2, $3, clock_timestamp() - make_interval(secs => $4), clock_timestamp(), $5)",
    )
    .bind(tried.job_id)
    .bind(tried.step)
    .bind(tried.vm)
    .bind(tried.took.as_secs_f64())
    .bind(tried.error)
    .execute(conn)
    .await?;
    Ok(())
}

/// A job as its history tells it. Kinds, steps and outcomes are the words of the database: a replica of another version may
/// have written ones that this one does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
#[schema(as = Deployment)]
pub struct Past {
    /// The job.
    pub id: Uuid,
    /// What it was to bring about.
    #[schema(example = "provision")]
    pub kind: String,
    /// The step that it is at, or ended at.
    #[schema(example = "finish")]
    pub step: String,
    /// How it ended; none while it is live.
    #[schema(example = "succeeded")]
    pub outcome: Option<String>,
    /// Why it failed, or why its step is being tried again, in words for the owner.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Every try of every step, oldest first.
    #[sqlx(json)]
    pub steps: Vec<Tried>,
}

/// A try of a step, as the history tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, FromRow, ToSchema)]
#[schema(as = Attempt)]
pub struct Tried {
    /// What was tried.
    #[schema(example = "install")]
    pub step: String,
    /// The machine that it was tried at.
    pub vm_id: Option<Uuid>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
    /// Why it did not succeed, in words for the owner.
    pub error: Option<String>,
}

/// The agent's last `limit` jobs, newest first.
pub async fn history(conn: &mut PgConnection, agent_id: i64, limit: i64) -> sqlx::Result<Vec<Past>> {
    older(conn, agent_id, None, limit).await
}

/// The same of those that were asked for before this one.
pub async fn older(
    conn: &mut PgConnection,
    agent_id: i64,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Past>> {
    sqlx::query_as(
        "select j.id, j.kind, j.step, j.outcome, j.error, j.created_at, j.ended_at,
                coalesce((select jsonb_agg(jsonb_build_object('step', s.step, 'vm_id', s.vm_id, 'started_at', s.started_at,
                                                              'ended_at', s.ended_at, 'error', s.error) order by s.position)
                            from job_steps s where s.job_id = j.id), '[]') as steps
           from jobs j where j.agent_id = $1
            and ($2::uuid is null
                 or (j.created_at, j.id) < (select b.created_at, b.id from jobs b where b.id = $2 and b.agent_id = $1))
          order by j.created_at desc, j.id desc limit $3",
    )
    .bind(agent_id)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
}
