//! How turns end, as rows: what became of them, what is left to say, and what is given back to whoever asked.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};

use super::store::Claimed;
use crate::storable;
use crate::telegram::outbox::{Call, FileSource};
use crate::trace;

/// How a turn ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// Answered.
    #[default]
    Completed,
    /// The user was told why not.
    Failed,
    /// The user did not want it any more.
    Cancelled,
    /// It may have run; nobody knows.
    Unknown,
}

impl Status {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// A turn's outcome.
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// Whether its messages are given back to the user's count, and to the visitor's.
    pub refund: bool,
    /// Whether the agent has something to say unasked.
    pub pending: bool,
}

impl Outcome {
    /// Only this is known.
    pub fn of(status: Status) -> Self {
        Self { status, ..Self::default() }
    }
}

/// A turn that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The outbox row of its first piece, as the database knows it.
    pub first_piece: Option<i64>,
}

/// Ends a turn and puts new messages into the outbox, in one statement. `None`: the claim is lost, and
/// nothing was done. A turn that failed keeps its request for another try, and its message is given back to the user if
/// nothing came of it.
pub async fn finish(
    conn: &mut PgConnection,
    replica: i64,
    turn: &Claimed,
    outcome: &Outcome,
    messages: &[Call],
) -> sqlx::Result<Option<Finished>> {
    let methods: Vec<&str> = messages.iter().map(|call| call.method.as_str()).collect();
    let payloads: Vec<&str> = messages.iter().map(|call| call.payload.as_str()).collect();
    let files: Vec<Option<sqlx::types::Json<&FileSource>>> =
        messages.iter().map(|call| call.file.as_ref().map(sqlx::types::Json)).collect();
    let row = sqlx::query(
        "with ended as (
           update turns set done = true, claimed_by = null, status = $4, error = $5, prompt_tokens = $6,
                  completion_tokens = $7, cost = $8, ended_at = now(),
                  request = case when $4 in ('failed', 'unknown') then request else '' end
            where id = $1 and claimed_by = $2 and attempt = $3 and not done
            returning bot_id, chat_id, agent_id, user_id, role, counted, cardinality(message_ids) as messages, first_piece,
                      (created_at at time zone 'utc')::date as day),
         said as (
           insert into outbox (bot_id, chat_id, method, payload, file, kind, trace_context)
           select e.bot_id, e.chat_id, m.method, m.payload::json, m.file, 'reply', $14
             from ended e, unnest($10::text[], $11::text[], $12::jsonb[]) with ordinality m (method, payload, file, place)
            order by m.place),
         to_pull as (
           update agents a set pull_at = now() from ended e where $13 and a.id = e.agent_id),
         -- First the visit, then the count, as a message does: otherwise the two may wait for each other for ever.
         unvisited as (
           update visitors v set messages = greatest(v.messages - e.messages, 0),
                  messages_today = greatest(v.messages_today - case when v.day = e.day then e.messages else 0 end, 0)
             from ended e where $9 and e.role = 'visitor' and v.agent_id = e.agent_id and v.user_id = e.user_id returning 1),
         refunded as (
           update usage u set messages = greatest(u.messages - e.counted, 0) from ended e
            where $9 and e.counted > 0 and (select count(*) from unvisited) >= 0 and u.user_id = e.user_id and u.day = e.day)
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
    .bind(&methods)
    .bind(&payloads)
    .bind(&files)
    .bind(outcome.pending)
    .bind(trace::here())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Finished { first_piece: row.get("first_piece") }))
}

/// Ends the turns of a chat that no agent was ever asked, queued until `until`, as nothing can be sent there; their messages
/// are given back. What an agent is to forget it forgets, whoever sees that. How many there were.
pub async fn cancel_unbegun(
    conn: &mut PgConnection,
    (bot_id, chat_id): (i64, i64),
    why: &str,
    until: Option<DateTime<Utc>>,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "with open as materialized (
           select id from turns where bot_id = $1 and chat_id = $2 and not done and claimed_by is null and attempt = 0
              and kind not in ('forget', 'reset') and created_at <= coalesce($4, now()) for update skip locked),
         ended as (
           update turns t set done = true, status = 'cancelled', error = $3, ended_at = now(), request = ''
             from open where t.id = open.id
           returning t.agent_id, t.user_id, t.role, t.counted, cardinality(t.message_ids) as messages,
                     (t.created_at at time zone 'utc')::date as day),
         visits as (select agent_id, user_id, sum(messages) as messages from ended where role = 'visitor' group by 1, 2),
         counts as (select user_id, day, sum(counted) as counted from ended where counted > 0 group by 1, 2),
         -- First the visit, then the count: see `finish`.
         unvisited as (
           update visitors v set messages = greatest(v.messages - s.messages, 0),
                  messages_today = greatest(v.messages_today - (
                    select coalesce(sum(e.messages), 0) from ended e
                     where e.role = 'visitor' and e.agent_id = v.agent_id and e.user_id = v.user_id and e.day = v.day), 0)
             from visits s where v.agent_id = s.agent_id and v.user_id = s.user_id returning 1),
         refunded as (
           update usage u set messages = greatest(u.messages - s.counted, 0) from counts s
            where (select count(*) from unvisited) >= 0 and u.user_id = s.user_id and u.day = s.day)
         select count(*) from ended",
    )
    .bind(bot_id)
    .bind(chat_id)
    .bind(storable::reason(why))
    .bind(until)
    .fetch_one(conn)
    .await
}
