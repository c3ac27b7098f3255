//! The outbox: calls to Telegram as rows, written in the transaction that decides them and made by the
//! [`sender`](super::sender).

use serde::Serialize;
use sqlx::PgConnection;
use teloxide_core::requests::Payload;

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
        "insert into outbox (bot_id, chat_id, method, payload, edits, kind, ordered) \
         values ($1, $2, $3, $4::json, $5, $6, $7) returning id",
    )
    .bind(call.bot_id)
    .bind(call.chat_id)
    .bind(&call.method)
    .bind(&call.payload)
    .bind(call.edits)
    .bind(call.kind.as_str())
    .bind(call.ordered)
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
         insert into outbox (bot_id, chat_id, method, payload, edits, kind, ordered, run_at)
         select $1, $2, $3, $4::json, $5, $6, false, now() + interval '1 s'
          where not exists (select from replaced)",
    )
    .bind(call.bot_id)
    .bind(call.chat_id)
    .bind(&call.method)
    .bind(&call.payload)
    .bind(call.edits)
    .bind(call.kind.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// Frees the rows that unregistered replicas had claimed. Each was in flight: a message may have reached Telegram, so its
/// row is marked `uncertain`; it goes out again if it answers a user and is dropped if nobody asked. Edits, deletions and
/// callback answers can be repeated without harm.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        "update outbox set claimed_by = null, uncertain = uncertain or method like 'send%',
                done = (kind = 'notice' and method like 'send%'),
                ended_at = case when kind = 'notice' and method like 'send%' then now() end,
                error = case when method like 'send%' then 'in flight when its replica died' end
          where not done and claimed_by is not null and not exists (select from replicas r where r.id = claimed_by)",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
