//! `/agents/{id}/links`: the ways to an agent, and what they give.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::agents::show::difference;
use super::agents::words::{Label, Wrong};
use super::agents::{find, locked};
use super::etag::{self, Tagged, tagged};
use super::extract::{IfMatch, Json, List, Path, given, nullable};
use super::once::{Key, Once};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::agents::links::{self, Link, Terms};
use crate::agents::service::ServiceError;
use crate::agents::sharing::{self, LinkChange, MAX_PER_DAY};
use crate::agents::{Agent, store};
use crate::app::App;
use crate::database;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, revoke))
}

/// A way to an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Link)]
pub(super) struct Shown {
    #[schema(example = 7)]
    id: i64,
    /// The agent that it opens.
    #[schema(example = 42)]
    agent_id: i64,
    /// Whether it is the agent's number, which everybody can guess: it is good while the agent is public.
    is_number: bool,
    /// What it is called.
    #[schema(example = "For friends")]
    label: String,
    /// Whether its visitors' messages are answered with tools.
    tools: bool,
    /// Messages a day (UTC) of each visitor; null: no limit of its own.
    #[schema(example = 20)]
    per_day: Option<i32>,
    /// When it ends; null: never.
    expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// How many came by it last.
    #[schema(example = 3)]
    visitors: i64,
    /// The link for people. Whoever has it may come in, so only the answer that creates it shows it; its owner sees it under
    /// `/share`. That of the number is always shown, once the bot's name is known.
    #[schema(example = "https://t.me/baal_bot?start=a_c2VjcmV0LXJhbmRvbS10ZXh0")]
    url: Option<String>,
}

/// A link to make.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLink {
    /// Without it, none.
    label: Option<Label>,
    /// Whether its visitors' messages are answered with tools.
    #[serde(default)]
    #[schema(default = false)]
    tools: bool,
    /// Messages a day (UTC) of each visitor; null: no limit of its own.
    #[schema(minimum = 1, maximum = 10000, example = 20)]
    per_day: Option<i32>,
    /// When it ends, within ten years; null: never.
    #[schema(example = "2030-01-01T00:00:00Z")]
    expires_at: Option<DateTime<Utc>>,
}

/// What is to be different about a link; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LinkChange)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Label)]
    label: Option<Label>,
    /// Whether its visitors' messages are answered with tools.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = bool)]
    tools: Option<bool>,
    /// Messages a day (UTC) of each visitor; null: no limit of its own.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 10000, example = 20)]
    per_day: Option<Option<i32>>,
    /// When it ends, within ten years; null: never.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<DateTime<Utc>>, example = "2030-01-01T00:00:00Z")]
    expires_at: Option<Option<DateTime<Utc>>>,
}

impl Shown {
    fn of(app: &App, username: &str, link: Link, is_new: bool) -> Self {
        let url = (is_new || link.is_number()).then(|| link.url(&app.config.vault, username)).flatten();
        let is_number = link.is_number();
        let Link { id, agent_id, label, tools, per_day, expires_at, created_at, visitors, .. } = link;
        Self { id, agent_id, is_number, label, tools, per_day, expires_at, created_at, visitors, url }
    }
}

fn missing(agent_id: i64, id: i64) -> ApiError {
    ApiError::NotFound(format!("Agent {agent_id} has no link {id}."))
}

/// What the service refuses. Whether a time is past depends on when one asks, not on how it is written.
fn refused(error: ServiceError) -> ApiError {
    match error {
        ServiceError::Invalid { field: "expires_at", message } => ApiError::Conflict(message),
        other => other.into(),
    }
}

/// The bot's user name, without which there are no links for people.
async fn username(conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<String> {
    Ok(store::bot_username(conn, agent.bot_id).await?.unwrap_or_default())
}

/// A link of this agent that is not taken back.
async fn link(conn: &mut PgConnection, agent: &Agent, id: i64) -> Result<Link, ApiError> {
    let link = links::get(conn, id).await?;
    let link = link.filter(|link| link.agent_id == agent.id && link.revoked_at.is_none());
    link.ok_or_else(|| missing(agent.id, id))
}

fn tag(link: &Link) -> String {
    etag::of(&recorded(link))
}

fn recorded(link: &Link) -> Value {
    json!({"label": link.label, "tools": link.tools, "per_day": link.per_day, "expires_at": link.expires_at})
}

async fn record(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    (agent, link): (&Agent, i64),
    before: Value,
    after: Value,
) -> sqlx::Result<()> {
    let (id, user_id) = (format!("{}/{link}", agent.id), Some(agent.owner_id));
    audit::record(conn, caller, Change { action, kind: "link", id, user_id, before, after }).await
}

fn check_per_day(per_day: Option<i32>) -> Result<(), ServiceError> {
    if per_day.is_none_or(|n| (1..=MAX_PER_DAY).contains(&n)) {
        return Ok(());
    }
    let message = format!("A link allows 1 to {MAX_PER_DAY} messages a day, or has no limit.");
    Err(ServiceError::Invalid { field: "per_day", message })
}

/// List an agent's links
///
/// Its number, then all that are not revoked, oldest first. There are at most eleven.
#[utoipa::path(get, path = "/agents/{id}/links", tag = "agents", operation_id = "list_links",
    params(("id" = i64, Path, description = "The agent", example = 42)), security(("bearer" = ["read"])),
    responses((status = 200, description = "All of them", body = List<Shown>)))]
async fn list(State(server): State<Server>, Path(id): Path<i64>) -> Result<axum::Json<List<Shown>>, ApiError> {
    let mut conn = server.app.db.acquire().await?;
    let agent = find(&mut conn, id).await?;
    let username = username(&mut conn, &agent).await?;
    let (_, links) = sharing::links(&mut conn, agent.owner_id, id).await?;
    let items = links.into_iter().map(|link| Shown::of(&server.app, &username, link, false)).collect();
    Ok(axum::Json(List { items, next: None }))
}

/// Make a link
///
/// With a random token: whoever has it may open the agent, unless that is private. This answer alone shows it.
#[utoipa::path(post, path = "/agents/{id}/links", tag = "agents", operation_id = "create_link", request_body = NewLink,
    params(("id" = i64, Path, description = "The agent", example = 42),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions harmless", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    security(("bearer" = ["write"])),
    responses((status = 201, description = "The link, with its text", body = Shown,
        headers(("Location" = String, description = "Where it is read")),
        links(("read" = (operation_id = "read_link",
                   parameters(("id" = "$response.body#/agent_id"), ("link_id" = "$response.body#/id")))),
              ("change" = (operation_id = "change_link",
                   parameters(("id" = "$response.body#/agent_id"), ("link_id" = "$response.body#/id")))),
              ("revoke" = (operation_id = "revoke_link",
                   parameters(("id" = "$response.body#/agent_id"), ("link_id" = "$response.body#/id"))))))))]
async fn create(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
    key: Key,
    Json(new): Json<NewLink>,
) -> Result<Response, ApiError> {
    let app = &server.app;
    let mut wrong = Wrong::default();
    let label = new.label.as_ref().and_then(|label| wrong.take(label.check())).unwrap_or_default();
    wrong.take(check_per_day(new.per_day));
    wrong.none()?;
    let mut tx = database::begin(&app.db).await?;
    let operation = format!("create_link {id}");
    let creation = match key.claim(&mut tx, &app.config.vault, &caller, &operation, &new).await? {
        Once::Now(creation) => creation,
        Once::Before(answer) => return Ok(answer),
    };
    let agent = locked(&mut tx, id).await?;
    let terms = Terms { label, tools: new.tools, per_day: new.per_day, expires_at: new.expires_at };
    let (agent, link) = sharing::create_link(&mut tx, app, agent.owner_id, id, terms).await.map_err(refused)?;
    record(&mut tx, &caller, "link.create", (&agent, link.id), Value::Null, recorded(&link)).await?;
    let location = format!("/api/v1/agents/{id}/links/{}", link.id);
    let shown = Shown::of(app, &username(&mut tx, &agent).await?, link, true);
    let answer = creation.answer(&mut tx, &app.config.vault, StatusCode::CREATED, Some(&location), &shown).await?;
    tx.commit().await?;
    Ok(answer)
}

/// Read a link
///
/// What it gives, and until when. One that was revoked is not there any more.
#[utoipa::path(get, path = "/agents/{id}/links/{link_id}", tag = "agents", operation_id = "read_link",
    params(("id" = i64, Path, description = "The agent", example = 42), ("link_id" = i64, Path, description = "The link", example = 7)),
    security(("bearer" = ["read"])),
    responses((status = 200, description = "The link", body = Shown, headers(("ETag" = String, description = "For `If-Match`")))))]
async fn read(
    State(server): State<Server>,
    Path((id, link_id)): Path<(i64, i64)>,
) -> Result<(Tagged, axum::Json<Shown>), ApiError> {
    let mut conn = server.app.db.acquire().await?;
    let agent = find(&mut conn, id).await?;
    let link = link(&mut conn, &agent, link_id).await?;
    let username = username(&mut conn, &agent).await?;
    Ok((tagged(tag(&link)), axum::Json(Shown::of(&server.app, &username, link, false))))
}

/// Change a link
///
/// Holds for those who came by it already, too. The agent's number can be changed as well, but has no end.
#[utoipa::path(patch, path = "/agents/{id}/links/{link_id}", tag = "agents", operation_id = "change_link", request_body = Wanted,
    params(("id" = i64, Path, description = "The agent", example = 42), ("link_id" = i64, Path, description = "The link", example = 7),
        ("If-Match" = String, Header, description = "The ETag that was read, or `*`", example = "*")),
    security(("bearer" = ["write"])),
    responses((status = 200, description = "As it is now", body = Shown, headers(("ETag" = String, description = "For `If-Match`")))))]
async fn change(
    State(server): State<Server>,
    caller: Caller,
    Path((id, link_id)): Path<(i64, i64)>,
    seen: IfMatch,
    Json(wanted): Json<Wanted>,
) -> Result<(Tagged, axum::Json<Shown>), ApiError> {
    let app = &server.app;
    let mut wrong = Wrong::default();
    let label = wanted.label.and_then(|label| wrong.take(label.check()));
    wrong.take(check_per_day(wanted.per_day.flatten()));
    wrong.none()?;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let before = link(&mut tx, &agent, link_id).await?;
    seen.check(&tag(&before))?;
    let change = LinkChange { label, tools: wanted.tools, per_day: wanted.per_day, expires_at: wanted.expires_at };
    let after = match change == LinkChange::default() {
        true => before.clone(),
        false => sharing::change_link(&mut tx, agent.owner_id, link_id, change).await.map_err(refused)?.1,
    };
    let (was, is) = difference(recorded(&before), recorded(&after));
    if was != is {
        record(&mut tx, &caller, "link.change", (&agent, link_id), was, is).await?;
    }
    let username = username(&mut tx, &agent).await?;
    tx.commit().await?;
    Ok((tagged(tag(&after)), axum::Json(Shown::of(app, &username, after, false))))
}

/// Revoke a link
///
/// Nobody comes in by it any more, and whoever came by it is shut out at once.
#[utoipa::path(delete, path = "/agents/{id}/links/{link_id}", tag = "agents", operation_id = "revoke_link",
    params(("id" = i64, Path, description = "The agent", example = 42), ("link_id" = i64, Path, description = "The link", example = 7)),
    security(("bearer" = ["write"])), responses((status = 200, description = "As it was", body = Shown)))]
async fn revoke(
    State(server): State<Server>,
    caller: Caller,
    Path((id, link_id)): Path<(i64, i64)>,
) -> Result<axum::Json<Shown>, ApiError> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    link(&mut tx, &agent, link_id).await?;
    let (agent, link) = sharing::revoke_link(&mut tx, agent.owner_id, link_id).await?;
    record(&mut tx, &caller, "link.revoke", (&agent, link_id), recorded(&link), Value::Null).await?;
    let username = username(&mut tx, &agent).await?;
    tx.commit().await?;
    Ok(axum::Json(Shown::of(app, &username, link, false)))
}
