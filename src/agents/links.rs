//! Links to agents, as rows. An agent's number is one of them, without a token.

use std::fmt;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;
use sqlx::{FromRow, PgConnection};

use super::model::Agent;
use super::token;
use crate::config::Visibility;
use crate::database::columns;
use crate::vault::Vault;

/// What stands before a token in the payload of `/start`.
pub const TOKEN_PREFIX: &str = "a_";
/// What stands before a number there.
pub const NUMBER_PREFIX: &str = "agent_";

/// A way to an agent. `Debug` leaves out its token: whoever has that may come in.
#[derive(Clone, PartialEq, Eq, FromRow)]
pub struct Link {
    /// Its number; of the row, not of the agent.
    pub id: i64,
    /// The agent that it leads to.
    pub agent_id: i64,
    /// What the owner calls it: at most 32 characters on one line, perhaps none.
    pub label: String,
    /// Whether its visitors' turns have tools.
    pub tools: bool,
    /// Messages a day (UTC) of each visitor; none: no limit of its own.
    pub per_day: Option<i32>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// When its owner took it back.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Whether it has ended.
    pub expired: bool,
    /// How many came by it last.
    pub visitors: i64,
    /// Fernet token of its token; none: it is the agent's number.
    token: Option<Vec<u8>>,
}

impl Link {
    /// Whether it is the agent's number.
    pub fn is_number(&self) -> bool {
        self.token.is_none()
    }

    /// Whether whoever comes by it is let in, as far as the link goes.
    pub fn is_good(&self) -> bool {
        self.revoked_at.is_none() && !self.expired
    }

    /// The link for people; none if the bot's name is not known yet, or the token was written under another key.
    pub fn url(&self, vault: &Vault, username: &str) -> Option<String> {
        let payload = match &self.token {
            None => format!("{NUMBER_PREFIX}{}", self.agent_id),
            Some(sealed) => format!("{TOKEN_PREFIX}{}", vault.decrypt_text(sealed).ok()?.expose_secret()),
        };
        (!username.is_empty()).then(|| format!("https://t.me/{username}?start={payload}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("agent_id", &self.agent_id)
            .field("tools", &self.tools)
            .field("per_day", &self.per_day)
            .field("expires_at", &self.expires_at)
            .field("revoked_at", &self.revoked_at)
            .finish_non_exhaustive()
    }
}

/// What a link gives, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// See [`Link::label`].
    pub label: String,
    /// See [`Link::tools`].
    pub tools: bool,
    /// See [`Link::per_day`].
    pub per_day: Option<i32>,
    /// See [`Link::expires_at`].
    pub expires_at: Option<DateTime<Utc>>,
}

macro_rules! select {
    ($what:literal) => {
        concat!(
            "select ",
            columns!("l.": id, agent_id, label, tools, per_day, expires_at, revoked_at, created_at, token),
            ", coalesce(l.expires_at <= now(), false) as expired,
                    (select count(*) from visitors v where v.link_id = l.id) as visitors from links l where ",
            $what
        )
    };
}

/// The link of the agent's number, made if there was none.
pub async fn number(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<i64> {
    let known = sqlx::query_scalar("select id from links where agent_id = $1 and token_hash is null")
        .bind(agent_id)
        .fetch_optional(&mut *conn)
        .await?;
    match known {
        Some(id) => Ok(id),
        // Two visitors may be the first at once; an update is what shows the row of the other.
        None => {
            sqlx::query_scalar(
                "insert into links (agent_id, tools) values ($1, true)
                 on conflict (agent_id) where token_hash is null do update set agent_id = excluded.agent_id
                 returning id",
            )
            .bind(agent_id)
            .fetch_one(conn)
            .await
        }
    }
}

/// An agent's links that are not taken back: the number first, then the oldest first.
pub async fn of_agent(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<Vec<Link>> {
    sqlx::query_as(select!("l.agent_id = $1 and l.revoked_at is null order by l.token_hash is not null, l.id"))
        .bind(agent_id)
        .fetch_all(conn)
        .await
}

/// A link, whatever became of it.
pub async fn get(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Link>> {
    sqlx::query_as(select!("l.id = $1")).bind(id).fetch_optional(conn).await
}

/// The link of this token, whatever became of it.
pub async fn by_token(conn: &mut PgConnection, token: &str) -> sqlx::Result<Option<Link>> {
    sqlx::query_as(select!("l.token_hash = $1")).bind(token::hash(token)).fetch_optional(conn).await
}

/// A new link with a token of its own; its number.
pub async fn insert(conn: &mut PgConnection, vault: &Vault, agent_id: i64, terms: &Terms) -> sqlx::Result<i64> {
    let token = token::new();
    sqlx::query_scalar(
        "insert into links (agent_id, token_hash, token, label, tools, per_day, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7) returning id",
    )
    .bind(agent_id)
    .bind(token::hash(&token))
    .bind(vault.encrypt(token.as_bytes()))
    .bind(&terms.label)
    .bind(terms.tools)
    .bind(terms.per_day)
    .bind(terms.expires_at)
    .fetch_one(conn)
    .await
}

/// Gives a link other terms.
pub async fn set_terms(conn: &mut PgConnection, id: i64, terms: &Terms) -> sqlx::Result<()> {
    sqlx::query("update links set label = $2, tools = $3, per_day = $4, expires_at = $5 where id = $1")
        .bind(id)
        .bind(&terms.label)
        .bind(terms.tools)
        .bind(terms.per_day)
        .bind(terms.expires_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes a link back. What it was stays known: who comes by it is told so.
pub async fn revoke(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query("update links set revoked_at = now() where id = $1 and revoked_at is null")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// The link that an owner would hand on first: the number of a public agent, else the newest good one. None: there is none
/// yet, and `/share` makes one.
pub async fn ready_link(
    conn: &mut PgConnection,
    vault: &Vault,
    username: &str,
    agent: &Agent,
) -> sqlx::Result<Option<String>> {
    if agent.visibility == Visibility::Public {
        return Ok((!username.is_empty()).then(|| format!("https://t.me/{username}?start={NUMBER_PREFIX}{}", agent.id)));
    }
    let links = of_agent(conn, agent.id).await?;
    let newest = links.iter().rev().find(|link| !link.is_number() && link.is_good());
    Ok(newest.and_then(|link| link.url(vault, username)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A link of agent 5 with a token that nobody can read.
    pub(crate) fn link(label: &str) -> Link {
        Link {
            id: i64::MAX,
            agent_id: 5,
            label: label.to_owned(),
            tools: true,
            per_day: Some(10_000),
            expires_at: Some(DateTime::UNIX_EPOCH),
            revoked_at: None,
            created_at: DateTime::UNIX_EPOCH,
            expired: false,
            visitors: 1_000_000,
            token: Some(b"gAAAA".to_vec()),
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let shown = format!("{:?}", link("Friends"));
        assert!(!shown.contains("103") && !shown.contains("token") && shown.contains("tools"), "{shown}");
    }

    #[test]
    fn a_token_fits_a_deep_link_and_is_stored_as_a_hash() {
        let (one, other) = (token::new(), token::new());
        assert_ne!(one, other);
        let payload = format!("{TOKEN_PREFIX}{one}");
        // https://core.telegram.org/bots/features#deep-linking: A-Z, a-z, 0-9, _ and -, up to 64 characters.
        assert!(payload.len() == 24 && payload.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
        assert_eq!(token::hash("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
