//! Calls to Telegram as operators look at them, and what they may do about one. Never what a call says.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

use super::HELD;

macro_rules! dropped {
    () => {
        "an operator dropped it"
    };
}

/// Why a call was not made that an operator dropped.
pub const DROPPED: &str = dropped!();

/// A call to Telegram, without what it says.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, ToSchema)]
#[schema(as = OutboxCall)]
pub struct Entry {
    /// Its number, and its place in the chat's order.
    #[schema(example = 17)]
    pub id: i64,
    /// The bot that makes it.
    #[schema(example = 1000000001)]
    pub bot_id: i64,
    /// Calls of one chat go in their order.
    #[schema(example = 7)]
    pub chat_id: i64,
    /// Telegram's method.
    #[schema(example = "sendMessage")]
    pub method: String,
    /// `reply` (somebody waits for it) or `notice`.
    #[schema(example = "reply")]
    pub kind: String,
    /// `waiting`, `sending`, `sent`, `dead` (given up), or `dropped` (an operator took it out).
    #[schema(example = "waiting")]
    pub state: String,
    /// Failed tries.
    pub failures: i32,
    /// How often Telegram's answer was lost.
    pub losses: i32,
    /// Whether Telegram may have had it without our knowing.
    pub uncertain: bool,
    /// Whether it sends a file.
    pub has_file: bool,
    /// Why it waits, or was not made.
    #[schema(example = "Too Many Requests: retry after 3")]
    pub error: Option<String>,
    /// When it was put in.
    pub created_at: DateTime<Utc>,
    /// When its next try is due, while it waits; null: at once.
    pub run_at: Option<DateTime<Utc>>,
    /// When it was done.
    pub ended_at: Option<DateTime<Utc>>,
}

/// How many calls wait for Telegram.
#[derive(Debug, Clone, Copy, PartialEq, FromRow, Serialize, ToSchema)]
#[schema(as = OutboxDepth)]
pub struct Depth {
    /// Calls that are not done.
    #[schema(example = 3)]
    pub open: i64,
    /// Seconds since the oldest of them was put in; null: there is none.
    #[schema(example = 0.4)]
    pub oldest_seconds: Option<f64>,
    /// Those of them that failed, or have been there for over a minute.
    #[schema(example = 0)]
    pub stuck: i64,
    /// Calls of the last seven days that were given up.
    #[schema(example = 0)]
    pub dead: i64,
}

/// How the queue stands.
pub async fn depth(conn: &mut PgConnection) -> sqlx::Result<Depth> {
    sqlx::query_as(
        "select count(*) as open, extract(epoch from now() - min(created_at))::float8 as oldest_seconds,
                count(*) filter (where failures > 0 or created_at < now() - interval '1 min') as stuck,
                (select count(*) from outbox where done and error is not null and error <> $1) as dead
           from outbox where not done",
    )
    .bind(DROPPED)
    .fetch_one(conn)
    .await
}

macro_rules! entry {
    () => {
        concat!("select o.id, o.bot_id, o.chat_id, o.method, o.kind, o.failures, o.losses, o.uncertain, o.file is not null as has_file,
                o.error, o.created_at, o.ended_at,
                case when not o.done and o.claimed_by is null and isfinite(o.run_at) then o.run_at end as run_at,
                case when o.done then case when o.error is null then 'sent' when o.error = '", dropped!(), "' then 'dropped'
                                        else 'dead' end
                     when o.claimed_by is null then 'waiting' else 'sending' end as state
           from outbox o ")
    };
}

/// Which calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = OutboxFilter)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Not done.
    Open,
    /// Not done, and failed or there for over a minute.
    #[default]
    Stuck,
    /// Given up.
    Dead,
}

/// Calls, newest first: at most `limit` with a number below `before`.
pub async fn list(conn: &mut PgConnection, which: Which, before: Option<i64>, limit: i64) -> sqlx::Result<Vec<Entry>> {
    let query = match which {
        Which::Open => concat!(entry!(), "where not o.done and o.id < $1 order by o.id desc limit $2"),
        Which::Stuck => concat!(
            entry!(),
            "where not o.done and (o.failures > 0 or o.created_at < now() - interval '1 min') and o.id < $1
             order by o.id desc limit $2"
        ),
        Which::Dead => {
            concat!(
                entry!(),
                "where o.done and o.error is not null and o.error <> '",
                dropped!(),
                "' and o.id < $1
                 order by o.id desc limit $2"
            )
        }
    };
    sqlx::query_as(query).bind(before.unwrap_or(i64::MAX)).bind(limit).fetch_all(conn).await
}

/// One call.
pub async fn get(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Entry>> {
    sqlx::query_as(concat!(entry!(), "where o.id = $1")).bind(id).fetch_optional(conn).await
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// There is no such call (any more).
    #[error("There is no call {0}.")]
    Unknown(i64),
    /// Not in its present state; the text is the whole sentence.
    #[error("{0}")]
    Refused(&'static str),
    /// Postgres.
    #[error("the database does not answer: {0}")]
    Database(#[from] sqlx::Error),
}

async fn lock(conn: &mut PgConnection, id: i64) -> Result<Entry, DeskError> {
    sqlx::query_as(concat!(entry!(), "where o.id = $1 for no key update"))
        .bind(id)
        .fetch_optional(conn)
        .await?
        .ok_or(DeskError::Unknown(id))
}

/// Makes a call that waits for its next try now. What it was before; wake [`Queue::Outbox`](crate::wake::Queue) after the
/// commit.
pub async fn retry(conn: &mut PgConnection, id: i64) -> Result<Entry, DeskError> {
    let call = lock(conn, id).await?;
    match call.state.as_str() {
        "waiting" if call.run_at.is_some() && call.error.as_deref() == Some(HELD) => {
            return Err(DeskError::Refused(
                "Telegram wants this chat to be left alone until `run_at`; then it goes by itself.",
            ));
        }
        "waiting" => {}
        "sending" => return Err(DeskError::Refused("It is being sent at this moment.")),
        "sent" => return Err(DeskError::Refused("It was sent; there is nothing to retry.")),
        "dropped" => return Err(DeskError::Refused("It was dropped, and what it said is not kept.")),
        _ => {
            return Err(DeskError::Refused(
                "It was given up, and what it said is not kept: nothing can be sent again. Drop it once you have looked.",
            ));
        }
    }
    sqlx::query("update outbox set run_at = least(run_at, now()) where id = $1").bind(id).execute(conn).await?;
    Ok(call)
}

/// Gives a call up that waits, so that its chat goes on without it; or takes one that was given up off the list. What it was
/// before; wake [`Queue::Outbox`](crate::wake::Queue) after the commit.
pub async fn discard(conn: &mut PgConnection, id: i64) -> Result<Entry, DeskError> {
    let call = lock(conn, id).await?;
    match call.state.as_str() {
        "waiting" | "dead" => {}
        "sending" => return Err(DeskError::Refused("It is being sent at this moment.")),
        "dropped" => return Err(DeskError::Refused("It was dropped already.")),
        _ => return Err(DeskError::Refused("It was sent; there is nothing to drop.")),
    }
    sqlx::query(
        "update outbox set done = true, payload = 'null', file = null, error = $2, ended_at = coalesce(ended_at, now())
          where id = $1",
    )
    .bind(id)
    .bind(DROPPED)
    .execute(conn)
    .await?;
    Ok(call)
}
