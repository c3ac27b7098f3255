//! `/jobs`: long work.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::Server;
use super::extract::{List, Page, Path, Query};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::agents;
use crate::database;
use crate::jobs::history::Tried;
use crate::jobs::lookup::{self, Entry};
use crate::jobs::model::Kind;
use crate::jobs::steering::{self, Retried, SteerError};
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(retry)).routes(routes!(cancel))
}

/// Which jobs, by how they stand.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum JobFilter {
    /// Not over.
    Live,
    /// Being worked at.
    Running,
    /// For the next try, or for a machine.
    Waiting,
    /// Over, however they ended.
    Done,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobFilter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    before: Option<Uuid>,
    /// How they stand.
    #[param(inline)]
    state: Option<JobFilter>,
    /// What they are to bring about.
    #[param(inline)]
    kind: Option<Kind>,
    /// Of this agent.
    #[param(example = 42)]
    agent_id: Option<i64>,
}

/// A job: long work in steps, of which each is tried until it succeeds or the job fails.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Job {
    id: Uuid,
    /// What it is to bring about.
    #[schema(example = "provision")]
    kind: String,
    /// `running` (a replica works at it), `waiting`, `succeeded`, `failed` or `cancelled`.
    #[schema(example = "running")]
    state: String,
    /// For which agent; null: it is about a machine of the pool.
    #[schema(example = 42)]
    agent_id: Option<i64>,
    /// The machine that it works at, once there is one.
    vm_id: Option<Uuid>,
    /// The step that it is at, or ended at.
    #[schema(example = "install")]
    step: String,
    /// The replica that works at it.
    #[schema(example = 2)]
    replica_id: Option<i64>,
    /// Failures in a row of this step.
    failures: i32,
    /// Replicas that died over it.
    reclaims: i32,
    /// Whether it is no longer wanted: it ends soon.
    cancel_requested: bool,
    /// When its next try is due, while it waits.
    run_at: Option<DateTime<Utc>>,
    /// Its place in the line of those that wait for a machine, from 1.
    place_in_line: Option<i64>,
    /// Why it failed, or why its step is tried again.
    #[schema(example = "its machine does not answer over SSH")]
    error: Option<String>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<Entry> for Job {
    fn from(entry: Entry) -> Self {
        let waits = entry.outcome.is_none() && entry.claimed_by.is_none();
        let state = match (entry.outcome, entry.claimed_by) {
            (Some(outcome), _) => outcome,
            (None, Some(_)) => "running".into(),
            (None, None) => "waiting".into(),
        };
        Self {
            id: entry.id,
            kind: entry.kind,
            state,
            agent_id: entry.agent_id,
            vm_id: entry.vm_id,
            step: entry.step,
            replica_id: entry.claimed_by,
            failures: entry.failures,
            reclaims: entry.reclaims,
            cancel_requested: entry.cancel_requested,
            run_at: Some(entry.run_at).filter(|_| waits),
            place_in_line: entry.place,
            error: entry.error,
            created_at: entry.created_at,
            ended_at: entry.ended_at,
        }
    }
}

/// A job with all that was tried.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobDetails {
    #[serde(flatten)]
    job: Job,
    /// Every try of every step, oldest first.
    attempts: Vec<Tried>,
}

impl From<SteerError> for ApiError {
    fn from(error: SteerError) -> Self {
        match error {
            SteerError::Unknown(_) => Self::NotFound(error.to_string()),
            SteerError::Refused(why) => Self::Conflict(why),
            SteerError::Service(error) => error.into(),
        }
    }
}

async fn details(conn: &mut PgConnection, id: Uuid) -> Result<JobDetails, ApiError> {
    let job = lookup::get(conn, id).await?.ok_or(SteerError::Unknown(id))?;
    Ok(JobDetails { job: job.into(), attempts: lookup::tries(conn, id).await? })
}

/// List jobs
///
/// Newest first. What has ended is kept for RETENTION_JOBS_DAYS (90).
#[utoipa::path(get, path = "/jobs", tag = "jobs", operation_id = "list_jobs", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, body = List<Job>)))]
async fn list(State(server): State<Server>, Query(filter): Query<Filter>) -> Result<axum::Json<List<Job>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let which = lookup::Filter {
        state: filter.state.map(JobFilter::as_str),
        kind: filter.kind.map(Kind::as_str),
        agent_id: filter.agent_id,
    };
    let rows = lookup::list(&mut *server.app.db.acquire().await?, which, filter.before, fetch).await?;
    Ok(axum::Json(List::new(rows, fetch, |job| job.id.to_string(), Job::from)))
}

/// Read a job
///
/// With every try of every step.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", operation_id = "read_job",
    params(("id" = Uuid, Path, description = "The job")), security(("bearer" = ["read"])),
    responses((status = 200, body = JobDetails)))]
async fn read(State(server): State<Server>, Path(id): Path<Uuid>) -> Result<axum::Json<JobDetails>, ApiError> {
    Ok(axum::Json(details(&mut *server.app.db.acquire().await?, id).await?))
}

/// Retry a job
///
/// One that waits for its next try does it now. After one that failed or was cancelled, its agent, if it has not come to
/// life otherwise, is set up or repaired by a new job: 202, and `Location` says which.
#[utoipa::path(post, path = "/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = Uuid, Path, description = "The job")), security(("bearer" = ["write"])),
    responses((status = 200, body = JobDetails, description = "It is due now"),
        (status = 202, body = JobDetails, description = "The new job",
         headers(("Location" = String, description = "Where it is read")))))]
async fn retry(State(server): State<Server>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let (before, retried) = steering::retry(&mut tx, id).await?;
    let new = match retried {
        Retried::Hurried => id,
        Retried::Begun(new) => new,
    };
    let answer = details(&mut tx, new).await?;
    let after = match retried {
        Retried::Hurried => json!({"run_at": answer.job.run_at}),
        Retried::Begun(new) => json!({"begun": new}),
    };
    record(&mut tx, &caller, "job.retry", &before, json!({"run_at": before.run_at}), after).await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Jobs);
    server.app.wake.wake(Queue::Outbox);
    Ok(match retried {
        Retried::Hurried => axum::Json(answer).into_response(),
        Retried::Begun(new) => {
            (StatusCode::ACCEPTED, [(header::LOCATION, format!("/api/v1/jobs/{new}"))], axum::Json(answer))
                .into_response()
        }
    })
}

/// Cancel a job
///
/// It ends within seconds. What it set up is removed again; what was there before it stays as it is: an agent that was
/// being updated is left as it was, one that was being repaired is left with its machine, failed. Jobs that remove
/// something cannot be cancelled.
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = Uuid, Path, description = "The job")), security(("bearer" = ["write"])),
    responses((status = 202, body = JobDetails, description = "It is asked to end")))]
async fn cancel(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<(StatusCode, axum::Json<JobDetails>), ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let before = steering::cancel(&mut tx, id).await?;
    if !before.cancel_requested {
        let (was, is) = (json!({"cancel_requested": false}), json!({"cancel_requested": true}));
        record(&mut tx, &caller, "job.cancel", &before, was, is).await?;
    }
    let answer = details(&mut tx, id).await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Jobs);
    Ok((StatusCode::ACCEPTED, axum::Json(answer)))
}

async fn record(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    job: &Entry,
    before: Value,
    after: Value,
) -> sqlx::Result<()> {
    let user_id = match job.agent_id {
        Some(id) => agents::store::get(conn, id).await?.map(|agent| agent.owner_id),
        None => None,
    };
    audit::record(conn, caller, Change { action, kind: "job", id: job.id.to_string(), user_id, before, after }).await
}
