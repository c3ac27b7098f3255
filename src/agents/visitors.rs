//! Who opened somebody else's agent, as rows.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, PgConnection, Row as _};

use super::access::{self, Access, Visitor};
use super::model::{Agent, agent_columns};

/// What [`Visitor::of_row`] reads of `visitors v` and `links l`, and whether there is anything to read (`visitor`).
macro_rules! standing {
    () => {
        "v.user_id is not null as visitor, v.admitted_at is not null as admitted, v.asked_at is not null as asked, v.blocked_at is not null as blocked,
         l.id as link_id, l.token_hash is null as by_number, l.tools, l.per_day, l.revoked_at is not null as revoked,
         coalesce(l.expires_at <= now(), false) as expired"
    };
}

pub(crate) use standing;

/// [`Guest`]s of agent `$1`.
macro_rules! guests {
    ($which:literal) => {
        concat!(
            "select v.user_id, u.name, u.username, v.bot_id, v.messages, v.last_seen_at, l.label,
                    case when v.day = (now() at time zone 'utc')::date then v.messages_today else 0 end as messages_today, ",
            standing!(),
            " from visitors v join users u on u.id = v.user_id left join links l on l.id = v.link_id
              where v.agent_id = $1 ",
            $which
        )
    };
}

/// A visitor as the owner sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Guest {
    /// Telegram's id.
    pub user_id: i64,
    /// What they call themselves; any text.
    pub name: String,
    /// Their user name without `@`.
    pub username: Option<String>,
    /// The bot through which they came.
    pub bot_id: i64,
    /// What their rows say.
    pub visitor: Visitor,
    /// What they may do now.
    pub access: Access,
    /// What the link that they came by is called.
    pub label: Option<String>,
    /// Messages they ever sent.
    pub messages: i64,
    /// Those of this UTC day.
    pub messages_today: i32,
    /// When they were there last.
    pub last_seen_at: DateTime<Utc>,
}

impl Guest {
    /// Whether they may not talk to the agent now.
    pub fn shut_out(&self) -> bool {
        matches!(self.access, Access::Refused(_))
    }

    /// Whether they wait to be let in.
    pub fn waits(&self) -> bool {
        self.visitor.asked && !self.visitor.admitted && !self.visitor.blocked
    }
}

/// The agent, whatever its status, and what this user may do with it.
pub async fn access(conn: &mut PgConnection, agent_id: i64, user_id: i64) -> sqlx::Result<Option<(Agent, Access)>> {
    let row = sqlx::query(concat!(
        "select ",
        agent_columns!("a."),
        ", ",
        standing!(),
        " from agents a left join visitors v on v.agent_id = a.id and v.user_id = $2 left join links l on l.id = v.link_id
          where a.id = $1"
    ))
    .bind(agent_id)
    .bind(user_id)
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let agent = Agent::from_row(&row)?;
        let visitor = Visitor::of_row(&row);
        let access = access::of(agent.owner_id, agent.visibility, agent.status, user_id, visitor.as_ref());
        Ok((agent, access))
    })
    .transpose()
}

/// Notes that somebody came by this link, through this bot.
pub async fn came(conn: &mut PgConnection, agent_id: i64, user_id: i64, bot_id: i64, link_id: i64) -> sqlx::Result<()> {
    sqlx::query(
        "insert into visitors (agent_id, user_id, bot_id, link_id) values ($1, $2, $3, $4)
         on conflict (agent_id, user_id) do update
            set link_id = excluded.link_id, bot_id = excluded.bot_id, last_seen_at = now()",
    )
    .bind(agent_id)
    .bind(user_id)
    .bind(bot_id)
    .bind(link_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// What became of the wish to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The owner is to be told.
    Now,
    /// They know since less than a day.
    Before,
    /// They said no less than a day ago.
    Refused,
}

/// Notes that a visitor asks to be let in. Once a day: a link must not be a way to bother its owner.
pub async fn ask(conn: &mut PgConnection, agent_id: i64, user_id: i64) -> sqlx::Result<Asked> {
    let row = sqlx::query(
        "select asked_at > now() - interval '1 day' as before, refused_at > now() - interval '1 day' as refused
           from visitors where agent_id = $1 and user_id = $2 for update",
    )
    .bind(agent_id)
    .bind(user_id)
    .fetch_one(&mut *conn)
    .await?;
    if row.get::<Option<bool>, _>("refused") == Some(true) {
        return Ok(Asked::Refused);
    }
    if row.get::<Option<bool>, _>("before") == Some(true) {
        return Ok(Asked::Before);
    }
    sqlx::query("update visitors set asked_at = now(), refused_at = null where agent_id = $1 and user_id = $2")
        .bind(agent_id)
        .bind(user_id)
        .execute(conn)
        .await?;
    Ok(Asked::Now)
}

/// A visitor, locked until the transaction ends.
pub async fn lock(conn: &mut PgConnection, agent: &Agent, user_id: i64) -> sqlx::Result<Option<Guest>> {
    let row = sqlx::query(guests!("and v.user_id = $2 for update of v"))
        .bind(agent.id)
        .bind(user_id)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| guest(agent, &row)))
}

/// How many people have opened the agent, and how many of them wait to be let in.
pub async fn count(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<(i64, i64)> {
    sqlx::query_as(
        "select count(*), count(*) filter (where asked_at is not null and admitted_at is null and blocked_at is null)
           from visitors where agent_id = $1",
    )
    .bind(agent_id)
    .fetch_one(conn)
    .await
}

/// Some of an agent's visitors: those who wait to be let in first, then whoever was there last.
pub async fn list(conn: &mut PgConnection, agent: &Agent, offset: i64, limit: i64) -> sqlx::Result<Vec<Guest>> {
    let rows = sqlx::query(guests!(
        "order by (v.asked_at is not null and v.admitted_at is null and v.blocked_at is null) desc,
                  v.last_seen_at desc, v.user_id offset $2 limit $3"
    ))
    .bind(agent.id)
    .bind(offset)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().map(|row| guest(agent, row)).collect())
}

/// The same by descending id, from below `before`.
pub async fn below(
    conn: &mut PgConnection,
    agent: &Agent,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Guest>> {
    let rows = sqlx::query(guests!("and v.user_id <> $2 and v.user_id < $3 order by v.user_id desc limit $4"))
        .bind(agent.id)
        .bind(agent.owner_id)
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    Ok(rows.iter().map(|row| guest(agent, row)).collect())
}

/// A visitor; the owner is none.
pub async fn get(conn: &mut PgConnection, agent: &Agent, user_id: i64) -> sqlx::Result<Option<Guest>> {
    let row = sqlx::query(guests!("and v.user_id = $2 and v.user_id <> $3"))
        .bind(agent.id)
        .bind(user_id)
        .bind(agent.owner_id)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| guest(agent, &row)))
}

/// What an owner decides about a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They may come in, whatever was before.
    Admit,
    /// They have asked and may not.
    Refuse,
    /// They may not come in by any link.
    Block,
    /// They may come in by whatever way is open to them.
    Unblock,
}

/// Writes the owner's decision down. Who is let in after their link ended needs it no more.
pub async fn decide(conn: &mut PgConnection, agent_id: i64, user_id: i64, verdict: Verdict) -> sqlx::Result<()> {
    let change = match verdict {
        Verdict::Admit => {
            "update visitors v set admitted_at = now(), asked_at = null, refused_at = null, blocked_at = null,
                    link_id = (select l.id from links l where l.id = v.link_id and l.revoked_at is null
                                  and coalesce(l.expires_at > now(), true))
              where agent_id = $1 and user_id = $2"
        }
        Verdict::Refuse => {
            "update visitors set asked_at = null, refused_at = now() where agent_id = $1 and user_id = $2"
        }
        Verdict::Block => {
            "update visitors set blocked_at = now(), asked_at = null where agent_id = $1 and user_id = $2"
        }
        Verdict::Unblock => "update visitors set blocked_at = null where agent_id = $1 and user_id = $2",
    };
    sqlx::query(change).bind(agent_id).bind(user_id).execute(conn).await?;
    Ok(())
}

fn guest(agent: &Agent, row: &PgRow) -> Guest {
    let (user_id, visitor) = (row.get("user_id"), Visitor::of_row(row).unwrap_or_default());
    Guest {
        user_id,
        name: row.get("name"),
        username: row.get("username"),
        bot_id: row.get("bot_id"),
        visitor,
        access: access::of(agent.owner_id, agent.visibility, agent.status, user_id, Some(&visitor)),
        label: row.get("label"),
        messages: row.get("messages"),
        messages_today: row.get("messages_today"),
        last_seen_at: row.get("last_seen_at"),
    }
}
