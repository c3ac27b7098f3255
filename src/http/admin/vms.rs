//! `/vms`: machines.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
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
use crate::cloud::hosts::fingerprint;
use crate::cloud::machines::{self, Entry, RetireError};
use crate::config::CloudKind;
use crate::database;
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(retire))
}

/// What a machine is for at the moment.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum VmStateFilter {
    Preparing,
    Warm,
    Assigned,
    Retiring,
    Ended,
}

impl VmStateFilter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Warm => "warm",
            Self::Assigned => "assigned",
            Self::Retiring => "retiring",
            Self::Ended => "ended",
        }
    }
}

/// Which machines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    before: Option<Uuid>,
    /// What they are for; without it, all that are not certainly gone.
    #[param(inline)]
    state: Option<VmStateFilter>,
    /// Where they are.
    #[param(inline)]
    cloud: Option<CloudKind>,
    /// Of this agent.
    #[param(example = 42)]
    agent_id: Option<i64>,
}

/// A machine: an instance of Aleph Cloud, a host that an operator brought, or a process on this server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Vm {
    id: Uuid,
    /// `preparing` (a job makes it ready for the pool), `warm` (it waits in the pool), `assigned` (it is an agent's),
    /// `retiring` (a job removes it) or `ended` (nothing of it is left).
    #[schema(example = "assigned")]
    state: String,
    /// `aleph`, `hosts` or `local`.
    #[schema(example = "aleph")]
    cloud: String,
    /// Whose it is.
    #[schema(example = 42)]
    agent_id: Option<i64>,
    /// Whose it was before it was given up.
    last_agent_id: Option<i64>,
    /// The job that works at it.
    job_id: Option<Uuid>,
    /// The instance of Aleph Cloud.
    item_hash: Option<String>,
    /// The compute node that it is on.
    crn_hash: Option<String>,
    /// That node's address.
    crn_url: Option<String>,
    /// The host that it is; see `/hosts`.
    #[schema(example = 3)]
    host_id: Option<i64>,
    /// The name under which its agent is reached.
    name: Option<String>,
    /// Of the host key that it showed at first contact, as `ssh-keygen -l` prints it.
    host_key_fingerprint: Option<String>,
    /// Whether anything of an agent may have been written to it: then it never goes back to the pool.
    touched: bool,
    created_at: DateTime<Utc>,
    /// Since when it has been ready.
    warm_since: Option<DateTime<Utc>>,
    /// Since when the cloud has not known it.
    missing_since: Option<DateTime<Utc>>,
    /// When it was certainly gone.
    ended_at: Option<DateTime<Utc>>,
}

impl From<Entry> for Vm {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            state: entry.state,
            cloud: entry.cloud,
            agent_id: entry.agent_id,
            last_agent_id: entry.last_agent_id,
            job_id: entry.job_id,
            item_hash: entry.item_hash,
            crn_hash: entry.crn_hash,
            crn_url: entry.crn_url,
            host_id: entry.host_id,
            name: entry.name,
            host_key_fingerprint: entry.host_key.as_deref().and_then(fingerprint),
            touched: entry.touched,
            created_at: entry.created_at,
            warm_since: entry.warm_since,
            missing_since: entry.missing_since,
            ended_at: entry.ended_at,
        }
    }
}

impl From<RetireError> for ApiError {
    fn from(error: RetireError) -> Self {
        match error {
            RetireError::Unknown(_) => Self::NotFound(error.to_string()),
            RetireError::Refused(why) => Self::Conflict(why),
            RetireError::Database(error) => error.into(),
        }
    }
}

async fn one(conn: &mut PgConnection, id: Uuid) -> Result<Vm, ApiError> {
    Ok(machines::get(conn, id).await?.ok_or(RetireError::Unknown(id))?.into())
}

/// List machines
///
/// Newest first; those that are certainly gone only where `state` is `ended`.
#[utoipa::path(get, path = "/vms", tag = "machines", operation_id = "list_vms", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, body = List<Vm>)))]
async fn list(State(server): State<Server>, Query(filter): Query<Filter>) -> Result<axum::Json<List<Vm>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let which = machines::Filter {
        state: filter.state.map(VmStateFilter::as_str),
        cloud: filter.cloud.map(CloudKind::as_str),
        agent_id: filter.agent_id,
    };
    let rows = machines::list(&mut *server.app.db.acquire().await?, which, filter.before, fetch).await?;
    Ok(axum::Json(List::new(rows, fetch, |vm| vm.id.to_string(), Vm::from)))
}

/// Read a machine
///
/// Also one that is gone.
#[utoipa::path(get, path = "/vms/{id}", tag = "machines", operation_id = "read_vm",
    params(("id" = Uuid, Path, description = "The machine")), security(("bearer" = ["read"])),
    responses((status = 200, body = Vm)))]
async fn read(State(server): State<Server>, Path(id): Path<Uuid>) -> Result<axum::Json<Vm>, ApiError> {
    Ok(axum::Json(one(&mut *server.app.db.acquire().await?, id).await?))
}

/// Retire a machine
///
/// A job removes a machine that waits in the pool, or is being made ready for it; it is paid for until it is certainly gone.
/// The pool makes another if it is to be larger: see `/pool`. An agent's machine goes with its agent.
#[utoipa::path(post, path = "/vms/{id}/retire", tag = "machines", operation_id = "retire_vm",
    params(("id" = Uuid, Path, description = "The machine")), security(("bearer" = ["admin"])),
    responses((status = 202, body = Vm, description = "A job removes it")))]
async fn retire(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<(StatusCode, axum::Json<Vm>), ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let before = one(&mut tx, id).await?;
    machines::retire(&mut tx, id).await?;
    let vm = one(&mut tx, id).await?;
    let (was, is) = (json!({"state": before.state}), json!({"state": vm.state, "job_id": vm.job_id}));
    let change = Change { action: "vm.retire", kind: "vm", id: id.to_string(), user_id: None, before: was, after: is };
    audit::record(&mut tx, &caller, change).await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Jobs);
    Ok((StatusCode::ACCEPTED, axum::Json(vm)))
}
