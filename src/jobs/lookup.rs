//! Jobs as operators look at them. Only looked at: nothing is locked.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::history::Tried;

/// A job's row. Kinds, steps and outcomes are the words of the database: a replica of another version may have written ones
/// that this one does not know.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Entry {
    /// The job.
    pub id: Uuid,
    /// What it is to bring about.
    pub kind: String,
    /// For which agent; none where it is about a machine alone.
    pub agent_id: Option<i64>,
    /// The machine that it works at, once there is one.
    pub vm_id: Option<Uuid>,
    /// The step that it is at, or ended at.
    pub step: String,
    /// How it ended; none while it is live.
    pub outcome: Option<String>,
    /// The replica that works at it.
    pub claimed_by: Option<i64>,
    /// Failures in a row of this step.
    pub failures: i32,
    /// Replicas that died over it.
    pub reclaims: i32,
    /// Whether it is no longer wanted.
    pub cancel_requested: bool,
    /// When it is due, if nobody works at it.
    pub run_at: DateTime<Utc>,
    /// Its place in the line of those that wait for a machine, from 1.
    pub place: Option<i64>,
    /// Why it failed, or why its step is being tried again, in words for the owner.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Which jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// `live`, `running`, `waiting`, `done`, or how it ended: `succeeded`, `failed`, `cancelled`.
    pub state: Option<&'a str>,
    /// `jobs.kind`.
    pub kind: Option<&'a str>,
    /// Of this agent.
    pub agent_id: Option<i64>,
}

macro_rules! entry {
    () => {
        "select j.id, j.kind, j.agent_id, coalesce(j.vm_id, (j.state ->> 'vm')::uuid) as vm_id, j.step, j.outcome, j.claimed_by,
                j.failures, j.reclaims, j.cancel_requested, j.run_at, j.error, j.created_at, j.ended_at,
                case when not j.done and j.waiting_since is not null then
                  (select 1 + count(*) from jobs w where not w.done and w.waiting_since is not null and not w.cancel_requested
                      and (w.waiting_since, w.id) < (j.waiting_since, j.id)) end as place
           from jobs j "
    };
}

/// Jobs, newest first (ids grow with time): at most `limit` with an id below `before`.
pub async fn list(
    conn: &mut PgConnection,
    filter: Filter<'_>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Entry>> {
    sqlx::query_as(concat!(
        entry!(),
        "where ($1::uuid is null or j.id < $1) and ($2::text is null or j.kind = $2) and ($3::int8 is null or j.agent_id = $3)
           and case $4::text when 'live' then not j.done when 'running' then not j.done and j.claimed_by is not null
                             when 'waiting' then not j.done and j.claimed_by is null when 'done' then j.done
                             else $4 is null or j.outcome = $4 end
         order by j.id desc limit $5"
    ))
    .bind(before)
    .bind(filter.kind)
    .bind(filter.agent_id)
    .bind(filter.state)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// One job.
pub async fn get(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Entry>> {
    sqlx::query_as(concat!(entry!(), "where j.id = $1")).bind(id).fetch_optional(conn).await
}

/// Every try of every step of this job, oldest first.
pub async fn tries(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<Vec<Tried>> {
    sqlx::query_as("select step, vm_id, started_at, ended_at, error from job_steps where job_id = $1 order by position")
        .bind(id)
        .fetch_all(conn)
        .await
}
