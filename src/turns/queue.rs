//! How messages become turns: counted, and joined to the turn that waits already or queued as a new one.
//!
//! Invariant: counting and queueing are one statement, so that no two messages at once slip past a limit, and none is
//! counted that is not queued. A message starts a turn at once; those that come while it runs form the next one together.

use std::time::Duration;

use baal_protocol::Role;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::request::{self, Part};
use super::store::Claimed;
use crate::storable;
use crate::telegram::conversation::note_user;
use crate::telegram::inbox;
use crate::telegram::text::Place;
use crate::telegram::update::User;
use crate::trace;
use crate::vault::Vault;

/// Messages in one turn at most; each may bring a file, and agents take this many.
const MAX_MESSAGES: i32 = 20;

/// Bytes of a turn's stored request beyond which no further message joins it: agents take a body of 1 MiB.
const MAX_REQUEST: i32 = 400_000;

/// How many of a chat's newest turns are looked through for a message that was edited.
const EDITABLE: i64 = 200;

/// Messages to be queued.
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
    /// The link by which a visitor came.
    pub link_id: Option<i64>,
    /// Whether the turn has tools.
    pub tools: bool,
    /// What is said; at least one.
    pub parts: &'a [Part],
    /// The turn that brought first what was now edited; such a turn is on its own.
    pub edit_of: Option<Uuid>,
    /// The album that a part belongs to.
    pub album: Option<&'a str>,
    /// For how long to wait for further parts; zero also ends the wait of the turn that it joins.
    pub wait: Duration,
    /// Messages on the operator's key that the sender may send today; none: these do not count.
    pub free_limit: Option<i32>,
    /// Messages that a visitor's link allows each day.
    pub per_day: Option<i32>,
    /// The update that is handled by queueing these messages, and nothing else.
    pub handles: Option<Handles<'a>>,
}

/// An update that ends with the queueing of what it brought.
#[derive(Debug, Clone, Copy)]
pub struct Handles<'a> {
    /// Who has claimed it.
    pub replica: i64,
    /// The claim.
    pub update: &'a inbox::Claimed,
    /// Who wrote it, to be noted.
    pub user: &'a User,
}

/// What became of messages that were to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// They are part of this turn. Wake [`Queue::Turns`](crate::wake::Queue) after the commit.
    Queued(Uuid),
    /// The sender's free messages for today are used up.
    FreeUsedUp,
    /// What the visitor's link allows for today is used up.
    LinkUsedUp,
}

/// Counts messages and queues them, and ends the update that this handles, all in one statement. An update that was to end so
/// and is not claimed any more, or whose messages are refused, is left as it was, and so is everything else.
///
/// They join the chat's newest open turn with this agent, if nobody has ever claimed it: an agent may have seen the words of
/// one that was. A turn holds messages of one UTC day, so that what it counted can be given back.
pub async fn enqueue(conn: &mut PgConnection, vault: &Vault, turn: &NewTurn<'_>) -> sqlx::Result<Enqueued> {
    let tokens: Vec<Vec<u8>> = turn.parts.iter().map(|part| vault.seal(part)).collect();
    let message_ids: Vec<i64> = turn.parts.iter().filter_map(|part| part.message_id).collect();
    let row = sqlx::query(concat!(
        "with held as materialized (
           -- Locked before anything is counted: whoever has lost the claim does nothing.
           select from updates where bot_id = $2 and update_id = $21 and claimed_by = $22 and attempt = $23 and not done for update),
         today as materialized (
           select (now() at time zone 'utc')::date as day where $21::int8 is null or exists (select from held)),
         -- Locked, so that of two messages at once the second sees what the first has counted.
         visit as materialized (
           select $15::int is null or $16 + case when v.day = today.day then v.messages_today else 0 end <= $15 as open
             from visitors v, today where $7 = 'visitor' and v.agent_id = $5 and v.user_id = $6 for update of v),
         counted as (
           insert into usage as u (user_id, day, messages)
           select $6, today.day, $16 from today where $14::int >= $16 and coalesce((select open from visit), true)
           on conflict (user_id, day) do update set messages = u.messages + $16 where u.messages + $16 <= $14
           returning u.messages),
         granted as materialized (
           select today.day from today
            where ($14::int is null or exists (select from counted)) and coalesce((select open from visit), true)),
         visited as (
           update visitors v set messages = v.messages + $16, last_seen_at = now(), day = granted.day,
                  messages_today = $16 + case when v.day = granted.day then v.messages_today else 0 end
             from granted where $7 = 'visitor' and v.agent_id = $5 and v.user_id = $6),
         -- Asked of the locked row: a claim may be taking the turn at this moment.
         waiting as materialized (
           select t.id from turns t, today
            where t.id = (select n.id from turns n where n.bot_id = $2 and n.chat_id = $3 and n.agent_id = $5 and not n.done
                             and n.kind <> 'forget' order by n.position desc limit 1)
              and not t.done and t.claimed_by is null and t.attempt = 0 and not t.cancel_requested
              and t.kind = 'message' and t.edit_of is null and $11::uuid is null
              and t.user_id = $6 and t.role = $7 and t.tools = $10 and t.link_id is not distinct from $9
              and t.thread_id is not distinct from $4
              and (t.created_at at time zone 'utc')::date = today.day
              and cardinality(t.message_ids) + $16 <= $17 and octet_length(t.request) + octet_length($8::bytea) <= $18
              for update of t skip locked),
         joined as (
           update turns t set request = t.request || '\\x0a'::bytea || $8::bytea, message_ids = t.message_ids || $19::int8[],
                  counted = t.counted + case when $14::int is null then 0 else $16 end,
                  album = $12, run_at = now() + make_interval(secs => $13)
             from waiting, granted where t.id = waiting.id returning t.id),
         made as (
           insert into turns (id, bot_id, chat_id, thread_id, agent_id, user_id, role, request, link_id, tools, edit_of, album,
                              run_at, message_ids, counted, trace_context)
           select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now() + make_interval(secs => $13), $19,
                  case when $14::int is null then 0 else $16 end, $20
             from granted where not exists (select from joined) returning id),
         noted as (",
        note_user!("select $6, $24, $25, $26, date_trunc('minute', now()), 1 from granted where $21 is not null"),
        "),
         handled as (
           update updates set done = true, claimed_by = null, body = '', error = null
             from granted where bot_id = $2 and update_id = $21)
         select coalesce((select id from joined), (select id from made)) as id,
                coalesce((select open from visit), true) as link_open",
    ))
    .bind(Uuid::now_v7())
    .bind(turn.place.bot_id)
    .bind(turn.place.chat_id)
    .bind(turn.place.thread_id)
    .bind(turn.agent_id)
    .bind(turn.user_id)
    .bind(turn.role.as_str())
    .bind(tokens.join(&b'\n'))
    .bind(turn.link_id)
    .bind(turn.tools)
    .bind(turn.edit_of)
    .bind(turn.album)
    .bind(turn.wait.as_secs_f64())
    .bind(turn.free_limit)
    .bind(turn.per_day)
    .bind(i32::try_from(turn.parts.len()).unwrap_or(i32::MAX))
    .bind(MAX_MESSAGES)
    .bind(MAX_REQUEST)
    .bind(message_ids)
    .bind(trace::here())
    .bind(turn.handles.map(|handles| handles.update.update_id))
    .bind(turn.handles.map(|handles| handles.replica))
    .bind(turn.handles.map(|handles| handles.update.attempt))
    .bind(turn.handles.map(|handles| storable::text(&handles.user.name())))
    .bind(turn.handles.and_then(|handles| handles.user.username.as_deref().map(storable::text)))
    .bind(turn.handles.and_then(|handles| handles.user.language_code.as_deref().map(storable::text)))
    .fetch_one(conn)
    .await?;
    Ok(match row.get::<Option<Uuid>, _>("id") {
        Some(id) => Enqueued::Queued(id),
        None if row.get("link_open") => Enqueued::FreeUsedUp,
        None => Enqueued::LinkUsedUp,
    })
}

/// Counts the messages of a claimed turn that were queued without being counted. `false`: their sender has none left.
pub async fn count_late(conn: &mut PgConnection, replica: i64, turn: &Claimed, free_limit: i32) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "with late as materialized (
           select id, user_id, greatest(cardinality(message_ids), 1) as messages,
                  (created_at at time zone 'utc')::date as day
             from turns where id = $1 and claimed_by = $2 and attempt = $3 and not done and counted = 0
              -- An earlier try whose answer was lost may be under way still.
              for update),
         counted as (
           insert into usage as u (user_id, day, messages) select user_id, day, messages from late where messages <= $4
           on conflict (user_id, day) do update set messages = u.messages + excluded.messages
                   where u.messages + excluded.messages <= $4
           returning u.messages)
         update turns t set counted = late.messages from late where t.id = late.id and exists (select from counted)",
    )
    .bind(turn.id)
    .bind(replica)
    .bind(turn.attempt)
    .bind(free_limit)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Puts an edited message in the place of what it was, if its turn still waits for its first claim. `false`: it does not,
/// and an agent may have seen what the message was.
pub async fn edit_waiting(
    conn: &mut PgConnection,
    vault: &Vault,
    (place, user_id): (Place, i64),
    part: &Part,
) -> sqlx::Result<bool> {
    let row = sqlx::query(
        "select id, request from turns
          where bot_id = $1 and chat_id = $2 and user_id = $3 and not done and claimed_by is null and attempt = 0
            and kind = 'message' and message_ids @> array[$4::int8]
          order by position limit 1 for update skip locked",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(user_id)
    .bind(part.message_id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(false) };
    // What cannot be read is told when the turn runs.
    let Ok(Some(request)) = request::replace(vault, row.get("request"), part) else { return Ok(false) };
    sqlx::query("update turns set request = $2 where id = $1")
        .bind(row.get::<Uuid, _>("id"))
        .bind(request)
        .execute(conn)
        .await?;
    Ok(true)
}

/// The turn that brought a message first, and its agent; `None` if that is too long ago, or nobody was told.
pub async fn turn_of(
    conn: &mut PgConnection,
    (place, user_id): (Place, i64),
    message_id: i64,
) -> sqlx::Result<Option<(Uuid, i64)>> {
    sqlx::query_as(
        "select n.id, n.agent_id
           from (select id, agent_id, user_id, position, message_ids from turns
                  where bot_id = $1 and chat_id = $2 order by position desc limit $5) n
          where n.user_id = $3 and n.message_ids @> array[$4::int8] order by n.position limit 1",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(user_id)
    .bind(message_id)
    .bind(EDITABLE)
    .fetch_optional(conn)
    .await
}

/// What a user asked once more.
#[derive(Debug)]
pub struct Retried {
    /// The agent it was for.
    pub agent_id: i64,
    /// What was said.
    pub parts: Vec<Part>,
    /// The turn that it was an edit of.
    pub edit_of: Option<Uuid>,
}

/// What was said in a turn that failed, to be asked again; only its sender can, and only once. The turn is locked until the
/// transaction ends, so that of two presses one finds the words [dropped](drop_request).
pub async fn failed_request(
    conn: &mut PgConnection,
    vault: &Vault,
    id: Uuid,
    user_id: i64,
) -> sqlx::Result<Option<Retried>> {
    let row = sqlx::query(
        "select agent_id, request, edit_of from turns
          where id = $1 and user_id = $2 and done and kind = 'message' and status in ('failed', 'unknown') and request <> ''
            for update",
    )
    .bind(id)
    .bind(user_id)
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(|row| {
        // silent-ok: what cannot be read cannot be asked again, and the user is told that
        let parts = request::open(vault, row.get("request")).ok().filter(|parts| !parts.is_empty())?;
        Some(Retried { agent_id: row.get("agent_id"), parts, edit_of: row.get("edit_of") })
    }))
}

/// The words of this turn have been asked again.
pub async fn drop_request(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update turns set request = '' where id = $1").bind(id).execute(conn).await?;
    Ok(())
}
