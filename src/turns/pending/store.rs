//! Agents as rows of a queue of their own: when each is to be pulled, by whom it is, and how far that has come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::agents::access::{self, Access, Visitor};
use crate::agents::{Status, visitors};
use crate::config::Visibility;
use crate::database::{columns, list};
use crate::telegram::outbox::Call;
use crate::together::lock_timeout;

/// A claim on pulling an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The agent's number.
    pub id: i64,
    /// Fencing token.
    pub attempt: i32,
}

/// An agent as it stands while it is being pulled.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its number.
    pub id: i64,
    /// What it is called.
    pub name: String,
    /// Who made it.
    pub owner_id: i64,
    /// Who it is open to.
    pub visibility: Visibility,
    /// The bot that speaks for it.
    pub bot_id: i64,
    /// Where its owner is told of it.
    pub chat_id: i64,
    /// Its base URL.
    pub url: String,
    /// Whether it runs elsewhere.
    pub external: bool,
    /// Fernet token of its bearer secret.
    pub secret: Vec<u8>,
    /// Version of the protocol that it speaks.
    pub protocol: i32,
    /// Up to this id of that database everything is in the outbox.
    pub after: i64,
    /// The database.
    pub database: Option<Uuid>,
}

/// How many agents run.
pub async fn running(db: &PgPool, bot_id: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from agents where status = 'running' and bot_id = $1")
        .bind(bot_id)
        .fetch_one(db)
        .await
}

/// What [`Agent::of_row`] reads.
macro_rules! pulled_columns {
    ($of:literal) => {
        columns!($of: id, name, owner_id, visibility, bot_id, chat_id, url, external, secret, protocol, pending_after, pending_database)
    };
}

impl Agent {
    fn of_row(row: &PgRow) -> Self {
        Self {
            id: row.get("id"),
            name: row.get("name"),
            owner_id: row.get("owner_id"),
            // What cannot be read is open to nobody else.
            visibility: row.get::<&str, _>("visibility").parse().unwrap_or(Visibility::Private),
            bot_id: row.get("bot_id"),
            chat_id: row.get("chat_id"),
            url: row.get("url"),
            external: row.get("external"),
            secret: row.get("secret"),
            protocol: row.get("protocol"),
            after: row.get("pending_after"),
            database: row.get("pending_database"),
        }
    }
}

/// Claims up to `limit` agents whose time has come. Until the claim is [released](release) the time is infinity, so that a
/// wish that comes meanwhile is seen.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64) -> sqlx::Result<Vec<(Key, Agent)>> {
    let rows = sqlx::query(concat!(
        "with c as materialized (
           select a.id from agents a
            where a.status = 'running' and a.url is not null and a.pull_claimed_by is null and a.pull_at <= now()
              and a.bot_id = $2
              and exists (select from replicas where id = $1 and expires_at > now())
            order by a.pull_at limit $3 for no key update of a skip locked)
         update agents q set pull_claimed_by = $1, pull_attempt = q.pull_attempt + 1, pull_at = 'infinity'
          where q.id = any(array(select c.id from c)) returning q.pull_attempt, ",
        pulled_columns!("q."),
    ))
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    let claimed = |row| {
        let agent = Agent::of_row(row);
        (Key { id: agent.id, attempt: row.get("pull_attempt") }, agent)
    };
    Ok(rows.iter().map(claimed).collect())
}

/// The agent as it stands now; `None`: the claim is lost, or the agent does not run.
pub async fn current(db: &PgPool, replica: i64, key: Key) -> sqlx::Result<Option<Agent>> {
    let row = sqlx::query(concat!(
        "select ",
        pulled_columns!(""),
        " from agents where id = $1 and pull_claimed_by = $2 and pull_attempt = $3 and status = 'running' and url is not null",
    ))
    .bind(key.id)
    .bind(replica)
    .bind(key.attempt)
    .fetch_optional(db)
    .await?;
    Ok(row.as_ref().map(Agent::of_row))
}

/// What of an agent's messages is to be taken in.
#[derive(Debug, Clone)]
pub struct Said {
    /// The claim under which they were had.
    pub key: Key,
    /// The mark when they were asked for.
    pub earlier: i64,
    /// Up to this id all is taken in with this.
    pub after: i64,
    /// Whose the ids are.
    pub database: Option<Uuid>,
    /// Messages that go to nobody.
    pub dropped: i64,
    /// In order.
    pub calls: Vec<Call>,
    /// What led to it.
    pub trace_context: Option<String>,
}

/// Puts what agents say into the outbox and raises their marks up to which that is done, all in one statement. Of each in the order
/// given; `false`: the claim is lost, or the mark is not where it was any more, and nothing was done.
pub async fn take_in(db: &PgPool, replica: i64, said: &[Said]) -> sqlx::Result<Vec<bool>> {
    let calls: Vec<(i64, &Said, &Call)> =
        (1..).zip(said).flat_map(|(place, said)| said.calls.iter().map(move |call| (place, said, call))).collect();
    macro_rules! said {
        ($value:expr) => {
            said.iter().map($value).collect::<Vec<_>>()
        };
    }
    macro_rules! calls {
        ($value:expr) => {
            calls.iter().map($value).collect::<Vec<_>>()
        };
    }
    let taken: HashSet<i64> = sqlx::query_scalar(concat!(
        "with patience as materialized (select set_config('lock_timeout', $15, true)),
         raised as (
           update agents a set pending_after = s.after, pending_database = s.database, pending_dropped = a.pending_dropped + s.dropped
             from unnest(",
        list!("2": int8, "3": int4, "4": int8, "5": int8, "6": uuid, "7": int8),
        ") with ordinality s (id, attempt, earlier, after, database, dropped, place), patience
            where a.id = s.id and a.pull_claimed_by = $1 and a.pull_attempt = s.attempt and a.pending_after = s.earlier
            returning s.place),
         queued as (
           insert into outbox (bot_id, chat_id, method, payload, file, kind, trace_context)
           select c.bot_id, c.chat_id, c.method, c.payload::json, c.file, 'notice', c.trace_context
             from unnest(",
        list!("8": int8, "9": int8, "10": int8, "11": text, "12": text, "13": jsonb, "14": text),
        ") with ordinality c (of, bot_id, chat_id, method, payload, file, trace_context, place)
             join raised r on r.place = c.of order by c.place)
         select place from raised",
    ))
    .bind(replica)
    .bind(said!(|said| said.key.id))
    .bind(said!(|said| said.key.attempt))
    .bind(said!(|said| said.earlier))
    .bind(said!(|said| said.after))
    .bind(said!(|said| said.database))
    .bind(said!(|said| said.dropped))
    .bind(calls!(|(place, ..)| *place))
    .bind(calls!(|(.., call)| call.bot_id))
    .bind(calls!(|(.., call)| call.chat_id))
    .bind(calls!(|(.., call)| call.method.as_str()))
    .bind(calls!(|(.., call)| call.payload.as_str()))
    .bind(calls!(|(.., call)| call.file.as_ref().map(sqlx::types::Json)))
    .bind(calls!(|(_, said, _)| said.trace_context.as_deref()))
    .bind(lock_timeout(said.len()))
    .fetch_all(db)
    .await?
    .into_iter()
    .collect();
    Ok((1..).zip(said).map(|(place, _)| taken.contains(&place)).collect())
}

/// Gives agents back, each to be pulled again after its wait, or as soon as somebody has wished meanwhile.
pub async fn release(db: &PgPool, replica: i64, keys: &[(Key, Duration)]) -> sqlx::Result<()> {
    sqlx::query(concat!(
        "with patience as materialized (select set_config('lock_timeout', $5, true))
         update agents a set pull_claimed_by = null, pull_at = least(a.pull_at, now() + make_interval(secs => s.wait))
           from unnest(",
        list!("2": int8, "3": int4, "4": float8),
        ") s (id, attempt, wait), patience
          where a.id = s.id and a.pull_claimed_by = $1 and a.pull_attempt = s.attempt",
    ))
    .bind(replica)
    .bind(keys.iter().map(|(key, _)| key.id).collect::<Vec<_>>())
    .bind(keys.iter().map(|(key, _)| key.attempt).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, wait)| wait.as_secs_f64()).collect::<Vec<_>>())
    .bind(lock_timeout(keys.len()))
    .execute(db)
    .await?;
    Ok(())
}

/// Gives back what is claimed in this replica's name but not in hand (see [`crate::slots`]).
pub async fn release_strays(db: &PgPool, replica: i64, held: &[i64]) -> sqlx::Result<u64> {
    let result = sqlx::query(
        "update agents set pull_claimed_by = null, pull_at = now() where pull_claimed_by = $1 and id <> all($2)",
    )
    .bind(replica)
    .bind(held)
    .execute(db)
    .await?;
    Ok(result.rows_affected())
}

/// Frees the agents that unregistered replicas were pulling.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        "with lost as materialized (
           select a.id from agents a where a.pull_claimed_by is not null
              and not exists (select from replicas r where r.id = a.pull_claimed_by) for no key update of a skip locked)
         update agents a set pull_claimed_by = null, pull_at = now() from lost where a.id = lost.id",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}

/// A chat that an agent may write to unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// By which bot it is reached: the agent's, or that by which a visitor came last.
    pub bot_id: i64,
    /// Whether it talks to another agent at the moment.
    pub elsewhere: bool,
    /// Whether nothing can be sent there.
    pub unreachable: bool,
    /// Whether as much as may be waits for it already.
    pub full: bool,
}

/// Calls that nobody asked for, for one chat, behind which no more are put: its answers stand in one order with them.
pub const MOST_WAITING: i64 = 20;

/// Chats that an agent wants to write to.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The chats.
    pub chats: Vec<i64>,
}

/// Which of these chats each agent may write to, in the order given: its owner's, and those of visitors who have talked to it and still
/// may. Nobody else's: what an agent's machine says is not to be trusted.
pub async fn recipients(db: &PgPool, asked: &[Asked]) -> sqlx::Result<Vec<HashMap<i64, Recipient>>> {
    let pairs: Vec<(i32, &Agent, i64)> = (0..)
        .zip(asked)
        .flat_map(|(place, asked)| asked.chats.iter().map(move |chat| (place, &*asked.agent, *chat)))
        .collect();
    let rows = sqlx::query(concat!(
        "select c.place, c.chat_id, k.agent_id is distinct from c.agent_id as elsewhere, k.unreachable_at is not null as unreachable,
                u.forgetting_since is not null or u.blocked_at is not null as shut_out,
                b.id as bot_id,
                -- Turns are not kept for ever.
                coalesce(v.messages > 0, false)
                  or exists (select from turns t where t.bot_id in (b.id, c.bot_id) and t.chat_id = c.chat_id
                                and t.agent_id = c.agent_id and t.kind = 'message') as talked,
                (select count(*) from (select from outbox o where o.bot_id = b.id and o.chat_id = c.chat_id and not o.done
                                          and o.kind = 'notice' limit $5) o) as waiting, ",
        visitors::standing!(),
        " from unnest(",
        list!("1": int4, "2": int8, "3": int8, "4": int8),
        ") c (place, agent_id, bot_id, chat_id)
           left join users u on u.id = c.chat_id
           left join visitors v on v.agent_id = c.agent_id and v.user_id = c.chat_id
          cross join lateral (select coalesce(v.bot_id, c.bot_id) as id) b
           left join conversations k on k.bot_id = b.id and k.chat_id = c.chat_id
           left join links l on l.id = v.link_id",
    ))
    .bind(pairs.iter().map(|(place, ..)| *place).collect::<Vec<_>>())
    .bind(pairs.iter().map(|(_, agent, _)| agent.id).collect::<Vec<_>>())
    .bind(pairs.iter().map(|(_, agent, _)| agent.bot_id).collect::<Vec<_>>())
    .bind(pairs.iter().map(|(.., chat)| *chat).collect::<Vec<_>>())
    .bind(MOST_WAITING)
    .fetch_all(db)
    .await?;
    let mut allowed = vec![HashMap::new(); asked.len()];
    for row in &rows {
        let (place, chat): (i32, i64) = (row.get("place"), row.get("chat_id"));
        let agent = &asked[place as usize].agent;
        let visitor = Visitor::of_row(row);
        // A private chat has its user's id.
        let may = match access::of(agent.owner_id, agent.visibility, Status::Running, chat, visitor.as_ref()) {
            Access::Owner => true,
            Access::Visitor(_) => row.get::<Option<bool>, _>("talked").unwrap_or(false),
            Access::Refused(_) => chat == agent.chat_id,
        };
        if may && !row.get::<bool, _>("shut_out") {
            let recipient = Recipient {
                bot_id: row.get("bot_id"),
                elsewhere: row.get("elsewhere"),
                unreachable: row.get("unreachable"),
                full: row.get::<i64, _>("waiting") >= MOST_WAITING,
            };
            allowed[place as usize].insert(chat, recipient);
        }
    }
    Ok(allowed)
}
