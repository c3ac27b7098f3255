//! What sets agents to work anew, `deploy`, `redeploy` and `repair`, and what has their programs rest and go on, `stop` and
//! `start`. Each starts a job and shows its progress to the owner.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use tracing::info;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::super::Server;
use super::super::extract::{Path, Query};
use super::super::problem::ApiError;
use super::show::{self, Detail};
use super::{locked, record};
use crate::admin::Caller;
use crate::agents::{Agent, service};
use crate::app::App;
use crate::database;
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    let anew = OpenApiRouter::new().routes(routes!(deploy)).routes(routes!(redeploy)).routes(routes!(repair));
    anew.routes(routes!(stop)).routes(routes!(start))
}

type Begun<T = Detail> = Result<(StatusCode, axum::Json<T>), ApiError>;

/// How to deploy.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Throw its machine away, with all that the agent remembers, and set it up on another one.
    #[param(default = false)]
    anew: Option<bool>,
}

/// Deploy a failed agent
///
/// Tries once more to make it ready. Its progress is shown to its owner; `job` of the answer tells it too.
#[utoipa::path(post, path = "/agents/{id}/deploy", tag = "agents", operation_id = "deploy_agent",
    params(("id" = i64, Path, description = "The agent", example = 42), How), security(("bearer" = ["write"])),
    responses((status = 202, description = "A job was started", body = Detail)))]
async fn deploy(State(server): State<Server>, caller: Caller, Path(id): Path<i64>, Query(how): Query<How>) -> Begun {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let anew = how.anew.unwrap_or(false);
    let begun = match anew {
        true => service::begin_anew(&mut tx, app, agent.owner_id, id).await?,
        false => service::retry(&mut tx, agent.owner_id, id).await?,
    };
    let detail =
        begin(&mut tx, &caller, if anew { "agent.deploy_anew" } else { "agent.deploy" }, &agent, begun).await?;
    tx.commit().await?;
    wake(app);
    Ok(detail)
}

/// Redeploy an agent
///
/// Puts the present program and configuration in place, by a new version of the same words. What the agent remembers is kept.
#[utoipa::path(post, path = "/agents/{id}/redeploy", tag = "agents", operation_id = "redeploy_agent",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["write"])),
    responses((status = 202, description = "A job was started, or the one under way does it", body = Detail)))]
async fn redeploy(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Begun {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let begun = service::update(&mut tx, app, agent.owner_id, id).await?.agent;
    let detail = begin(&mut tx, &caller, "agent.redeploy", &agent, begun).await?;
    tx.commit().await?;
    wake(app);
    Ok(detail)
}

/// Repair an agent
///
/// Makes it ready again from whatever is left of it, on its own machine if that can be mended. What the agent remembers is
/// kept, unless its machine is certainly gone. No message reaches it meanwhile.
#[utoipa::path(post, path = "/agents/{id}/repair", tag = "agents", operation_id = "repair_agent",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["write"])),
    responses((status = 202, description = "A job was started", body = Detail)))]
async fn repair(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Begun {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let begun = service::repair(&mut tx, app, agent.owner_id, id).await?;
    let detail = begin(&mut tx, &caller, "agent.repair", &agent, begun).await?;
    tx.commit().await?;
    wake(app);
    Ok(detail)
}

/// An agent whose program is being stopped or started.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentUnit)]
pub(super) struct Unit {
    #[serde(flatten)]
    agent: Detail,
    /// What this does to what is paid.
    #[schema(example = "Its machine stays and goes on being paid for; deleting the agent ends that.")]
    billing: &'static str,
}

/// Stop an agent
///
/// Its program is stopped, over SSH where it has a machine of its own, and stays so when that machine boots. What it remembers
/// is kept. Its owner is told, and whoever writes to it is told that it was stopped.
///
/// **Its machine stays and goes on being paid for**; deleting the agent ends that. Until it is started nothing else can be
/// done with it but deleting it and changing what is wanted of it. An agent that runs on a machine of somebody else refuses.
#[utoipa::path(post, path = "/agents/{id}/stop", tag = "agents", operation_id = "stop_agent",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["write"])),
    responses((status = 202, description = "A job stops it", body = Unit,
        links(("job" = (operation_id = "read_job", parameters(("id" = "$response.body#/job/id"))))))))]
async fn stop(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Begun<Unit> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let stopping = service::stop(&mut tx, agent.owner_id, id).await?;
    let (status, axum::Json(detail)) = begin(&mut tx, &caller, "agent.stop", &agent, stopping).await?;
    tx.commit().await?;
    wake(app);
    let billing = "Its machine stays and goes on being paid for; deleting the agent ends that.";
    Ok((status, axum::Json(Unit { agent: detail, billing })))
}

/// Start an agent
///
/// A stopped agent's program is started, over SSH where it has a machine of its own, in the present version and with what was
/// changed of it meanwhile. Its owner sees how that goes.
#[utoipa::path(post, path = "/agents/{id}/start", tag = "agents", operation_id = "start_agent",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["write"])),
    responses((status = 202, description = "A job starts it", body = Unit,
        links(("job" = (operation_id = "read_job", parameters(("id" = "$response.body#/job/id"))))))))]
async fn start(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Begun<Unit> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let starting = service::start(&mut tx, agent.owner_id, id).await?;
    let (status, axum::Json(detail)) = begin(&mut tx, &caller, "agent.start", &agent, starting).await?;
    tx.commit().await?;
    wake(app);
    let billing = "Its machine was paid for while it was stopped, too: starting the agent costs nothing more.";
    Ok((status, axum::Json(Unit { agent: detail, billing })))
}

async fn begin(conn: &mut PgConnection, caller: &Caller, action: &str, before: &Agent, after: Agent) -> Begun {
    let was = json!({"status": before.status, "wanted_version": before.wanted_version});
    let is = json!({"status": after.status, "wanted_version": after.wanted_version});
    record(conn, caller, action, &after, was, is).await?;
    info!(agent.id = after.id, user.id = after.owner_id, action, "an administrator set a job to work at an agent");
    Ok((StatusCode::ACCEPTED, axum::Json(show::detail(conn, after).await?)))
}

fn wake(app: &App) {
    app.wake.wake(Queue::Jobs);
    app.wake.wake(Queue::Outbox);
}
