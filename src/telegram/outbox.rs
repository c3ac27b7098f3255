//! The outbox: calls to Telegram as rows, written in the transaction that decides them and made by the
//! [`sender`](super::sender).

mod claims;
pub mod desk;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, Row};
use teloxide_core::requests::Payload;

use crate::trace;

pub use claims::{
    Claimed, Ended, Lane, becomes_send, becomes_words, claim, claimed_by, finish, leaves, moved, postpone, release,
    take_back,
};

/// Why a call waits that Telegram wants to have later: until its `run_at` it must not be made.
pub const HELD: &str = "Telegram wanted us to wait";

/// Whether somebody waits for a call's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a user: goes out at once, and again where it is uncertain whether Telegram had it.
    Reply,
    /// Nobody asked: paced, and never sent twice.
    Notice,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Notice => "notice",
        }
    }
}

/// A call to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The bot that makes it.
    pub bot_id: i64,
    /// The chat in whose order it stands.
    pub chat_id: i64,
    /// Telegram's method, such as `sendMessage`.
    pub method: String,
    /// The method's parameters as JSON; `message_id` is filled in where `edits` is set.
    pub payload: String,
    /// The outbox row whose message this call edits or deletes.
    pub edits: Option<i64>,
    /// Whether somebody waits for it.
    pub kind: Kind,
    /// Whether it keeps the chat's order; callback answers do not.
    pub ordered: bool,
    /// What is sent as the method's file (`photo` of `sendPhoto`, `document` of `sendDocument`).
    pub file: Option<FileSource>,
}

/// Where a call's file comes from when it is sent; rows hold no bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum FileSource {
    /// A file that an agent offers (`GET /files/{path}`).
    Agent {
        /// The agent's number.
        agent_id: i64,
        /// As the agent named it; hostile.
        path: String,
    },
    /// The picture (PNG) of a QR code.
    Qr {
        /// What it says.
        text: String,
    },
}

impl Call {
    /// A call in its chat's order that answers a user.
    pub fn reply<P: Payload + Serialize>(bot_id: i64, chat_id: i64, payload: &P) -> Self {
        Self {
            bot_id,
            chat_id,
            method: method_name::<P>(),
            // Payloads are plain structs with string keys, which always serialise.
            payload: serde_json::to_string(payload).unwrap_or_default(),
            edits: None,
            kind: Kind::Reply,
            ordered: true,
            file: None,
        }
    }

    /// Out of order and at once.
    pub fn unordered(mut self) -> Self {
        self.ordered = false;
        self
    }

    /// Nobody asked for it.
    pub fn notice(mut self) -> Self {
        self.kind = Kind::Notice;
        self
    }

    /// Acts on the message that outbox row `id` sent.
    pub fn editing(mut self, id: i64) -> Self {
        self.edits = Some(id);
        self
    }
}

/// Telegram's name of a payload's method: teloxide-core's `SendMessage` is `sendMessage`.
pub fn method_name<P: Payload>() -> String {
    let mut name = P::NAME.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}

/// Puts a call into the outbox; the id is its place in the chat's order. Wake [`Queue::Outbox`](crate::wake::Queue)
/// after the commit.
pub async fn enqueue(conn: &mut PgConnection, call: &Call) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "insert into outbox (bot_id, chat_id, method, payload, edits, kind, ordered, file, trace_context) \
         values ($1, $2, $3, $4::json, $5, $6, $7, $8, $9) returning id",
    )
    .bind(call.bot_id)
    .bind(call.chat_id)
    .bind(&call.method)
    .bind(&call.payload)
    .bind(call.edits)
    .bind(call.kind.as_str())
    .bind(call.ordered)
    .bind(call.file.as_ref().map(sqlx::types::Json))
    .bind(trace::here())
    .fetch_one(conn)
    .await
}

/// Puts an edit of a progress message into the outbox, at most one a second and only the newest: an edit of the same
/// message that has not gone out is replaced. Not in the chat's order, so that replies never wait for its pace.
pub async fn enqueue_progress(conn: &mut PgConnection, call: &Call) -> sqlx::Result<()> {
    // The open row is locked (skipping one that a sender is just claiming), so that replacing and claiming exclude each
    // other. A second's wait before each edit is both the pace and the time in which further steps gather.
    sqlx::query(
        "with open as materialized (
           select id from outbox where edits = $5 and not done and claimed_by is null
            order by id desc limit 1 for update skip locked),
         replaced as (update outbox o set payload = $4::json from open where o.id = open.id returning o.id)
         insert into outbox (bot_id, chat_id, method, payload, edits, kind, ordered, run_at, trace_context)
         select $1, $2, $3, $4::json, $5, $6, false, now() + interval '1 s', $7
          where not exists (select from replaced)",
    )
    .bind(call.bot_id)
    .bind(call.chat_id)
    .bind(&call.method)
    .bind(&call.payload)
    .bind(call.edits)
    .bind(call.kind.as_str())
    .bind(trace::here())
    .execute(conn)
    .await?;
    Ok(())
}

/// Replaces the parameters of a call that nobody has claimed yet. `false`: too late.
pub async fn replace(conn: &mut PgConnection, id: i64, call: &Call) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update outbox set method = $2, payload = $3::json where id = $1 and not done and claimed_by is null and not uncertain",
    )
    .bind(id)
    .bind(&call.method)
    .bind(&call.payload)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// What became of a row so far: whether it is done, and Telegram's id of its message.
pub async fn outcome(db: &PgPool, id: i64) -> sqlx::Result<(bool, Option<i64>)> {
    let row = sqlx::query("select done, message_id from outbox where id = $1").bind(id).fetch_one(db).await?;
    Ok((row.get("done"), row.get("message_id")))
}
