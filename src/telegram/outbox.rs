//! The outbox: calls to Telegram as rows, written in the transaction that decides them and made by the
//! [`sender`](super::sender).

use serde::Serialize;
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Row};
use teloxide_core::requests::Payload;

use crate::storable;

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
        // What is locked at the moment is left to the next round.
        "with lost as materialized (
           select o.id from outbox o where not o.done and o.claimed_by is not null
              and not exists (select from replicas r where r.id = o.claimed_by) for update of o skip locked)
         update outbox o set claimed_by = null, uncertain = o.uncertain or o.method like 'send%',
                done = (o.kind = 'notice' and o.method like 'send%'),
                ended_at = case when o.kind = 'notice' and o.method like 'send%' then now() end,
                error = case when o.method like 'send%' then 'in flight when its replica died' end
           from lost where o.id = lost.id",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}

/// A call in the hands of one replica, and as far as that is known in flight.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The row.
    pub id: i64,
    /// The chat in whose order it stands.
    pub chat_id: i64,
    /// Telegram's method.
    pub method: String,
    /// The method's parameters as JSON.
    pub payload: String,
    /// Whether it acts on another row's message.
    pub edits: Option<i64>,
    /// Telegram's id of that message; none if it was never sent.
    pub target: Option<i64>,
    /// Whether somebody waits for it.
    pub kind: Kind,
    /// Fencing token.
    pub attempt: i32,
    /// How often it failed before.
    pub failures: i32,
    /// How often Telegram's answer was lost.
    pub losses: i32,
    /// Whether it has been tried for so long that nobody waits any more.
    pub stale: bool,
}

/// Claims up to `limit` calls that may go out now: of each chat the oldest open one, and those outside the order.
///
/// A claim says that the call is in flight, so only what will be sent at once is claimed. The conditions are asked of
/// the locked row itself (see [`super::inbox::claim`]). A call on another row's message waits until that row is done
/// and goes after earlier calls on it.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64, notices: bool) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query(
        "with c as materialized (
           select o.id from outbox o
            where not o.done and o.claimed_by is null and o.run_at <= now() and o.bot_id = $2 and ($4 or o.kind = 'reply')
              and (not o.ordered or not exists (
                     select from outbox p where p.bot_id = o.bot_id and p.chat_id = o.chat_id and p.id < o.id
                                            and not p.done and p.ordered))
              and (o.edits is null or not exists (
                     select from outbox p where p.edits = o.edits and p.id < o.id and not p.done)
                   and not exists (select from outbox t where t.id = o.edits and not t.done))
              and exists (select from replicas where id = $1 and expires_at > now())
            order by o.id limit $3 for update of o skip locked)
         update outbox q set claimed_by = $1, attempt = q.attempt + 1 where q.id = any(array(select c.id from c))
         returning q.id, q.chat_id, q.method, q.payload::text as payload, q.edits, q.kind, q.attempt, q.failures, q.losses,
                   q.created_at < now() - interval '1 day' as stale,
                   (select t.message_id from outbox t where t.id = q.edits) as target",
    )
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .bind(notices)
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            id: row.get("id"),
            chat_id: row.get("chat_id"),
            method: row.get("method"),
            payload: row.get("payload"),
            edits: row.get("edits"),
            target: row.get("target"),
            kind: if row.get::<&str, _>("kind") == "notice" { Kind::Notice } else { Kind::Reply },
            attempt: row.get("attempt"),
            failures: row.get("failures"),
            losses: row.get("losses"),
            stale: row.get("stale"),
        })
        .collect())
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The row.
    pub id: i64,
    /// Fencing token of the claim.
    pub attempt: i32,
    /// Telegram's id of the message, where the call sent or edited one.
    pub message_id: Option<i64>,
    /// Why nothing came of it.
    pub error: Option<String>,
    /// Whether Telegram may have had it nevertheless.
    pub uncertain: bool,
}

/// Records the ends of calls, many in one statement. Rows whose claim was lost are left alone.
pub async fn finish(db: &PgPool, replica: i64, ended: &[Ended]) -> sqlx::Result<()> {
    let ids: Vec<i64> = ended.iter().map(|e| e.id).collect();
    let attempts: Vec<i32> = ended.iter().map(|e| e.attempt).collect();
    let message_ids: Vec<Option<i64>> = ended.iter().map(|e| e.message_id).collect();
    let errors: Vec<Option<String>> = ended.iter().map(|e| e.error.as_deref().map(storable::reason)).collect();
    let uncertain: Vec<bool> = ended.iter().map(|e| e.uncertain).collect();
    sqlx::query(
        "update outbox o set done = true, claimed_by = null, message_id = u.message_id, error = u.error,
                uncertain = o.uncertain or u.uncertain, ended_at = now(), payload = 'null'
           from unnest($2::int8[], $3::int4[], $4::int8[], $5::text[], $6::bool[]) u (id, attempt, message_id, error, uncertain)
          where o.id = u.id and o.attempt = u.attempt and o.claimed_by = $1 and not o.done",
    )
    .bind(replica)
    .bind(&ids)
    .bind(&attempts)
    .bind(&message_ids)
    .bind(&errors)
    .bind(&uncertain)
    .execute(db)
    .await?;
    Ok(())
}

/// Hands a call back to be made after `wait`. Its chat waits with it.
pub async fn postpone(
    db: &PgPool,
    replica: i64,
    call: &Claimed,
    error: &str,
    uncertain: bool,
    counts: bool,
    wait: Duration,
) -> sqlx::Result<()> {
    sqlx::query(
        "update outbox set claimed_by = null, error = $4, uncertain = uncertain or $5, losses = losses + $5::int,
                failures = failures + $6::int,
                run_at = now() + make_interval(secs => $7)
          where id = $1 and attempt = $2 and claimed_by = $3 and not done",
    )
    .bind(call.id)
    .bind(call.attempt)
    .bind(replica)
    .bind(storable::reason(error))
    .bind(uncertain)
    .bind(counts as i32)
    .bind(wait.as_secs_f64())
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that an edit is about to go out as a new message, so that a kill in between is known to be uncertain. `false`:
/// the claim is lost.
pub async fn becomes_send(db: &PgPool, replica: i64, call: &Claimed, payload: &str) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update outbox set method = 'sendMessage', payload = $4::json
          where id = $1 and attempt = $2 and claimed_by = $3 and not done",
    )
    .bind(call.id)
    .bind(call.attempt)
    .bind(replica)
    .bind(payload)
    .execute(db)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The message of row `id` was sent anew under another id: later edits are for that one.
pub async fn moved(db: &PgPool, id: i64, message_id: i64) -> sqlx::Result<()> {
    sqlx::query("update outbox set message_id = $2 where id = $1").bind(id).bind(message_id).execute(db).await?;
    Ok(())
}

/// Gives back what is claimed in this replica's name but not in hand (see [`crate::slots`]): none of it was sent.
pub async fn release_strays(db: &PgPool, replica: i64, held: &[i64]) -> sqlx::Result<u64> {
    let result =
        sqlx::query("update outbox set claimed_by = null where claimed_by = $1 and not done and id <> all($2)")
            .bind(replica)
            .bind(held)
            .execute(db)
            .await?;
    Ok(result.rows_affected())
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
