//! `/users`: people, what they may have, and shutting them out.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::etag::{self, Tagged, tagged};
use super::extract::{IfMatch, Json, List, Page, Path, Query, nullable};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::admin::people::{self, Person, Wanted};
use crate::agents::limits::Limits;
use crate::config::Config;
use crate::database;
use crate::wake::Queue;

/// The most messages a day that can be allowed.
const MOST_MESSAGES: i32 = 1_000_000;
/// The most agents that can be allowed.
const MOST_AGENTS: i32 = 10_000;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(read, change))
        .routes(routes!(block))
        .routes(routes!(unblock))
}

/// Somebody who has talked to the bot.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct User {
    /// Telegram's number.
    #[schema(example = 7)]
    id: i64,
    /// As Telegram shows it; empty where they were forgotten and only a block or limits are left.
    #[schema(example = "Ann")]
    name: String,
    /// Without the @.
    #[schema(example = "ann")]
    username: Option<String>,
    /// What their client speaks.
    #[schema(example = "en")]
    language_code: Option<String>,
    first_seen_at: DateTime<Utc>,
    /// When they redeemed an invitation.
    invited_at: Option<DateTime<Utc>>,
    /// Since when they are shut out; null: they are not.
    blocked_at: Option<DateTime<Utc>>,
    /// Since when everything of theirs is being forgotten, at their own wish.
    forgetting_since: Option<DateTime<Utc>>,
    /// Whether a LibertAI key of their own is connected. Messages to agents on it do not count.
    own_key: bool,
    /// Messages a UTC day on the operator's key, set for this user; null: FREE_TIER_DAILY_MESSAGES.
    #[schema(example = 100)]
    daily_messages: Option<i32>,
    /// Agents at once, set for this user; null: MAX_AGENTS_PER_USER.
    #[schema(example = 5)]
    max_agents: Option<i32>,
    /// What holds.
    effective: Effective,
    /// Agents that count against the limit.
    #[schema(example = 2)]
    agents: i64,
    /// Messages of this UTC day that count against the limit.
    #[schema(example = 12)]
    messages_today: i32,
}

/// What holds for a user: their own limits, else the settings.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EffectiveLimits)]
pub(super) struct Effective {
    /// Messages a UTC day on the operator's key.
    #[schema(example = 100)]
    daily_messages: i32,
    /// Agents at once.
    #[schema(example = 5)]
    max_agents: u32,
}

impl User {
    fn new(config: &Config, person: Person) -> Self {
        let limits = Limits::new(config, person.daily_messages, person.max_agents, person.blocked_at.is_some());
        let Person { id, name, username, language_code, first_seen_at, invited_at, .. } = person;
        let Person {
            blocked_at, forgetting_since, daily_messages, max_agents, own_key, agents, messages_today, ..
        } = person;
        let effective = Effective { daily_messages: limits.daily_messages, max_agents: limits.max_agents };
        Self {
            id,
            name,
            username,
            language_code,
            first_seen_at,
            invited_at,
            blocked_at,
            forgetting_since,
            own_key,
            daily_messages,
            max_agents,
            effective,
            agents,
            messages_today,
        }
    }
}

/// What is to be different about a user's limits; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UserLimitsChange)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitChange {
    /// Messages a UTC day on the operator's key, 0 to 1,000,000; null: FREE_TIER_DAILY_MESSAGES.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 1_000_000, example = 100)]
    daily_messages: Option<Option<i32>>,
    /// Agents at once, 0 to 10,000; null: MAX_AGENTS_PER_USER. Who has more keeps them.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 10_000, example = 5)]
    max_agents: Option<Option<i32>>,
}

/// Which users.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    before: Option<i64>,
    /// Part of the name, whatever the case.
    #[param(min_length = 1, max_length = 64, pattern = "^[^\\x00]+$", example = "ann")]
    name: Option<String>,
    /// The whole username without the @, whatever the case.
    #[param(min_length = 1, max_length = 32, pattern = "^[A-Za-z0-9_]+$", example = "ann")]
    username: Option<String>,
    /// Whether they are shut out.
    blocked: Option<bool>,
}

fn missing(id: i64) -> ApiError {
    ApiError::NotFound(format!("There is no user {id}. People are known here once they have written to the bot."))
}

fn tag(person: &Person) -> String {
    etag::of(&(person.id, person.daily_messages, person.max_agents))
}

/// A user, with the tag of their limits.
type Answer = (Tagged, axum::Json<User>);

fn answer(config: &Config, person: Person) -> Answer {
    (tagged(tag(&person)), axum::Json(User::new(config, person)))
}

/// List users
///
/// Everybody who has written to the bot, highest number first: Telegram's numbers grow with time. Who was forgotten at their
/// wish is here only as long as a block or limits of theirs are kept.
#[utoipa::path(get, path = "/users", tag = "users", operation_id = "list_users", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, body = List<User>)))]
async fn list(State(server): State<Server>, Query(filter): Query<Filter>) -> Result<axum::Json<List<User>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let fits = |text: &Option<String>, most: usize, good: fn(char) -> bool| {
        text.as_ref().is_none_or(|text| (1..=most).contains(&text.chars().count()) && text.chars().all(good))
    };
    if !fits(&filter.name, 64, |c| c != '\0') {
        return Err(ApiError::invalid("name", "Part of a name has 1 to 64 characters."));
    }
    if !fits(&filter.username, 32, |c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(ApiError::invalid(
            "username",
            "A username has 1 to 32 letters, digits and underscores; leave the @ out.",
        ));
    }
    let wanted = Wanted { name: filter.name, username: filter.username, blocked: filter.blocked };
    let people = people::list(&mut *server.app.db.acquire().await?, &wanted, filter.before, fetch).await?;
    let config = &server.app.config;
    Ok(axum::Json(List::new(people, fetch, |person| person.id.to_string(), |person| User::new(config, person))))
}

/// Read a user
///
/// Who they are here, their limits, and what they have of them.
#[utoipa::path(get, path = "/users/{id}", tag = "users", operation_id = "read_user",
    params(("id" = i64, Path, description = "Telegram's number", minimum = 1, example = 7)), security(("bearer" = ["read"])),
    responses((status = 200, body = User, headers(("ETag" = String, description = "Of the limits, for `If-Match`")),
        links(("change" = (operation_id = "change_user", parameters(("id" = "$response.body#/id")))),
              ("block" = (operation_id = "block_user", parameters(("id" = "$response.body#/id"))))))))]
async fn read(State(server): State<Server>, Path(id): Path<i64>) -> Result<Answer, ApiError> {
    let person = people::get(&mut *server.app.db.acquire().await?, id).await?.ok_or_else(|| missing(id))?;
    Ok(answer(&server.app.config, person))
}

/// Change a user's limits
///
/// They take the place of the settings for this user, from the next message and the next agent on. Null goes back to the
/// settings. They stay when the user wants to be forgotten, for that must be no way round them. What a user may have costs
/// money, so this takes more than their block does.
#[utoipa::path(patch, path = "/users/{id}", tag = "users", operation_id = "change_user", request_body = LimitChange,
    params(("id" = i64, Path, description = "Telegram's number", minimum = 1, example = 7),
           ("If-Match" = String, Header, description = "The ETag that you read, or `*`", example = "*")),
    security(("bearer" = ["admin"])),
    responses((status = 200, body = User, headers(("ETag" = String, description = "Of the limits as they are now")))))]
async fn change(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
    seen: IfMatch,
    Json(change): Json<LimitChange>,
) -> Result<Answer, ApiError> {
    let within =
        |value: Option<Option<i32>>, most: i32| value.flatten().is_none_or(|value| (0..=most).contains(&value));
    if !within(change.daily_messages, MOST_MESSAGES) {
        return Err(ApiError::invalid(
            "daily_messages",
            "A day has 0 to 1,000,000 messages; null is what the settings say.",
        ));
    }
    if !within(change.max_agents, MOST_AGENTS) {
        return Err(ApiError::invalid(
            "max_agents",
            "A user may have 0 to 10,000 agents; null is what the settings say.",
        ));
    }
    let mut tx = database::begin(&server.app.db).await?;
    let before = people::lock(&mut tx, id).await?.ok_or_else(|| missing(id))?;
    seen.check(&tag(&before))?;
    let daily_messages = change.daily_messages.unwrap_or(before.daily_messages);
    let max_agents = change.max_agents.unwrap_or(before.max_agents);
    let now = Person { daily_messages, max_agents, ..before.clone() };
    if now != before {
        people::set_limits(&mut tx, id, daily_messages, max_agents).await?;
        let shown = |person: &Person| json!({"daily_messages": person.daily_messages, "max_agents": person.max_agents});
        record(&mut tx, &caller, "user.limits", id, shown(&before), shown(&now)).await?;
        tx.commit().await?;
    }
    Ok(answer(&server.app.config, now))
}

/// Shut a user out
///
/// What they asked and is not answered yet is stopped; what they write or press from now on is not taken, and they are told
/// so once a day. Agents send them nothing unasked. They can still have themselves forgotten, which leaves the block.
///
/// Their agents run on, for those who talk to them, and are paid for: stop or delete those where they should not.
#[utoipa::path(post, path = "/users/{id}/block", tag = "users", operation_id = "block_user",
    params(("id" = i64, Path, description = "Telegram's number", minimum = 1, example = 7)), security(("bearer" = ["write"])),
    responses((status = 200, body = User)))]
async fn block(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Result<Answer, ApiError> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let before = people::lock(&mut tx, id).await?.ok_or_else(|| missing(id))?;
    if app.config.is_operator(id) {
        return Err(ApiError::Conflict(format!(
            "User {id} is one of OPERATOR_IDS, who are not blocked. Take them out of there first."
        )));
    }
    if before.blocked_at.is_some() {
        return Ok(answer(&app.config, before));
    }
    people::block(&mut tx, id).await?;
    let now = people::get(&mut tx, id).await?.ok_or_else(|| missing(id))?;
    record(&mut tx, &caller, "user.block", id, Value::Null, json!({"blocked_at": now.blocked_at})).await?;
    tx.commit().await?;
    for queue in [Queue::Stops, Queue::Turns] {
        app.wake.wake(queue);
    }
    tracing::info!(user.id = id, caller = caller.name, "a user was blocked");
    Ok(answer(&app.config, now))
}

/// Let a user in again
///
/// From now on what they write is taken again. What they wrote meanwhile is not.
#[utoipa::path(post, path = "/users/{id}/unblock", tag = "users", operation_id = "unblock_user",
    params(("id" = i64, Path, description = "Telegram's number", minimum = 1, example = 7)), security(("bearer" = ["write"])),
    responses((status = 200, body = User)))]
async fn unblock(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Result<Answer, ApiError> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let before = people::lock(&mut tx, id).await?.ok_or_else(|| missing(id))?;
    if before.blocked_at.is_none() {
        return Ok(answer(&app.config, before));
    }
    people::unblock(&mut tx, id).await?;
    record(&mut tx, &caller, "user.unblock", id, json!({"blocked_at": before.blocked_at}), Value::Null).await?;
    tx.commit().await?;
    tracing::info!(user.id = id, caller = caller.name, "a user is let in again");
    Ok(answer(&app.config, Person { blocked_at: None, ..before }))
}

async fn record(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    id: i64,
    before: Value,
    after: Value,
) -> sqlx::Result<()> {
    let change = Change { action, kind: "user", id: id.to_string(), user_id: Some(id), before, after };
    audit::record(conn, caller, change).await
}
