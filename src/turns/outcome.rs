//! How turns end, as rows: what became of them, what is left to say, and what is given back to whoever asked.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use super::store::Claimed;
use crate::database::list;
use crate::storable;
use crate::telegram::outbox::{self, Call};
use crate::telegram::sender::Sender;
use crate::together::lock_timeout;
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

/// What a turn ends with.
#[derive(Debug, Clone)]
pub struct End {
    id: Uuid,
    attempt: i32,
    outcome: Outcome,
    messages: Vec<Call>,
    trace_context: Option<String>,
}

impl End {
    /// Of this claim; `messages` go into the outbox, in their order.
    pub fn of(turn: &Claimed, outcome: &Outcome, messages: Vec<Call>) -> Self {
        Self { id: turn.id, attempt: turn.attempt, outcome: outcome.clone(), messages, trace_context: trace::here() }
    }

    /// Whether its first message may be taken: files have a lane of their own.
    fn can_be_taken(&self) -> bool {
        self.messages.first().is_some_and(|call| call.file.is_none())
    }
}

/// A turn that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The outbox row of its first piece, as the database knows it.
    pub first_piece: Option<i64>,
    /// Whether another one waits for its end.
    pub awaited: bool,
    /// Whether the first of its messages is claimed already.
    pub taken: bool,
}

/// Gives the messages of those turns of `ended` that say `refund` back to their senders' counts, and to the visitors'.
macro_rules! give_back {
    () => {
        "visits as (
           select agent_id, user_id, sum(messages) as messages from ended where refund and role = 'visitor' group by 1, 2),
         counts as (
           select user_id, day, sum(counted) as counted from ended where refund and counted > 0 group by 1, 2),
         -- First the visits, then the counts, and each in the order in which messages lock them: otherwise the two may wait for each
         -- other for ever.
         visit as materialized (
           select v.agent_id, v.user_id, s.messages from visitors v join visits s using (agent_id, user_id)
            order by v.agent_id, v.user_id for update of v),
         unvisited as (
           update visitors v set messages = greatest(v.messages - s.messages, 0),
                  messages_today = greatest(v.messages_today - (
                    select coalesce(sum(e.messages), 0) from ended e
                     where e.refund and e.role = 'visitor' and e.agent_id = v.agent_id and e.user_id = v.user_id and e.day = v.day), 0)
             from visit s where v.agent_id = s.agent_id and v.user_id = s.user_id returning 1),
         count as materialized (
           select u.user_id, u.day, s.counted from usage u join counts s using (user_id, day)
            where (select count(*) from unvisited) >= 0 order by u.user_id, u.day for update of u),
         refunded as (
           update usage u set messages = greatest(u.messages - s.counted, 0) from count s
            where u.user_id = s.user_id and u.day = s.day)"
    };
}

/// [`finish`], and hands over to the sender of this process the messages that it takes.
pub async fn finish_and_hand_over(
    db: &PgPool,
    replica: i64,
    ends: &[End],
    sender: &Sender,
) -> sqlx::Result<Vec<Option<Finished>>> {
    let mut conn = db.acquire().await?;
    let prepared = sender.prepare(ends.iter().filter(|end| end.can_be_taken()).count());
    let (finished, taken) = finish(&mut conn, replica, ends, prepared.places()).await?;
    prepared.settle(taken.into_iter().map(|call| ((call.id, call.attempt), call)));
    Ok(finished)
}

/// Ends turns and puts their messages into the outbox, all in one statement. Of each in the order given; `None`: the claim is lost, and
/// nothing was done. A turn that failed keeps its request for another try, and its message is given back to the user if
/// nothing came of it.
///
/// Up to `places` first messages of turns, of chats in which no call is open, come into being claimed, as [`outbox::claim`] would
/// find them. They are what is returned beside.
pub async fn finish(
    conn: &mut PgConnection,
    replica: i64,
    ends: &[End],
    mut places: usize,
) -> sqlx::Result<(Vec<Option<Finished>>, Vec<outbox::Claimed>)> {
    // One that was given up may still wait when it is tried again: its messages would be said twice.
    let mut ids = HashSet::new();
    let once: Vec<&End> = ends.iter().filter(|end| ids.insert(end.id)).collect();
    macro_rules! column {
        ($value:expr) => {
            once.iter().map($value).collect::<Vec<_>>()
        };
    }
    let said: Vec<(&End, usize, &Call)> =
        once.iter().flat_map(|end| end.messages.iter().enumerate().map(move |(n, call)| (*end, n, call))).collect();
    let mut takes = |(end, n, _): &(&End, usize, &Call)| {
        let take = *n == 0 && end.can_be_taken() && places > 0;
        places -= usize::from(take);
        take
    };
    macro_rules! said {
        ($value:expr) => {
            said.iter().map($value).collect::<Vec<_>>()
        };
    }
    let rows = sqlx::query(concat!(
        // Not `not done`: a plan that was made when few turns were open would read all that are, and all dead ones among them.
        "with patience as materialized (select set_config('lock_timeout', $16, true)),
         ended as (
           update turns t set done = true, claimed_by = null, status = e.status, error = e.error, prompt_tokens = e.prompt_tokens,
                  completion_tokens = e.completion_tokens, cost = e.cost, ended_at = now(),
                  request = case when e.status in ('failed', 'unknown') then t.request else '' end
             from unnest(",
        list!("2": uuid, "3": int4, "4": text, "5": text, "6": int8, "7": int8, "8": float8, "9": bool, "10": bool),
        ")
                  e (id, attempt, status, error, prompt_tokens, completion_tokens, cost, refund, pending), patience
            where t.id = e.id and t.claimed_by = $1 and t.attempt = e.attempt and t.done is not true
            returning t.id, t.bot_id, t.chat_id, t.agent_id, t.user_id, t.role, t.counted, cardinality(t.message_ids) as messages,
                      t.first_piece, (t.created_at at time zone 'utc')::date as day, e.refund, e.pending),
         saying as materialized (
           select e.id, e.bot_id, e.chat_id, m.method, m.payload::json, m.file, m.trace_context, m.place,
                  m.take and exists (select from replicas where id = $1 and expires_at > now())
                  and row_number() over (partition by e.bot_id, e.chat_id order by m.place) = 1
                  and not exists (select from outbox p where p.bot_id = e.bot_id and p.chat_id = e.chat_id and not p.done and p.ordered)
                  as taken
             from unnest(",
        list!("11": uuid, "12": text, "13": text, "14": jsonb, "15": text, "17": bool),
        ") with ordinality
                  m (turn_id, method, payload, file, trace_context, take, place)
             join ended e on e.id = m.turn_id),
         said as (
           insert into outbox (bot_id, chat_id, method, payload, file, kind, trace_context, claimed_by, attempt)
           select s.bot_id, s.chat_id, s.method, s.payload, s.file, 'reply', s.trace_context, case when s.taken then $1 end, s.taken::int
             from saying s order by s.place
           returning id, bot_id, chat_id, claimed_by),
         to_pull as (
           update agents a set pull_at = now() where a.id = any(array(select e.agent_id from ended e where e.pending))),
         ",
        give_back!(),
        "
         select e.id, e.first_piece,
                exists (select from turns n where n.bot_id = e.bot_id and n.chat_id = e.chat_id and n.agent_id = e.agent_id
                           and not n.done and n.id <> e.id) as awaited,
                q.id as call_id, now() as claimed_at,
                q.id is not null and exists (select from conversations c where c.bot_id = e.bot_id and c.chat_id = e.chat_id
                                                and c.unreachable_at is not null) as unreachable
           from ended e left join saying s on s.id = e.id and s.taken
                -- Of a chat, one is taken at most.
                left join said q on q.bot_id = s.bot_id and q.chat_id = s.chat_id and q.claimed_by is not null",
    ))
    .bind(replica)
    .bind(column!(|end| end.id))
    .bind(column!(|end| end.attempt))
    .bind(column!(|end| end.outcome.status.as_str()))
    .bind(column!(|end| end.outcome.error.as_deref().map(storable::reason)))
    .bind(column!(|end| end.outcome.prompt_tokens))
    .bind(column!(|end| end.outcome.completion_tokens))
    .bind(column!(|end| end.outcome.cost))
    .bind(column!(|end| end.outcome.refund))
    .bind(column!(|end| end.outcome.pending))
    .bind(said!(|(end, _, _)| end.id))
    .bind(said!(|(_, _, call)| call.method.as_str()))
    .bind(said!(|(_, _, call)| call.payload.as_str()))
    .bind(said!(|(_, _, call)| call.file.as_ref().map(sqlx::types::Json)))
    .bind(said!(|(end, _, _)| end.trace_context.as_deref()))
    .bind(lock_timeout(once.len()))
    .bind(said!(&mut takes))
    .fetch_all(conn)
    .await?;
    let by_id: HashMap<Uuid, &&End> = once.iter().map(|end| (end.id, end)).collect();
    let (mut ended, mut taken) = (HashMap::new(), Vec::new());
    for row in &rows {
        let id: Uuid = row.get("id");
        let call: Option<i64> = row.get("call_id");
        let (first_piece, awaited) = (row.get("first_piece"), row.get("awaited"));
        ended.insert(id, Finished { first_piece, awaited, taken: call.is_some() });
        if let (Some(call), Some(end)) = (call, by_id.get(&id))
            && let Some(message) = end.messages.first()
        {
            let trace_context = end.trace_context.clone();
            let (claimed_at, unreachable) = (row.get("claimed_at"), row.get("unreachable"));
            taken.push(outbox::Claimed::of_new(call, message, trace_context, claimed_at, unreachable));
        }
    }
    Ok((ends.iter().map(|end| ended.get(&end.id).copied()).collect(), taken))
}

/// Ends the turns of a chat that no agent was ever asked, queued until `until`, as nothing can be sent there; their messages
/// are given back. What an agent is to forget it forgets, whoever sees that. How many there were.
pub async fn cancel_unbegun(
    conn: &mut PgConnection,
    (bot_id, chat_id): (i64, i64),
    why: &str,
    until: Option<DateTime<Utc>>,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(concat!(
        "with open as materialized (
           select id from turns where bot_id = $1 and chat_id = $2 and not done and claimed_by is null and attempt = 0
              and kind not in ('forget', 'reset') and created_at <= coalesce($4, now()) for update skip locked),
         ended as (
           update turns t set done = true, status = 'cancelled', error = $3, ended_at = now(), request = ''
             from open where t.id = open.id
           returning t.agent_id, t.user_id, t.role, t.counted, cardinality(t.message_ids) as messages,
                     (t.created_at at time zone 'utc')::date as day, true as refund),
         ",
        give_back!(),
        "
         select count(*) from ended",
    ))
    .bind(bot_id)
    .bind(chat_id)
    .bind(storable::reason(why))
    .bind(until)
    .fetch_one(conn)
    .await
}
