//! `/outbox`: calls to Telegram.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::{List, Page, Path, Query};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::database;
use crate::telegram::outbox::desk::{
    self, Depth as OutboxDepth, DeskError, Entry as OutboxCall, Which as OutboxFilter,
};
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new()
        .routes(routes!(summary))
        .routes(routes!(list))
        .routes(routes!(read))
        .routes(routes!(retry))
        .routes(routes!(discard))
}

/// Which calls.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    before: Option<i64>,
    /// Which: `stuck` (not done, and failed or there for over a minute) where nothing is said, `open` (not done), or `dead`
    /// (given up).
    #[param(inline)]
    state: Option<OutboxFilter>,
}

impl From<DeskError> for ApiError {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Unknown(_) => Self::NotFound(error.to_string()),
            DeskError::Refused(why) => Self::Conflict(why.into()),
            DeskError::Database(error) => error.into(),
        }
    }
}

/// See the outbox
///
/// How many calls wait for Telegram, and for how long.
#[utoipa::path(get, path = "/outbox", tag = "queues", operation_id = "read_outbox",
    security(("bearer" = ["read"])), responses((status = 200, body = OutboxDepth)))]
async fn summary(State(server): State<Server>) -> Result<axum::Json<OutboxDepth>, ApiError> {
    Ok(axum::Json(desk::depth(&mut *server.app.db.acquire().await?).await?))
}

/// List calls to Telegram
///
/// Those that are stuck, all that wait, or those that were given up, newest first; never what they say.
#[utoipa::path(get, path = "/outbox/calls", tag = "queues", operation_id = "list_calls", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, body = List<OutboxCall>)))]
async fn list(
    State(server): State<Server>,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<List<OutboxCall>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let rows = desk::list(&mut *server.app.db.acquire().await?, filter.state.unwrap_or_default(), filter.before, fetch)
        .await?;
    Ok(axum::Json(List::new(rows, fetch, |call| call.id.to_string(), |call| call)))
}

/// Read a call to Telegram
///
/// Never what it says.
#[utoipa::path(get, path = "/outbox/calls/{id}", tag = "queues", operation_id = "read_call",
    params(("id" = i64, Path, example = 17)), security(("bearer" = ["read"])),
    responses((status = 200, body = OutboxCall)))]
async fn read(State(server): State<Server>, Path(id): Path<i64>) -> Result<axum::Json<OutboxCall>, ApiError> {
    Ok(axum::Json(one(&mut *server.app.db.acquire().await?, id).await?))
}

async fn one(conn: &mut PgConnection, id: i64) -> Result<OutboxCall, ApiError> {
    Ok(desk::get(conn, id).await?.ok_or(DeskError::Unknown(id))?)
}

/// Retry a call to Telegram
///
/// One that waits for its next try is made now, unless Telegram itself wants its chat to wait. What was given up cannot be
/// sent again: what it said is not kept.
#[utoipa::path(post, path = "/outbox/calls/{id}/retry", tag = "queues", operation_id = "retry_call",
    params(("id" = i64, Path, example = 17)), security(("bearer" = ["write"])),
    responses((status = 200, body = OutboxCall)))]
async fn retry(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<axum::Json<OutboxCall>, ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let before = desk::retry(&mut tx, id).await?;
    let call = one(&mut tx, id).await?;
    record(&mut tx, &caller, "outbox.retry", &before, json!({"run_at": before.run_at}), json!({"run_at": call.run_at}))
        .await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Outbox);
    Ok(axum::Json(call))
}

/// Drop a call to Telegram
///
/// One that waits is not made, and its chat goes on without it: see that it is not one that takes a message away which shows a
/// key. One that was given up leaves the list. Either is `dropped` from then on.
#[utoipa::path(post, path = "/outbox/calls/{id}/drop", tag = "queues", operation_id = "drop_call",
    params(("id" = i64, Path, example = 17)), security(("bearer" = ["write"])),
    responses((status = 200, body = OutboxCall)))]
async fn discard(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<axum::Json<OutboxCall>, ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let before = desk::discard(&mut tx, id).await?;
    let was = json!({"state": before.state, "method": before.method, "error": before.error});
    record(&mut tx, &caller, "outbox.drop", &before, was, Value::Null).await?;
    let call = one(&mut tx, id).await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Outbox);
    Ok(axum::Json(call))
}

async fn record(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    call: &OutboxCall,
    before: Value,
    after: Value,
) -> sqlx::Result<()> {
    // A private chat has its user's number.
    let user_id = Some(call.chat_id).filter(|chat| *chat > 0);
    audit::record(conn, caller, Change { action, kind: "call", id: call.id.to_string(), user_id, before, after }).await
}
