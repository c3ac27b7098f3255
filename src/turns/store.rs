//! Turns as rows: queued by the handler of a message, run in order per (chat, agent).

use std::time::Duration;

use baal_protocol::Role;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::storable;
use crate::telegram::outbox::Call;
use crate::telegram::text::Place;
use crate::vault::Vault;

/// Reclaims after which a turn is given up: each time, the replica that ran it died.
/// Many, for what killed the replica was most likely not the turn: the agent does the work, and attaching to it is free.
pub const MAX_RECLAIMS: i32 = 20;

/// What the agent is asked, stored encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The user's words.
    pub message: String,
    /// Their name.
    pub name: String,
    /// Their client's language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_code: Option<String>,
}

/// A turn to be queued.
#[derive(Debug)]
pub struct NewTurn<'a> {
    /// Where the answer goes.
    pub place: Place,
    /// The agent being talked to at this moment.
    pub agent_id: i64,
    /// Who speaks.
    pub user_id: i64,
    /// As what.
    pub role: Role,
    /// What is said.
    pub request: &'a Request,
    /// Messages that this user may send today; every turn counts.
    pub daily_limit: i32,
}

/// Queues a turn and counts it. `None`: the user's messages for today are used up.
///
/// Counting and queueing are one statement, so that no two messages at once slip past the limit. Wake
/// [`Queue::Turns`](crate::wake::Queue) after the commit.
pub async fn enqueue(conn: &mut PgConnection, vault: &Vault, turn: &NewTurn<'_>) -> sqlx::Result<Option<Uuid>> {
    // The request is a plain struct of strings, which always serialises.
    let request = vault.encrypt(&serde_json::to_vec(turn.request).unwrap_or_default());
    sqlx::query_scalar(
        "with counted as (
           insert into usage (user_id, day, messages) select $6, (now() at time zone 'utc')::date, 1 where $9 > 0
           on conflict (user_id, day) do update set messages = usage.messages + 1 where usage.messages < $9
           returning messages)
         insert into turns (id, bot_id, chat_id, thread_id, agent_id, user_id, role, request)
         select $1, $2, $3, $4, $5, $6, $7, $8 from counted returning id",
    )
    .bind(Uuid::now_v7())
    .bind(turn.place.bot_id)
    .bind(turn.place.chat_id)
    .bind(turn.place.thread_id)
    .bind(turn.agent_id)
    .bind(turn.user_id)
    .bind(turn.role.as_str())
    .bind(request)
    .bind(turn.daily_limit)
    .fetch_optional(conn)
    .await
}

/// What a user asked once more, with the answer's place.
#[derive(Debug)]
pub struct Retried {
    /// The agent it was for.
    pub agent_id: i64,
    /// The words, as stored.
    pub request: Request,
}

/// The words of a turn that failed, to be asked again; only its sender can, and only once. The turn is locked until the
/// transaction ends, so that of two presses one finds the words [dropped](drop_request).
pub async fn failed_request(
    conn: &mut PgConnection,
    vault: &Vault,
    id: Uuid,
    user_id: i64,
) -> sqlx::Result<Option<Retried>> {
    let row = sqlx::query(
        "select agent_id, request from turns
          where id = $1 and user_id = $2 and done and status in ('failed', 'unknown') and request <> '' for update",
    )
    .bind(id)
    .bind(user_id)
    .fetch_optional(conn)
    .await?;
    let retried = row.and_then(|row| {
        let plain = vault.decrypt(row.get("request")).ok()?;
        Some(Retried { agent_id: row.get("agent_id"), request: serde_json::from_slice(&plain).ok()? })
    });
    Ok(retried)
}

/// The words of this turn have been asked again.
pub async fn drop_request(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update turns set request = '' where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// A turn in the hands of one replica, with its agent.
#[derive(Clone)]
pub struct Claimed {
    /// The id under which the agent runs it once.
    pub id: Uuid,
    /// Where the answer goes.
    pub place: Place,
    /// Who speaks.
    pub user_id: i64,
    /// As what.
    pub role: Role,
    /// Fernet token of a [`Request`].
    pub request: Vec<u8>,
    /// Fencing token.
    pub attempt: i32,
    /// How often its replica died.
    pub reclaims: i32,
    /// Whether a request has left for an agent that cannot recognise a repetition.
    pub asked: bool,
    /// The outbox row of the first piece.
    pub first_piece: Option<i64>,
    /// The agent's number.
    pub agent_id: i64,
    /// What it is called.
    pub agent_name: String,
    /// `agents.status`.
    pub agent_status: String,
    /// Its base URL.
    pub agent_url: Option<String>,
    /// Fernet token of its bearer secret.
    pub agent_secret: Vec<u8>,
    /// Version of the protocol that it speaks.
    pub agent_protocol: i32,
}

/// Claims up to `limit` turns, of each (chat, agent) the oldest open one. See [`crate::telegram::inbox::claim`] for why
/// the conditions stand on the locked row.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query(
        "with c as materialized (
           select t.id from turns t
            where not t.done and t.claimed_by is null and t.run_at <= now() and t.bot_id = $2
              and not exists (select from turns p where p.bot_id = t.bot_id and p.chat_id = t.chat_id
                                 and p.agent_id = t.agent_id and p.position < t.position and not p.done)
              and exists (select from replicas where id = $1 and expires_at > now())
            order by t.position limit $3 for update of t skip locked)
         update turns q set claimed_by = $1, attempt = q.attempt + 1, started_at = coalesce(q.started_at, now())
           from agents a where q.id = any(array(select c.id from c)) and a.id = q.agent_id
         returning q.id, q.bot_id, q.chat_id, q.thread_id, q.user_id, q.role, q.request, q.attempt, q.reclaims, q.asked,
                   q.first_piece, a.id as agent_id, a.name, a.status, a.url, a.secret, a.protocol",
    )
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            id: row.get("id"),
            place: Place { bot_id: row.get("bot_id"), chat_id: row.get("chat_id"), thread_id: row.get("thread_id") },
            user_id: row.get("user_id"),
            role: if row.get::<&str, _>("role") == "owner" { Role::Owner } else { Role::Visitor },
            request: row.get("request"),
            attempt: row.get("attempt"),
            reclaims: row.get("reclaims"),
            asked: row.get("asked"),
            first_piece: row.get("first_piece"),
            agent_id: row.get("agent_id"),
            agent_name: row.get("name"),
            agent_status: row.get("status"),
            agent_url: row.get("url"),
            agent_secret: row.get("secret"),
            agent_protocol: row.get("protocol"),
        })
        .collect())
}

/// Notes that a request is about to leave for an agent that cannot recognise a repetition. `false`: the claim is lost.
pub async fn mark_asked(db: &PgPool, replica: i64, turn: &Claimed) -> sqlx::Result<bool> {
    let result =
        sqlx::query("update turns set asked = true where id = $1 and claimed_by = $2 and attempt = $3 and not done")
            .bind(turn.id)
            .bind(replica)
            .bind(turn.attempt)
            .execute(db)
            .await?;
    Ok(result.rows_affected() == 1)
}

/// Notes the outbox row of the first piece, in that row's transaction. `false`: the claim is lost.
pub async fn set_first_piece(conn: &mut PgConnection, replica: i64, turn: &Claimed, row: i64) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update turns set first_piece = $4 where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(turn.id)
    .bind(replica)
    .bind(turn.attempt)
    .bind(row)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Answered.
    Completed,
    /// The user was told why not.
    Failed,
    /// The user did not want it any more.
    Cancelled,
    /// It may have run; nobody knows.
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// A turn's outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Why, for operators.
    pub error: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<i64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<i64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// Whether the message is given back to the user's count.
    pub refund: bool,
}

/// A turn that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The outbox row of its first piece, as the database knows it.
    pub first_piece: Option<i64>,
}

/// Ends a turn and puts new messages (`sendMessage`) into the outbox, in one statement. `None`: the claim is lost, and
/// nothing was done. A turn that failed keeps its request for another try, and its message is given back to the user if
/// nothing came of it.
pub async fn finish(
    conn: &mut PgConnection,
    replica: i64,
    turn: &Claimed,
    outcome: &Outcome,
    messages: &[Call],
) -> sqlx::Result<Option<Finished>> {
    let payloads: Vec<&str> = messages.iter().map(|call| call.payload.as_str()).collect();
    let row = sqlx::query(
        "with ended as (
           update turns set done = true, claimed_by = null, status = $4, error = $5, prompt_tokens = $6,
                  completion_tokens = $7, cost = $8, ended_at = now(),
                  request = case when $4 in ('failed', 'unknown') then request else '' end
            where id = $1 and claimed_by = $2 and attempt = $3 and not done
            returning bot_id, chat_id, user_id, created_at, first_piece),
         said as (
           insert into outbox (bot_id, chat_id, method, payload, kind)
           select e.bot_id, e.chat_id, 'sendMessage', m.payload::json, 'reply'
             from ended e, unnest($10::text[]) with ordinality m (payload, place) order by m.place),
         refunded as (
           update usage u set messages = u.messages - 1 from ended e
            where $9 and u.user_id = e.user_id and u.day = (e.created_at at time zone 'utc')::date)
         select first_piece from ended",
    )
    .bind(turn.id)
    .bind(replica)
    .bind(turn.attempt)
    .bind(outcome.status.as_str())
    .bind(outcome.error.as_deref().map(storable::reason))
    .bind(outcome.prompt_tokens)
    .bind(outcome.completion_tokens)
    .bind(outcome.cost)
    .bind(outcome.refund)
    .bind(&payloads)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Finished { first_piece: row.get("first_piece") }))
}

/// The outbox row of a turn's first piece: after a commit whose outcome is not known, only the database can tell.
pub async fn first_piece(db: &PgPool, turn: &Claimed) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("select first_piece from turns where id = $1").bind(turn.id).fetch_one(db).await
}

/// Where the turn's agent is now: its status and base URL.
pub async fn agent_now(db: &PgPool, agent_id: i64) -> sqlx::Result<(String, Option<String>)> {
    sqlx::query_as("select status, url from agents where id = $1").bind(agent_id).fetch_one(db).await
}

/// Hands a turn back for any replica to go on with after `wait`. `crashed`: running it panicked, which counts like a
/// replica's death.
pub async fn hand_back(db: &PgPool, replica: i64, turn: &Claimed, wait: Duration, crashed: bool) -> sqlx::Result<()> {
    sqlx::query(
        "update turns set claimed_by = null, reclaims = reclaims + $5::int, run_at = now() + make_interval(secs => $4)
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(turn.id)
    .bind(replica)
    .bind(turn.attempt)
    .bind(wait.as_secs_f64())
    .bind(i32::from(crashed))
    .execute(db)
    .await?;
    Ok(())
}

/// Gives back what is claimed in this replica's name but not in hand (see [`crate::slots`]).
pub async fn release_strays(db: &PgPool, replica: i64, held: &[Uuid]) -> sqlx::Result<u64> {
    let result = sqlx::query("update turns set claimed_by = null where claimed_by = $1 and not done and id <> all($2)")
        .bind(replica)
        .bind(held)
        .execute(db)
        .await?;
    Ok(result.rows_affected())
}

/// Frees the turns that unregistered replicas had claimed; whoever claims one next attaches to it at the agent.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        // What is locked at the moment is left to the next round.
        "with lost as materialized (
           select t.id from turns t where not t.done and t.claimed_by is not null
              and not exists (select from replicas r where r.id = t.claimed_by) for update of t skip locked)
         update turns t set claimed_by = null, reclaims = t.reclaims + 1 from lost where t.id = lost.id",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
