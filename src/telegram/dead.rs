//! The inbox as operators look at it: how deep it is, and its dead letters. Never what an update says.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::IgnoredAny;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;

use crate::vault::Vault;

/// The kinds of updates that Telegram knows, by the field that holds them (Bot API, "Update").
const KINDS: [&str; 24] = [
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_connection",
    "business_message",
    "edited_business_message",
    "deleted_business_messages",
    "message_reaction",
    "message_reaction_count",
    "inline_query",
    "chosen_inline_result",
    "callback_query",
    "shipping_query",
    "pre_checkout_query",
    "purchased_paid_media",
    "poll",
    "poll_answer",
    "my_chat_member",
    "chat_member",
    "chat_join_request",
    "chat_boost",
    "removed_chat_boost",
    "managed_bot",
];

/// How many updates wait to be handled.
#[derive(Debug, Clone, Copy, PartialEq, FromRow, Serialize, ToSchema)]
#[schema(as = InboxDepth)]
pub struct Depth {
    /// Updates that are not handled.
    #[schema(example = 2)]
    pub open: i64,
    /// Those of them that a replica has in hand.
    #[schema(example = 1)]
    pub in_hand: i64,
    /// Those of them whose handling failed and is tried again.
    #[schema(example = 0)]
    pub failing: i64,
    /// Seconds since the oldest of them came; null: there is none.
    #[schema(example = 0.1)]
    pub oldest_seconds: Option<f64>,
    /// Dead letters: see `/updates/dead`.
    #[schema(example = 0)]
    pub dead: i64,
}

/// How the inbox stands.
pub async fn depth(conn: &mut PgConnection) -> sqlx::Result<Depth> {
    sqlx::query_as(
        "select count(*) as open, count(claimed_by) as in_hand, count(*) filter (where failures > 0) as failing,
                extract(epoch from now() - min(received_at))::float8 as oldest_seconds,
                (select count(*) from updates where done and error is not null) as dead
           from updates where not done",
    )
    .fetch_one(conn)
    .await
}

/// A dead letter: an update that was given up.
#[derive(Clone, FromRow)]
pub struct Letter {
    /// The bot that got it.
    pub bot_id: i64,
    /// Telegram's number; negative where none could be read.
    pub update_id: i64,
    /// The chat in whose order it stood, or a number for none ([`chat_of`](super::update::chat_of)).
    pub chat_id: i64,
    /// Failures of its handling.
    pub failures: i32,
    /// Replicas that died over it.
    pub reclaims: i32,
    /// Why it was given up.
    pub error: String,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// Fernet token of what Telegram sent; empty where that showed a key.
    body: Vec<u8>,
}

impl Letter {
    /// The kind of update that it is, if that can be told.
    pub fn kind(&self, vault: &Vault) -> Option<&'static str> {
        // silent-ok: an emptied body, another key's, and what is no JSON have no kind; the letter's error says why it is one.
        let body = vault.decrypt(&self.body).ok()?;
        let fields: BTreeMap<String, IgnoredAny> = serde_json::from_slice(&body).ok()?; // silent-ok: as above
        KINDS.into_iter().find(|kind| fields.contains_key(*kind))
    }

    /// Whether what Telegram sent is still there.
    pub fn is_whole(&self) -> bool {
        !self.body.is_empty()
    }
}

macro_rules! letter {
    () => {
        "select u.bot_id, u.update_id, u.chat_id, u.failures, u.reclaims, u.error, u.received_at, u.body from updates u
          where u.done and u.error is not null "
    };
}

/// Dead letters, newest first: at most `limit` behind the one that `before` names (bot and update).
pub async fn list(conn: &mut PgConnection, before: Option<(i64, i64)>, limit: i64) -> sqlx::Result<Vec<Letter>> {
    sqlx::query_as(concat!(
        letter!(),
        "and ($1::int8 is null or (u.received_at, u.bot_id, u.update_id)
                  < (select b.received_at, b.bot_id, b.update_id from updates b where b.bot_id = $1 and b.update_id = $2))
         order by u.received_at desc, u.bot_id desc, u.update_id desc limit $3"
    ))
    .bind(before.map(|(bot_id, _)| bot_id))
    .bind(before.map(|(_, update_id)| update_id))
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// One dead letter.
pub async fn get(conn: &mut PgConnection, bot_id: i64, update_id: i64) -> sqlx::Result<Option<Letter>> {
    sqlx::query_as(concat!(letter!(), "and u.bot_id = $1 and u.update_id = $2"))
        .bind(bot_id)
        .bind(update_id)
        .fetch_optional(conn)
        .await
}

/// The same, locked until the transaction ends.
pub async fn lock(conn: &mut PgConnection, bot_id: i64, update_id: i64) -> sqlx::Result<Option<Letter>> {
    sqlx::query_as(concat!(letter!(), "and u.bot_id = $1 and u.update_id = $2 for no key update"))
        .bind(bot_id)
        .bind(update_id)
        .fetch_optional(conn)
        .await
}

/// Has a dead letter, which is locked, handled with as many tries as a new one. What took replicas down before still counts:
/// it is handled while nothing else is, and given up if another dies over it. Its chat has gone on meanwhile, so it comes
/// behind what is handled already, but before what waits. `false`: an update of its chat is in hand at this moment, and two are
/// never handled side by side. Wake [`Queue::Updates`](crate::wake::Queue) after the commit.
pub async fn retry(conn: &mut PgConnection, letter: &Letter) -> sqlx::Result<bool> {
    // Those that wait are locked, so that none of them is claimed before the letter stands in front of it.
    let open: Vec<bool> = sqlx::query_scalar(
        "select claimed_by is not null from updates where bot_id = $1 and chat_id = $2 and not done order by update_id
            for no key update",
    )
    .bind(letter.bot_id)
    .bind(letter.chat_id)
    .fetch_all(&mut *conn)
    .await?;
    if open.contains(&true) {
        return Ok(false);
    }
    sqlx::query(
        "update updates set done = false, claimed_by = null, failures = 0, run_at = '-infinity', error = null
          where bot_id = $1 and update_id = $2 and done",
    )
    .bind(letter.bot_id)
    .bind(letter.update_id)
    .execute(conn)
    .await?;
    Ok(true)
}

/// Takes a dead letter, which is locked, off the list, and empties it. Its number stays, so that Telegram's repetition of it
/// is recognised.
pub async fn discard(conn: &mut PgConnection, letter: &Letter) -> sqlx::Result<()> {
    sqlx::query("update updates set body = '', error = null where bot_id = $1 and update_id = $2 and done")
        .bind(letter.bot_id)
        .bind(letter.update_id)
        .execute(conn)
        .await?;
    Ok(())
}
