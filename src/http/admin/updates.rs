//! `/updates`: what Telegram sent.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::{List, Page, Path, Query};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::database;
use crate::telegram::dead::{self, Depth as InboxDepth, Letter};
use crate::telegram::update;
use crate::vault::Vault;
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new()
        .routes(routes!(summary))
        .routes(routes!(list))
        .routes(routes!(read))
        .routes(routes!(retry))
        .routes(routes!(discard))
}

/// An update that was given up, without what it says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeadLetter {
    /// The bot that got it.
    #[schema(example = 1000000001)]
    bot_id: i64,
    /// Telegram's number; negative where none could be read.
    #[schema(example = 900000001)]
    update_id: i64,
    /// The chat in whose order it stood; 0 where it has none, or none could be read.
    #[schema(example = 7)]
    chat_id: i64,
    /// The kind of update that it is; null: that cannot be told.
    #[schema(example = "message")]
    kind: Option<String>,
    /// Why it was given up.
    #[schema(example = "the handler took too long")]
    error: String,
    /// Failures of its handling.
    failures: i32,
    /// Replicas that died over it.
    reclaims: i32,
    received_at: DateTime<Utc>,
    /// Whether it can be retried. What showed a key is emptied at once.
    is_whole: bool,
}

impl DeadLetter {
    fn of(letter: &Letter, vault: &Vault) -> Self {
        Self {
            bot_id: letter.bot_id,
            update_id: letter.update_id,
            chat_id: update::chat_of(letter.chat_id).unwrap_or(0),
            kind: letter.kind(vault).map(str::to_owned),
            error: letter.error.clone(),
            failures: letter.failures,
            reclaims: letter.reclaims,
            received_at: letter.received_at,
            is_whole: letter.is_whole(),
        }
    }
}

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says: bot and update.
    #[param(example = "1000000001:900000001", pattern = "^-?[0-9]{1,18}:-?[0-9]{1,19}$")]
    before: Option<String>,
}

/// Bot and update of a cursor. Numbers beyond all ids are before none.
fn cursor(text: &str) -> Result<(i64, i64), ApiError> {
    let number = |text: &str, longest: usize| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = (1..=longest).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().unwrap_or(i64::MAX))
    };
    let parsed = text.split_once(':').and_then(|(bot, update)| Some((number(bot, 18)?, number(update, 19)?)));
    parsed.ok_or_else(|| ApiError::invalid("before", "Take what another answer's `next` says."))
}

/// See the inbox
///
/// How many updates wait to be handled, and for how long.
#[utoipa::path(get, path = "/updates", tag = "queues", operation_id = "read_updates",
    security(("bearer" = ["read"])), responses((status = 200, body = InboxDepth)))]
async fn summary(State(server): State<Server>) -> Result<axum::Json<InboxDepth>, ApiError> {
    Ok(axum::Json(dead::depth(&mut *server.app.db.acquire().await?).await?))
}

/// List dead letters
///
/// Updates that were given up, newest first; never what they say. They are kept for RETENTION_TEXTS_DAYS (30).
#[utoipa::path(get, path = "/updates/dead", tag = "queues", operation_id = "list_dead_letters", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, body = List<DeadLetter>)))]
async fn list(
    State(server): State<Server>,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<List<DeadLetter>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let before = filter.before.as_deref().map(cursor).transpose()?;
    let rows = dead::list(&mut *server.app.db.acquire().await?, before, fetch).await?;
    let key = |letter: &Letter| format!("{}:{}", letter.bot_id, letter.update_id);
    Ok(axum::Json(List::new(rows, fetch, key, |letter| DeadLetter::of(&letter, &server.app.config.vault))))
}

fn missing(update_id: i64) -> ApiError {
    ApiError::NotFound(format!("There is no dead letter {update_id} of this bot."))
}

/// Read a dead letter
///
/// Never what it says.
#[utoipa::path(get, path = "/updates/dead/{bot_id}/{update_id}", tag = "queues", operation_id = "read_dead_letter",
    params(("bot_id" = i64, Path, example = 1000000001), ("update_id" = i64, Path, example = 900000001)),
    security(("bearer" = ["read"])), responses((status = 200, body = DeadLetter)))]
async fn read(
    State(server): State<Server>,
    Path((bot_id, update_id)): Path<(i64, i64)>,
) -> Result<axum::Json<DeadLetter>, ApiError> {
    let letter = dead::get(&mut *server.app.db.acquire().await?, bot_id, update_id).await?;
    let letter = letter.ok_or_else(|| missing(update_id))?;
    Ok(axum::Json(DeadLetter::of(&letter, &server.app.config.vault)))
}

/// Retry a dead letter
///
/// It is handled with as many tries as a new update. Its chat has gone on without it, so it comes behind what was handled
/// meanwhile, but before what still waits; while an update of its chat is being handled, and for a letter of another bot than
/// the one that runs here, it is a 409. One that took processes down is handled while nothing else is, and given up if another
/// dies over it. The answer is the letter as it was; if it fails again, it is one again.
#[utoipa::path(post, path = "/updates/dead/{bot_id}/{update_id}/retry", tag = "queues", operation_id = "retry_dead_letter",
    params(("bot_id" = i64, Path, example = 1000000001), ("update_id" = i64, Path, example = 900000001)),
    security(("bearer" = ["write"])), responses((status = 202, body = DeadLetter, description = "It is handled again")))]
async fn retry(
    State(server): State<Server>,
    caller: Caller,
    Path((bot_id, update_id)): Path<(i64, i64)>,
) -> Result<(axum::http::StatusCode, axum::Json<DeadLetter>), ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let letter = dead::lock(&mut tx, bot_id, update_id).await?.ok_or_else(|| missing(update_id))?;
    if !letter.is_whole() {
        return Err(ApiError::Conflict("It showed a key and was emptied: it cannot be retried. Drop it.".into()));
    }
    if letter.bot_id != server.app.bot_id {
        return Err(ApiError::Conflict(format!(
            "It was sent to bot {bot_id}; bot {} runs here, so nobody would handle it. Drop it.",
            server.app.bot_id
        )));
    }
    if !dead::retry(&mut tx, &letter).await? {
        return Err(ApiError::Conflict("An update of its chat is being handled at this moment. Try again.".into()));
    }
    record(&mut tx, &caller, "update.retry", &letter).await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Updates);
    let answer = DeadLetter::of(&letter, &server.app.config.vault);
    Ok((axum::http::StatusCode::ACCEPTED, axum::Json(answer)))
}

/// Drop a dead letter
///
/// It is emptied and leaves the list. The answer is the letter as it was.
#[utoipa::path(post, path = "/updates/dead/{bot_id}/{update_id}/drop", tag = "queues", operation_id = "drop_dead_letter",
    params(("bot_id" = i64, Path, example = 1000000001), ("update_id" = i64, Path, example = 900000001)),
    security(("bearer" = ["write"])), responses((status = 200, body = DeadLetter)))]
async fn discard(
    State(server): State<Server>,
    caller: Caller,
    Path((bot_id, update_id)): Path<(i64, i64)>,
) -> Result<axum::Json<DeadLetter>, ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let letter = dead::lock(&mut tx, bot_id, update_id).await?.ok_or_else(|| missing(update_id))?;
    dead::discard(&mut tx, &letter).await?;
    record(&mut tx, &caller, "update.drop", &letter).await?;
    tx.commit().await?;
    Ok(axum::Json(DeadLetter::of(&letter, &server.app.config.vault)))
}

async fn record(conn: &mut PgConnection, caller: &Caller, action: &str, letter: &Letter) -> sqlx::Result<()> {
    let change = Change {
        action,
        kind: "update",
        id: format!("{}:{}", letter.bot_id, letter.update_id),
        // A private chat has its user's number.
        user_id: Some(letter.chat_id).filter(|chat| *chat > 0),
        before: json!({"error": letter.error, "failures": letter.failures}),
        after: Value::Null,
    };
    audit::record(conn, caller, change).await
}
