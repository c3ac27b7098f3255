//! Turns as rows: queued by the handler of a message, run in order per (chat, agent).

use std::time::Duration;

use baal_protocol::Role;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

pub use super::request::Request;
use crate::telegram::text::Place;
use crate::trace;
use crate::vault::Vault;

/// Reclaims after which a turn is given up: each time, the replica that ran it died.
/// Many, for what killed the replica was most likely not the turn: the agent does the work, and attaching to it is free.
pub const MAX_RECLAIMS: i32 = 20;

/// What a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Kind {
    /// Words of a person.
    Message,
    /// A new agent introduces itself.
    Hello,
    /// The agent forgets this chat, and says so.
    Reset,
    /// The agent forgets this chat in silence.
    Forget,
}

/// Queues a turn that no message began and that counts nowhere. Wake [`Queue::Turns`](crate::wake::Queue) after the commit.
pub async fn enqueue_special(
    conn: &mut PgConnection,
    vault: &Vault,
    place: Place,
    (agent_id, user_id, role): (i64, i64, Role),
    kind: Kind,
    request: &Request,
) -> sqlx::Result<Uuid> {
    sqlx::query_scalar(
        "insert into turns (id, bot_id, chat_id, thread_id, agent_id, user_id, role, kind, request, trace_context)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning id",
    )
    .bind(Uuid::now_v7())
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(place.thread_id)
    .bind(agent_id)
    .bind(user_id)
    .bind(role.as_str())
    .bind(kind)
    .bind(vault.seal(request))
    .bind(trace::here())
    .fetch_one(conn)
    .await
}

/// Whether the agent is being asked to forget this chat.
pub async fn is_resetting(conn: &mut PgConnection, place: Place, agent_id: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from turns where bot_id = $1 and chat_id = $2 and agent_id = $3 and not done and kind = 'reset')",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(agent_id)
    .fetch_one(conn)
    .await
}

/// A turn in the hands of one replica, with its agent.
#[derive(Clone)]
pub struct Claimed {
    /// The id under which the agent runs it once.
    pub id: Uuid,
    /// Its place among all turns.
    pub position: i64,
    /// Where the answer goes.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// Who speaks.
    pub user_id: i64,
    /// As what.
    pub role: Role,
    /// Whether a visitor's turn has tools.
    pub tools: bool,
    /// Whether its messages did not count when they came, on their owner's key, and would now.
    pub uncounted: bool,
    /// The turn that brought first what was now edited.
    pub edit_of: Option<Uuid>,
    /// Whether the answer keeps the line that tells of tool calls.
    pub verbose: bool,
    /// Whether operators have shut out who speaks.
    pub user_blocked: bool,
    /// Messages a day that operators set for who speaks, instead of FREE_TIER_DAILY_MESSAGES.
    pub daily_messages: Option<i32>,
    /// How long ago it was queued.
    pub age: Duration,
    /// Whether the user has stopped it.
    pub cancel_requested: bool,
    /// Whether nothing can be sent to its chat.
    pub unreachable: bool,
    /// What is asked, as [`request::open`] reads it.
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
    /// Why no message reaches it although it runs.
    pub agent_paused: Option<String>,
    /// Its base URL.
    pub agent_url: Option<String>,
    /// Whether it runs elsewhere.
    pub agent_external: bool,
    /// Fernet token of its bearer secret.
    pub agent_secret: Vec<u8>,
    /// Version of the protocol that it speaks.
    pub agent_protocol: i32,
    /// What led to it, for [`trace::follow`].
    pub trace_context: Option<String>,
}

/// What [`Claimed::of_row`] reads of `q` (the turn) and `a` (its agent).
macro_rules! claimed_columns {
    () => {
        "q.id, q.position, q.bot_id, q.chat_id, q.thread_id, q.kind, q.user_id, q.role, q.tools, q.edit_of,
                   q.kind = 'message' and q.counted = 0 and (a.deployed_key = 0 or a.wanted_key = 0) as uncounted,
                   coalesce((select u.tool_lines from users u where u.id = q.user_id), false) as tool_lines,
                   exists (select from users u where u.id = q.user_id and u.blocked_at is not null) as user_blocked,
                   (select u.daily_messages from users u where u.id = q.user_id) as daily_messages, q.request, q.attempt, q.reclaims, q.asked,
                   q.cancel_requested, extract(epoch from now() - q.created_at)::float8 as age,
                   exists (select from conversations c where c.bot_id = q.bot_id and c.chat_id = q.chat_id
                              and (c.unreachable_at > q.created_at or c.unreachable_at is not null and q.kind <> 'message'))
                     as unreachable,
                   q.first_piece, q.trace_context, a.id as agent_id, a.name, a.status, a.paused, a.url, a.external, a.secret, a.protocol"
    };
}

pub(super) use claimed_columns;

impl Claimed {
    /// Of [`claimed_columns`].
    pub(super) fn of_row(row: &PgRow) -> Self {
        Self {
            id: row.get("id"),
            position: row.get("position"),
            place: Place { bot_id: row.get("bot_id"), chat_id: row.get("chat_id"), thread_id: row.get("thread_id") },
            kind: row.get("kind"),
            user_id: row.get("user_id"),
            tools: row.get("tools"),
            uncounted: row.get("uncounted"),
            edit_of: row.get("edit_of"),
            verbose: row.get("tool_lines"),
            user_blocked: row.get("user_blocked"),
            daily_messages: row.get("daily_messages"),
            age: Duration::from_secs_f64(row.get::<f64, _>("age").max(0.0)),
            cancel_requested: row.get("cancel_requested"),
            unreachable: row.get("unreachable"),
            role: if row.get::<&str, _>("role") == "owner" { Role::Owner } else { Role::Visitor },
            request: row.get("request"),
            attempt: row.get("attempt"),
            reclaims: row.get("reclaims"),
            asked: row.get("asked"),
            first_piece: row.get("first_piece"),
            agent_id: row.get("agent_id"),
            agent_name: row.get("name"),
            agent_status: row.get("status"),
            agent_paused: row.get("paused"),
            agent_url: row.get("url"),
            agent_external: row.get("external"),
            agent_secret: row.get("secret"),
            agent_protocol: row.get("protocol"),
            trace_context: row.get("trace_context"),
        }
    }
}

/// Claims up to `limit` turns with positions from `floor` on, of each (chat, agent) the oldest open one; one that waits for an agent to come back, to forget,
/// holds up nobody. See [`crate::telegram::inbox::claim`] for why
/// the conditions stand on the locked row.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64, floor: i64) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query(concat!(
        "with c as materialized (
           select t.id from turns t
            where not t.done and t.claimed_by is null and t.run_at <= now() and t.bot_id = $2 and t.position >= $4
              and not exists (select from turns p where p.bot_id = t.bot_id and p.chat_id = t.chat_id
                                 and p.agent_id = t.agent_id and p.position < t.position and not p.done
                                 and (p.kind <> 'forget' or p.claimed_by is not null or p.run_at <= now()))
              and exists (select from replicas where id = $1 and expires_at > now())
            order by t.position limit $3 for update of t skip locked)
         update turns q set claimed_by = $1, attempt = q.attempt + 1, started_at = coalesce(q.started_at, now())
           from agents a where q.id = any(array(select c.id from c)) and a.id = q.agent_id
         returning ",
        claimed_columns!(),
    ))
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .bind(floor)
    .fetch_all(db)
    .await?;
    Ok(rows.iter().map(Claimed::of_row).collect())
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

/// Notes that a turn has no tools after all.
pub async fn take_tools(conn: &mut PgConnection, replica: i64, turn: &Claimed) -> sqlx::Result<()> {
    sqlx::query("update turns set tools = false where id = $1 and claimed_by = $2 and attempt = $3 and not done")
        .bind(turn.id)
        .bind(replica)
        .bind(turn.attempt)
        .execute(conn)
        .await?;
    Ok(())
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

/// The outbox row of a turn's first piece: after a commit whose outcome is not known, only the database can tell.
pub async fn first_piece(db: &PgPool, turn: &Claimed) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("select first_piece from turns where id = $1").bind(turn.id).fetch_one(db).await
}

/// Whether nothing can be sent to this chat any more.
pub async fn is_unreachable(db: &PgPool, place: Place) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from conversations where bot_id = $1 and chat_id = $2 and unreachable_at is not null)",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .fetch_one(db)
    .await
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

/// Hands a turn back to be tried after `wait`, behind those that came meanwhile.
pub async fn hand_back_behind(db: &PgPool, replica: i64, turn: &Claimed, wait: Duration) -> sqlx::Result<()> {
    sqlx::query(
        "update turns set claimed_by = null, run_at = now() + make_interval(secs => $4), position = default
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(turn.id)
    .bind(replica)
    .bind(turn.attempt)
    .bind(wait.as_secs_f64())
    .execute(db)
    .await?;
    Ok(())
}

/// What is claimed in this replica's name: turns, and the attempt.
pub async fn claimed_by(db: &PgPool, replica: i64) -> sqlx::Result<Vec<(Uuid, i32)>> {
    sqlx::query_as("select id, attempt from turns where claimed_by = $1 and not done").bind(replica).fetch_all(db).await
}

/// Gives back what this replica has claimed and does not have in hand (see [`crate::slots`]).
pub async fn release(db: &PgPool, replica: i64, strays: Vec<(Uuid, i32)>) -> sqlx::Result<u64> {
    let (ids, attempts): (Vec<Uuid>, Vec<i32>) = strays.into_iter().unzip();
    let result = sqlx::query(
        "update turns t set claimed_by = null from unnest($2::uuid[], $3::int4[]) s (id, attempt)
          where t.id = s.id and t.attempt = s.attempt and t.claimed_by = $1 and not t.done",
    )
    .bind(replica)
    .bind(ids)
    .bind(attempts)
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
