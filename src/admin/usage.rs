//! What was asked and answered, and what that cost: sums over turns, and turns one by one. Never what was said.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::database::columns;

/// Which turns are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first UTC day.
    pub from: NaiveDate,
    /// How many days.
    pub days: i64,
    /// Of this user only.
    pub user_id: Option<i64>,
    /// With this agent only.
    pub agent_id: Option<i64>,
}

impl Range {
    /// The last day.
    pub fn to(&self) -> NaiveDate {
        self.from.checked_add_signed(TimeDelta::days(self.days - 1)).unwrap_or(NaiveDate::MAX)
    }
}

/// By what sums are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// UTC days.
    Day,
    /// Who asked.
    User,
    /// Who was asked.
    Agent,
}

/// A sum.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Sum {
    /// The day, where it is by day.
    pub day: Option<NaiveDate>,
    /// The number of the user or agent, where it is by those.
    pub id: Option<i64>,
    /// What the user or agent is called, as far as that is known.
    pub name: Option<String>,
    /// Messages of people.
    pub messages: i64,
    /// Turns: messages that came together are one.
    pub turns: i64,
    /// Turns that ended without the answer that they were to have.
    pub failures: i64,
    /// Turns that their user stopped.
    pub cancelled: i64,
    /// Tokens of prompts, as the agents tell.
    pub prompt_tokens: i64,
    /// Tokens of answers, as the agents tell.
    pub completion_tokens: i64,
    /// US dollars, as the agents tell.
    pub cost: f64,
}

// What agents tell is bounded before it is summed: no machine of somebody else's makes a sum overflow.
macro_rules! sums {
    () => {
        "coalesce(sum(cardinality(t.message_ids)), 0)::int8 as messages, count(t.id) as turns,
         count(t.id) filter (where t.status in ('failed', 'unknown')) as failures,
         count(t.id) filter (where t.status = 'cancelled') as cancelled,
         coalesce(sum(least(greatest(t.prompt_tokens, 0), 1000000000)), 0)::int8 as prompt_tokens,
         coalesce(sum(least(greatest(t.completion_tokens, 0), 1000000000)), 0)::int8 as completion_tokens,
         coalesce(sum(least(greatest(t.cost, 0), 1000000)), 0)::float8 as cost"
    };
}
macro_rules! asked {
    () => {
        "t.kind in ('message', 'hello')
         and t.created_at >= $1::timestamp at time zone 'utc' and t.created_at < $2::timestamp at time zone 'utc'
         and ($3::int8 is null or t.user_id = $3) and ($4::int8 is null or t.agent_id = $4)"
    };
}

const TOTAL: &str = concat!(
    "select null::date as day, null::int8 as id, null::text as name, ",
    sums!(),
    " from turns t where ",
    asked!()
);
const BY_DAY: &str = concat!(
    "select d.day::date as day, null::int8 as id, null::text as name, ",
    sums!(),
    " from generate_series($1::timestamp, $2::timestamp - interval '1 day', interval '1 day') d (day)
      left join turns t on (t.created_at at time zone 'utc')::date = d.day::date and ",
    asked!(),
    " group by d.day order by d.day desc limit $5",
);
const BY_USER: &str = concat!(
    "select null::date as day, s.id, nullif(u.name, '') as name, s.messages, s.turns, s.failures, s.cancelled,
            s.prompt_tokens, s.completion_tokens, s.cost
       from (select t.user_id as id, ",
    sums!(),
    " from turns t where ",
    asked!(),
    " group by t.user_id order by messages desc, t.user_id limit $5) s left join users u on u.id = s.id
      order by s.messages desc, s.id",
);
const BY_AGENT: &str = concat!(
    "select null::date as day, s.id, a.name, s.messages, s.turns, s.failures, s.cancelled,
            s.prompt_tokens, s.completion_tokens, s.cost
       from (select t.agent_id as id, ",
    sums!(),
    " from turns t where ",
    asked!(),
    " group by t.agent_id order by messages desc, t.agent_id limit $5) s left join agents a on a.id = s.id
      order by s.messages desc, s.id",
);

/// The sum of all.
pub async fn total(conn: &mut PgConnection, range: &Range) -> sqlx::Result<Sum> {
    sqlx::query_as(TOTAL)
        .bind(range.from)
        .bind(after(range))
        .bind(range.user_id)
        .bind(range.agent_id)
        .fetch_one(conn)
        .await
}

/// Sums: of days the newest first, none left out; of users and agents those with most messages first. At most `limit`.
pub async fn sums(conn: &mut PgConnection, range: &Range, by: By, limit: i64) -> sqlx::Result<Vec<Sum>> {
    let query = match by {
        By::Day => BY_DAY,
        By::User => BY_USER,
        By::Agent => BY_AGENT,
    };
    sqlx::query_as(query)
        .bind(range.from)
        .bind(after(range))
        .bind(range.user_id)
        .bind(range.agent_id)
        .bind(limit)
        .fetch_all(conn)
        .await
}

/// The day behind the last.
fn after(range: &Range) -> NaiveDate {
    range.to().succ_opt().unwrap_or(NaiveDate::MAX)
}

/// A turn, without what was said.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Turn {
    /// The id under which the agent ran it.
    pub id: Uuid,
    /// Grows with time.
    pub position: i64,
    /// `message`, `hello`, `reset` or `forget`.
    pub kind: String,
    /// `waiting`, `running`, or how it ended: `completed`, `failed`, `cancelled`, `unknown`.
    pub status: String,
    /// Who asked.
    pub user_id: i64,
    /// `owner` or `visitor`.
    pub role: String,
    /// The link by which a visitor came.
    pub link_id: Option<i64>,
    /// Messages in it.
    pub messages: i32,
    /// How often a replica took it up.
    pub attempts: i32,
    /// When it was asked.
    pub created_at: DateTime<Utc>,
    /// When it was first taken up.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<i64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<i64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// Why it failed, for operators.
    pub error: Option<String>,
}

/// An agent's turns, newest first: at most `limit` before this position, of this user and in this status if they are named.
pub async fn turns(
    conn: &mut PgConnection,
    agent_id: i64,
    (user_id, status): (Option<i64>, Option<&str>),
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Turn>> {
    sqlx::query_as(
        concat!("select ",
            columns!(
                "s.": id, position, kind, user_id, role, link_id, messages, status, attempts, created_at, started_at, ended_at,
                prompt_tokens, completion_tokens, cost, error
            ),
            " from (
           select t.id, t.position, t.kind, t.user_id, t.role, t.link_id, cardinality(t.message_ids) as messages,
                  case when t.done then coalesce(t.status, 'unknown') when t.claimed_by is null then 'waiting'
                       else 'running' end as status,
                  t.attempt as attempts, t.created_at, t.started_at, t.ended_at, t.prompt_tokens, t.completion_tokens,
                  t.cost, t.error
             from turns t where t.agent_id = $1 and t.position < $2 and ($3::int8 is null or t.user_id = $3)) s
          where $4::text is null or s.status = $4
          order by s.position desc limit $5"),
    )
    .bind(agent_id)
    .bind(before.unwrap_or(i64::MAX))
    .bind(user_id)
    .bind(status)
    .bind(limit)
    .fetch_all(conn)
    .await
}
