//! People as administrators see them: who they are here, what they may have, and whether they are shut out.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A user's row, with what they have.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Person {
    /// Telegram's number.
    pub id: i64,
    /// As Telegram shows it; empty where they were forgotten.
    pub name: String,
    /// Without the @.
    pub username: Option<String>,
    /// What their client speaks: an IETF language tag.
    pub language_code: Option<String>,
    /// When they first wrote, or were forgotten.
    pub first_seen_at: DateTime<Utc>,
    /// When they redeemed an invitation.
    pub invited_at: Option<DateTime<Utc>>,
    /// Since when they are shut out.
    pub blocked_at: Option<DateTime<Utc>>,
    /// Since when everything of theirs is being forgotten.
    pub forgetting_since: Option<DateTime<Utc>>,
    /// Instead of FREE_TIER_DAILY_MESSAGES.
    pub daily_messages: Option<i32>,
    /// Instead of MAX_AGENTS_PER_USER.
    pub max_agents: Option<i32>,
    /// Whether a LibertAI key of their own is connected.
    pub own_key: bool,
    /// Agents that count against their limit.
    pub agents: i64,
    /// Messages of this UTC day that count against their limit.
    pub messages_today: i32,
}

/// Which people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whose name holds this, whatever the case.
    pub name: Option<String>,
    /// Who has this username, whatever the case; without the @.
    pub username: Option<String>,
    /// Whether they are shut out.
    pub blocked: Option<bool>,
}

macro_rules! person {
    () => {
        "select u.id, u.name, u.username, u.language_code, u.first_seen_at, u.invited_at, u.blocked_at, u.forgetting_since,
                u.daily_messages, u.max_agents, u.libertai_key is not null as own_key,
                (select count(*) from agents a where a.owner_id = u.id and a.deleted_at is null and a.status <> 'deleting')
                  as agents,
                coalesce((select d.messages from usage d where d.user_id = u.id
                             and d.day = (now() at time zone 'utc')::date), 0) as messages_today
           from users u"
    };
}

/// People, highest number first: at most `limit` with a number below `before`.
pub async fn list(
    conn: &mut PgConnection,
    wanted: &Wanted,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Person>> {
    sqlx::query_as(concat!(
        person!(),
        " where u.id < $1 and ($2::text is null or strpos(lower(u.name), lower($2)) > 0)
            and ($3::text is null or lower(u.username) = lower($3))
            and ($4::bool is null or (u.blocked_at is not null) = $4)
          order by u.id desc limit $5",
    ))
    .bind(before.unwrap_or(i64::MAX))
    .bind(&wanted.name)
    .bind(&wanted.username)
    .bind(wanted.blocked)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// One of them.
pub async fn get(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Person>> {
    sqlx::query_as(concat!(person!(), " where u.id = $1")).bind(id).fetch_optional(conn).await
}

/// The same, locked until the transaction ends. Their agents can still be changed meanwhile.
pub async fn lock(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Person>> {
    sqlx::query_as(concat!(person!(), " where u.id = $1 for no key update of u")).bind(id).fetch_optional(conn).await
}

/// Sets what they may have; none: what the settings say.
pub async fn set_limits(
    conn: &mut PgConnection,
    id: i64,
    daily_messages: Option<i32>,
    max_agents: Option<i32>,
) -> sqlx::Result<()> {
    sqlx::query("update users set daily_messages = $2, max_agents = $3 where id = $1")
        .bind(id)
        .bind(daily_messages)
        .bind(max_agents)
        .execute(conn)
        .await?;
    Ok(())
}

/// Shuts them out: what they asked and is not answered yet is stopped, and what they write from now on is not taken. Their
/// agents run on, for others. Wake [`Queue::Stops`](crate::wake::Queue) and [`Queue::Turns`](crate::wake::Queue) after the
/// commit.
pub async fn block(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query("update users set blocked_at = coalesce(blocked_at, now()), blocked_told_at = null where id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    // What agents are to forget they forget, whoever asked.
    sqlx::query(
        "update turns set cancel_requested = true
          where user_id = $1 and not done and not cancel_requested and kind in ('message', 'hello')",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends that.
pub async fn unblock(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query("update users set blocked_at = null, blocked_told_at = null where id = $1")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}
