//! `/agents`: agents, as the bot has them. An administrator acts in their owners' place: the owners see what is done in
//! their chats, as if they had done it.

mod actions;
mod create;
mod endpoint;
pub(super) mod show;
pub(super) mod words;

use axum::extract::State;
use axum::http::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use sqlx::PgConnection;
use tracing::info;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::show::{Detail, Shown};
use self::words::{ModelId, Name, Prompt, Wrong};
use super::super::Server;
use super::etag::{Tagged, tagged};
use super::extract::{IfMatch, Json, List, Page, Path, Query, given, sought};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::agents::store::{self, Sought};
use crate::agents::{Agent, Status, external, service};
use crate::config::Visibility;
use crate::database;
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    let own = OpenApiRouter::new().routes(routes!(list, create::create)).routes(routes!(read, change, delete));
    own.merge(actions::routes())
}

/// Which agents.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    #[param(example = 42)]
    before: Option<i64>,
    /// Of this user.
    #[param(example = 123_456_789)]
    owner_id: Option<i64>,
    /// Where they stand. Deleted ones are not listed.
    #[serde(default, deserialize_with = "not_deleted")]
    #[param(inline, value_type = Option<Listed>)]
    status: Option<Status>,
    /// Who may open them.
    #[param(inline)]
    visibility: Option<Visibility>,
    /// Of this model.
    #[param(max_length = 100, pattern = r"^[^\x00]*$", example = "glm-4.7")]
    model: Option<String>,
    /// Part of the name, whatever the case.
    #[param(max_length = 100, pattern = r"^[^\x00]*$", example = "ada")]
    name: Option<String>,
}

/// Where agents can stand that are listed.
const LISTED: [Status; 5] = [Status::Provisioning, Status::Running, Status::Stopped, Status::Failed, Status::Deleting];

/// The words of [`LISTED`], for the document.
struct Listed;

impl PartialSchema for Listed {
    fn schema() -> RefOr<Schema> {
        let words = LISTED.map(Status::as_str);
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some(words)).build().into()
    }
}

impl ToSchema for Listed {}

/// One of [`LISTED`]: whoever asks for deleted agents is told that there are none to see, and not that there were none.
fn not_deleted<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Status>, D::Error> {
    match Option::deserialize(value)? {
        Some(Status::Deleted) => Err(D::Error::custom("deleted agents are not listed")),
        status => Ok(status),
    }
}

/// What is to be different about an agent; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentChange {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Name)]
    name: Option<Name>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Prompt)]
    system_prompt: Option<Prompt>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = ModelId)]
    model: Option<ModelId>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Visibility)]
    visibility: Option<Visibility>,
}

/// What is said of an agent that is not there, or is about not to be.
pub(super) fn missing(id: i64) -> ApiError {
    ApiError::NotFound(format!("There is no agent {id}."))
}

/// The agent, unless it is deleted or on its way there: whoever deleted it is done with it. `GET /agents?status=deleting` and
/// `/jobs` show how far that is.
pub(super) async fn find(conn: &mut PgConnection, id: i64) -> Result<Agent, ApiError> {
    present(id, store::get(conn, id).await?)
}

/// The same, locked until the transaction ends.
pub(super) async fn locked(conn: &mut PgConnection, id: i64) -> Result<Agent, ApiError> {
    present(id, store::lock(conn, id).await?)
}

fn present(id: i64, agent: Option<Agent>) -> Result<Agent, ApiError> {
    match agent {
        Some(agent) if agent.status == Status::Deleting => {
            Err(ApiError::NotFound(format!("Agent {id} is being deleted.")))
        }
        Some(agent) if agent.status != Status::Deleted => Ok(agent),
        _ => Err(missing(id)),
    }
}

/// Writes down what was done with an agent.
pub(super) async fn record(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    agent: &Agent,
    before: Value,
    after: Value,
) -> sqlx::Result<()> {
    let (id, user_id) = (agent.id.to_string(), Some(agent.owner_id));
    audit::record(conn, caller, Change { action, kind: "agent", id, user_id, before, after }).await
}

/// List agents
///
/// Everybody's agents but for deleted ones, newest first, without their personalities.
#[utoipa::path(get, path = "/agents", tag = "agents", operation_id = "list_agents", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, description = "Part of the list", body = List<Shown>)))]
async fn list(State(server): State<Server>, Query(filter): Query<Filter>) -> Result<axum::Json<List<Shown>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let Filter { before, owner_id, status, visibility, model, name, .. } = filter;
    let (model, name) = (sought("model", model)?, sought("name", name)?);
    let which = Sought { owner_id, status, visibility, model, name, before };
    let mut conn = server.app.db.acquire().await?;
    let found = store::sought(&mut conn, &which, fetch).await?;
    let List { items, next } = List::new(found, fetch, |agent| agent.id.to_string(), |agent| agent);
    Ok(axum::Json(List { items: show::several(&mut conn, items).await?, next }))
}

/// Read an agent
///
/// How it is and what is being done with it. Its `ETag` says which version of its words and visibility this is.
#[utoipa::path(get, path = "/agents/{id}", tag = "agents", operation_id = "read_agent",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["read"])),
    responses((status = 200, description = "The agent", body = Detail,
        headers(("ETag" = String, description = "For `If-Match`")))))]
async fn read(State(server): State<Server>, Path(id): Path<i64>) -> Result<(Tagged, axum::Json<Detail>), ApiError> {
    let mut conn = server.app.db.acquire().await?;
    let agent = find(&mut conn, id).await?;
    Ok((tagged(show::tag(&agent)), axum::Json(show::detail(&mut conn, agent).await?)))
}

/// Change an agent
///
/// Its name, personality, model or visibility. Other words are installed by a job, whose progress its owner sees; an agent
/// that does not run takes them up when it is repaired. Visibility changes at once.
#[utoipa::path(patch, path = "/agents/{id}", tag = "agents", operation_id = "change_agent", request_body = AgentChange,
    params(("id" = i64, Path, description = "The agent", example = 42),
        ("If-Match" = String, Header, description = "The ETag that was read, or `*`", example = "*")),
    security(("bearer" = ["write"])),
    responses((status = 200, description = "As it is wanted now", body = Detail,
        headers(("ETag" = String, description = "For `If-Match`")))))]
async fn change(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
    seen: IfMatch,
    Json(change): Json<AgentChange>,
) -> Result<(Tagged, axum::Json<Detail>), ApiError> {
    let app = &server.app;
    let mut wrong = Wrong::default();
    let name = change.name.and_then(|name| wrong.take(name.check()));
    let system_prompt = change.system_prompt.and_then(|prompt| wrong.take(prompt.check()));
    let model = change.model.and_then(|model| wrong.take(model.check(&app.config.models)));
    wrong.none()?;
    let mut tx = database::begin(&app.db).await?;
    let before = locked(&mut tx, id).await?;
    seen.check(&show::tag(&before))?;
    // What is so already is no change: it would only install the agent anew.
    let words = service::Change {
        name: name.filter(|name| *name != before.name),
        system_prompt: system_prompt.filter(|prompt| *prompt != before.system_prompt),
        model: model.filter(|model| *model != before.model),
    };
    let mut agent = before.clone();
    if words != service::Change::default() {
        agent = service::change(&mut tx, app, before.owner_id, id, words).await?.agent;
    }
    if let Some(visibility) = change.visibility.filter(|wanted| *wanted != before.visibility) {
        agent = crate::agents::sharing::set_visibility(&mut tx, before.owner_id, id, visibility).await?;
    }
    if agent != before {
        let (was, is) = show::difference(show::recorded(&before), show::recorded(&agent));
        record(&mut tx, &caller, "agent.change", &agent, was, is).await?;
        info!(agent.id = id, "an administrator changed an agent");
    }
    let tag = show::tag(&agent);
    let detail = show::detail(&mut tx, agent).await?;
    tx.commit().await?;
    app.wake.wake(Queue::Jobs);
    app.wake.wake(Queue::Outbox);
    Ok((tagged(tag), axum::Json(detail)))
}

/// Delete an agent
///
/// With all that it has on its machine, and all that it remembers. From now on it is not found here; the job of the answer
/// tells how far that is. One that runs elsewhere is forgotten at once, and goes on there.
#[utoipa::path(delete, path = "/agents/{id}", tag = "agents", operation_id = "delete_agent",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["write"])),
    responses((status = 202, description = "A job is deleting it", body = Detail)))]
async fn delete(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<(StatusCode, axum::Json<Detail>), ApiError> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let before = locked(&mut tx, id).await?;
    let agent = service::delete(&mut tx, before.owner_id, id).await?;
    external::tell_deleted(&mut tx, &agent).await?;
    record(&mut tx, &caller, "agent.delete", &agent, show::recorded(&before), Value::Null).await?;
    let detail = show::detail(&mut tx, agent).await?;
    tx.commit().await?;
    info!(agent.id = id, "an administrator is deleting an agent");
    app.wake.wake(Queue::Jobs);
    app.wake.wake(Queue::Outbox);
    app.wake.wake(Queue::Turns);
    Ok((StatusCode::ACCEPTED, axum::Json(detail)))
}
