//! The outbox's rows in the hands of replicas: which may go out, and how each ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Row};

use super::{Call, FileSource, Kind};
use crate::database::list;
use crate::storable;

/// Frees the rows that unregistered replicas had claimed. Each was in flight: a message may have reached Telegram, so its
/// row is marked `uncertain`; it goes out again if it answers a user and is dropped if nobody asked. Edits, deletions and
/// callback answers can be repeated without harm, and a call whose file was still being fetched has not left.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        // What is locked at the moment is left to the next round.
        "with lost as materialized (
           select o.id, o.method like 'send%' and (o.file is null or o.leaving) as sent
             from outbox o where not o.done and o.claimed_by is not null
              and not exists (select from replicas r where r.id = o.claimed_by) for update of o skip locked)
         update outbox o set claimed_by = null, leaving = false, uncertain = o.uncertain or lost.sent,
                done = (o.kind = 'notice' and lost.sent),
                payload = case when o.kind = 'notice' and lost.sent then 'null'::json else o.payload end,
                file = case when o.kind = 'notice' and lost.sent then null else o.file end,
                ended_at = case when o.kind = 'notice' and lost.sent then now() end,
                error = case when lost.sent then 'in flight when its replica died' end
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
    /// What is sent as the method's file.
    pub file: Option<FileSource>,
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
    /// Whether Telegram has said that nothing can be sent to the chat.
    pub unreachable: bool,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
    /// How often Telegram's answer was lost.
    pub losses: i32,
    /// Whether it has been tried for so long that nobody waits any more.
    pub stale: bool,
    /// What led to it, for [`follow`](crate::trace::follow).
    pub trace_context: Option<String>,
}

impl Claimed {
    /// A call that came into being claimed, as the first of its chat's open ones.
    pub fn of_new(
        id: i64,
        call: &Call,
        trace_context: Option<String>,
        claimed_at: DateTime<Utc>,
        unreachable: bool,
    ) -> Self {
        Self {
            id,
            chat_id: call.chat_id,
            method: call.method.clone(),
            payload: call.payload.clone(),
            file: call.file.clone(),
            edits: None,
            target: None,
            kind: call.kind,
            attempt: 1,
            failures: 0,
            unreachable,
            claimed_at,
            losses: 0,
            stale: false,
            trace_context,
        }
    }
}

/// Calls that are claimed apart: a file takes as long as an agent, its machine and Telegram please.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Calls without a file, or with one that is made here.
    Words,
    /// Calls with an agent's file: one of each agent at a time, so that none that dawdles keeps all places, and what failed
    /// behind what has not been tried.
    Files,
}

/// Whose file a call has; null: no agent's.
macro_rules! agent_of {
    ($row:literal) => {
        concat!($row, "file ->> 'agent_id'")
    };
}

/// The claim of one lane's calls.
macro_rules! claim {
    ($lane:expr, $order:literal) => {
        concat!(
            "with c as materialized (
               select o.id from outbox o
                where not o.done and o.claimed_by is null and o.run_at <= now() and o.bot_id = $2 and ($4 or o.kind = 'reply')
                  and o.id >= $5
                  and ",
            $lane,
            "
                  and (not o.ordered or not exists (
                         select from outbox p where p.bot_id = o.bot_id and p.chat_id = o.chat_id and p.id < o.id
                                                and not p.done and p.ordered))
                  and (o.edits is null or not exists (
                         select from outbox p where p.edits = o.edits and p.id < o.id and not p.done)
                       and not exists (select from outbox t where t.id = o.edits and not t.done))
                  and exists (select from replicas where id = $1 and expires_at > now())
                order by ",
            $order,
            " limit $3 for update of o skip locked)
             update outbox q set claimed_by = $1, attempt = q.attempt + 1 where q.id = any(array(select c.id from c))
             returning q.id, q.chat_id, q.method, q.payload::text as payload, q.file, q.edits, q.kind, q.attempt, q.failures,
                       now() as claimed_at, q.losses, q.trace_context, q.created_at < now() - interval '1 day' as stale,
                       exists (select from conversations c where c.bot_id = q.bot_id and c.chat_id = q.chat_id
                                                             and c.unreachable_at is not null) as unreachable,
                       (select t.message_id from outbox t where t.id = q.edits) as target"
        )
    };
}

/// Claims up to `limit` calls from number `floor` on that may go out now: of each chat the oldest open one, and those outside
/// the order.
///
/// A claim says that the call is in flight (one with a file is once it [`leaves`]), so only what will be sent at once is
/// claimed. The conditions are asked of the locked row itself (see [`crate::telegram::inbox::claim`]). A call on another row's message
/// waits until that row is done and goes after earlier calls on it.
pub async fn claim(
    db: &PgPool,
    replica: i64,
    bot_id: i64,
    lane: Lane,
    (limit, floor): (i64, i64),
    notices: bool,
) -> sqlx::Result<Vec<Claimed>> {
    let claim = match lane {
        Lane::Words => claim!(concat!(agent_of!("o."), " is null"), "o.id"),
        Lane::Files => claim!(
            concat!(
                "o.file is not null and ",
                agent_of!("o."),
                " is not null and not exists (select from outbox f where not f.done and f.claimed_by is not null and ",
                agent_of!("f."),
                " = ",
                agent_of!("o."),
                ")"
            ),
            "o.failures, o.id"
        ),
    };
    // Of two calls with files of one agent, the second is seen not to be free once the first is claimed.
    let limit = if lane == Lane::Files { limit.min(1) } else { limit };
    let rows =
        sqlx::query(claim).bind(replica).bind(bot_id).bind(limit).bind(notices).bind(floor).fetch_all(db).await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            id: row.get("id"),
            chat_id: row.get("chat_id"),
            method: row.get("method"),
            payload: row.get("payload"),
            // One that cannot be read is sent without, which Telegram refuses.
            file: row.get::<Option<serde_json::Value>, _>("file").and_then(|json| serde_json::from_value(json).ok()),
            edits: row.get("edits"),
            target: row.get("target"),
            kind: if row.get::<&str, _>("kind") == "notice" { Kind::Notice } else { Kind::Reply },
            attempt: row.get("attempt"),
            failures: row.get("failures"),
            unreachable: row.get("unreachable"),
            claimed_at: row.get("claimed_at"),
            losses: row.get("losses"),
            stale: row.get("stale"),
            trace_context: row.get("trace_context"),
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

/// Records the ends of calls, many in one statement. Rows whose claim was lost are left alone. Whether other calls of their chats are
/// open.
pub async fn finish(db: &PgPool, replica: i64, ended: &[Ended]) -> sqlx::Result<bool> {
    let ids: Vec<i64> = ended.iter().map(|e| e.id).collect();
    let attempts: Vec<i32> = ended.iter().map(|e| e.attempt).collect();
    let message_ids: Vec<Option<i64>> = ended.iter().map(|e| e.message_id).collect();
    let errors: Vec<Option<String>> = ended.iter().map(|e| e.error.as_deref().map(storable::reason)).collect();
    let uncertain: Vec<bool> = ended.iter().map(|e| e.uncertain).collect();
    sqlx::query_scalar(concat!(
        // Not `not done`: a plan that was made when few calls were open would read all that are, and all dead ones among them.
        "with ended as (
           update outbox o set done = true, claimed_by = null, message_id = u.message_id, error = u.error,
                  uncertain = o.uncertain or u.uncertain, ended_at = now(), payload = 'null', file = null
             from unnest(",
        list!("2": int8, "3": int4, "4": int8, "5": text, "6": bool),
        ") u (id, attempt, message_id, error, uncertain)
            where o.id = u.id and o.attempt = u.attempt and o.claimed_by = $1 and o.done is not true
            returning o.id, o.bot_id, o.chat_id)
         select coalesce(bool_or(exists (select from outbox n where n.bot_id = e.bot_id and n.chat_id = e.chat_id and not n.done
                                                                and n.id <> all(array(select d.id from ended d)))), false)
           from ended e",
    ))
    .bind(replica)
    .bind(&ids)
    .bind(&attempts)
    .bind(&message_ids)
    .bind(&errors)
    .bind(&uncertain)
    .fetch_one(db)
    .await
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
        "update outbox set claimed_by = null, leaving = false, error = $4, uncertain = uncertain or $5, losses = losses + $5::int,
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

/// Notes that a call's file is there and that it is about to go out, so that a kill from here on is known to be uncertain.
/// `false`: the claim is lost.
pub async fn leaves(db: &PgPool, replica: i64, call: &Claimed) -> sqlx::Result<bool> {
    let result =
        sqlx::query("update outbox set leaving = true where id = $1 and attempt = $2 and claimed_by = $3 and not done")
            .bind(call.id)
            .bind(call.attempt)
            .bind(replica)
            .execute(db)
            .await?;
    Ok(result.rows_affected() == 1)
}

/// Hands back a call whose file cannot be had, as a message with these parameters in the same place of its chat.
pub async fn becomes_words(db: &PgPool, replica: i64, call: &Claimed, payload: &str, error: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update outbox set method = 'sendMessage', payload = $4::json, file = null, leaving = false, claimed_by = null,
                failures = 0, run_at = now(), error = $5
          where id = $1 and attempt = $2 and claimed_by = $3 and not done",
    )
    .bind(call.id)
    .bind(call.attempt)
    .bind(replica)
    .bind(payload)
    .bind(storable::reason(error))
    .execute(db)
    .await?;
    Ok(())
}

/// The message of row `id` was sent anew under another id: later edits are for that one.
pub async fn moved(db: &PgPool, id: i64, message_id: i64) -> sqlx::Result<()> {
    sqlx::query("update outbox set message_id = $2 where id = $1").bind(id).bind(message_id).execute(db).await?;
    Ok(())
}

/// What is claimed in this replica's name of a lane: calls, and the attempt.
pub async fn claimed_by(db: &PgPool, replica: i64, lane: Lane) -> sqlx::Result<Vec<(i64, i32)>> {
    sqlx::query_as(concat!(
        "select id, attempt from outbox where claimed_by = $1 and not done and (",
        agent_of!(""),
        " is not null) = $2"
    ))
    .bind(replica)
    .bind(lane == Lane::Files)
    .fetch_all(db)
    .await
}

/// Gives back what this replica has claimed and does not have in hand (see [`crate::slots`]): none of it was sent.
pub async fn release(db: &PgPool, replica: i64, strays: Vec<(i64, i32)>) -> sqlx::Result<u64> {
    let (ids, attempts): (Vec<i64>, Vec<i32>) = strays.into_iter().unzip();
    let result = sqlx::query(
        "update outbox o set claimed_by = null from unnest($2::int8[], $3::int4[]) s (id, attempt)
          where o.id = s.id and o.attempt = s.attempt and o.claimed_by = $1 and not o.done",
    )
    .bind(replica)
    .bind(ids)
    .bind(attempts)
    .execute(db)
    .await?;
    Ok(result.rows_affected())
}
