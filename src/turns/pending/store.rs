//! Agents as rows of a queue of their own: when each is to be pulled, by whom it is, and how far that has come.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::agents::access::{self, Access, Visitor};
use crate::agents::{Status, visitors};
use crate::config::Visibility;

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

/// Claims up to `limit` agents whose time has come. Until the claim is [released](release) the time is infinity, so that a
/// wish that comes meanwhile is seen.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64) -> sqlx::Result<Vec<Key>> {
    let rows = sqlx::query(
        "with c as materialized (
           select a.id from agents a
            where a.status = 'running' and a.url is not null and a.pull_claimed_by is null and a.pull_at <= now()
              and a.bot_id = $2
              and exists (select from replicas where id = $1 and expires_at > now())
            order by a.pull_at limit $3 for no key update of a skip locked)
         update agents q set pull_claimed_by = $1, pull_attempt = q.pull_attempt + 1, pull_at = 'infinity'
          where q.id = any(array(select c.id from c)) returning q.id, q.pull_attempt",
    )
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows.iter().map(|row| Key { id: row.get("id"), attempt: row.get("pull_attempt") }).collect())
}

/// The agent as it stands now; `None`: the claim is lost, or the agent does not run.
pub async fn current(db: &PgPool, replica: i64, key: Key) -> sqlx::Result<Option<Agent>> {
    let row = sqlx::query(
        "select id, name, owner_id, visibility, bot_id, chat_id, url, external, secret, protocol, pending_after, pending_database
           from agents where id = $1 and pull_claimed_by = $2 and pull_attempt = $3 and status = 'running' and url is not null",
    )
    .bind(key.id)
    .bind(replica)
    .bind(key.attempt)
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Agent {
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
    }))
}

/// Raises the mark up to which everything is in the outbox, in the transaction that puts it there. `false`: the claim is lost,
/// or the mark is not `from` any more: what was to be put there is there.
pub async fn raise(
    conn: &mut PgConnection,
    replica: i64,
    key: Key,
    from: i64,
    (after, database): (i64, Option<Uuid>),
    dropped: i64,
) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update agents set pending_after = $5, pending_database = $6, pending_dropped = pending_dropped + $7
          where id = $1 and pull_claimed_by = $2 and pull_attempt = $3 and pending_after = $4",
    )
    .bind(key.id)
    .bind(replica)
    .bind(key.attempt)
    .bind(from)
    .bind(after)
    .bind(database)
    .bind(dropped)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Gives an agent back, to be pulled again after `wait`, or as soon as somebody has wished meanwhile.
pub async fn release(db: &PgPool, replica: i64, key: Key, wait: Duration) -> sqlx::Result<()> {
    sqlx::query(
        "update agents set pull_claimed_by = null, pull_at = least(pull_at, now() + make_interval(secs => $4))
          where id = $1 and pull_claimed_by = $2 and pull_attempt = $3",
    )
    .bind(key.id)
    .bind(replica)
    .bind(key.attempt)
    .bind(wait.as_secs_f64())
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

/// Which of these chats an agent may write to: its owner's, and those of visitors who have talked to it and still may. Nobody
/// else's: what an agent's machine says is not to be trusted.
pub async fn recipients(
    conn: &mut PgConnection,
    agent: &Agent,
    chats: &[i64],
) -> sqlx::Result<HashMap<i64, Recipient>> {
    let rows = sqlx::query(concat!(
        "select c.chat_id, k.agent_id is distinct from $1 as elsewhere, k.unreachable_at is not null as unreachable,
                u.forgetting_since is not null or u.blocked_at is not null as shut_out,
                b.id as bot_id,
                -- Turns are not kept for ever.
                coalesce(v.messages > 0, false)
                  or exists (select from turns t where t.bot_id in (b.id, $2) and t.chat_id = c.chat_id
                                and t.agent_id = $1 and t.kind = 'message') as talked,
                (select count(*) from (select from outbox o where o.bot_id = b.id and o.chat_id = c.chat_id and not o.done
                                          and o.kind = 'notice' limit $4) o) as waiting, ",
        visitors::standing!(),
        " from unnest($3::int8[]) c (chat_id)
           left join users u on u.id = c.chat_id
           left join visitors v on v.agent_id = $1 and v.user_id = c.chat_id
          cross join lateral (select coalesce(v.bot_id, $2) as id) b
           left join conversations k on k.bot_id = b.id and k.chat_id = c.chat_id
           left join links l on l.id = v.link_id",
    ))
    .bind(agent.id)
    .bind(agent.bot_id)
    .bind(chats)
    .bind(MOST_WAITING)
    .fetch_all(conn)
    .await?;
    let allowed = rows.iter().filter_map(|row| {
        let chat: i64 = row.get("chat_id");
        let visitor = Visitor::of_row(row);
        // A private chat has its user's id.
        let may = match access::of(agent.owner_id, agent.visibility, Status::Running, chat, visitor.as_ref()) {
            Access::Owner => true,
            Access::Visitor(_) => row.get::<Option<bool>, _>("talked").unwrap_or(false),
            Access::Refused(_) => chat == agent.chat_id,
        };
        let recipient = Recipient {
            bot_id: row.get("bot_id"),
            elsewhere: row.get("elsewhere"),
            unreachable: row.get("unreachable"),
            full: row.get::<i64, _>("waiting") >= MOST_WAITING,
        };
        (may && !row.get::<bool, _>("shut_out")).then_some((chat, recipient))
    });
    Ok(allowed.collect())
}
