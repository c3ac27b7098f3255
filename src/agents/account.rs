//! What `/account` tells of a user.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::model::Status;
use super::{keys, limits};
use crate::app::App;
use crate::libertai::masked;

/// A user's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Their own key as it may be shown, if one is connected.
    pub key: Option<String>,
    /// Messages of today that counted.
    pub used: i32,
    /// FREE_TIER_DAILY_MESSAGES, or what operators set for this user.
    pub limit: i32,
    /// Until the count starts anew.
    pub resets_in: Duration,
    /// Their agents by status, in order of life.
    pub agents: Vec<(Status, i64)>,
    /// MAX_AGENTS_PER_USER, or what operators set for this user.
    pub max_agents: u32,
    /// Running agents that are not on the key that is connected.
    pub others: i64,
    /// Agents that no message reaches, over a key.
    pub paused: i64,
    /// Whether answers keep the line that tells of tool calls.
    pub verbose: bool,
}

impl Account {
    /// Reads it.
    pub async fn load(conn: &mut PgConnection, app: &App, user_id: i64) -> sqlx::Result<Self> {
        let row = sqlx::query(
            "select coalesce((select messages from usage where user_id = $1 and day = (now() at time zone 'utc')::date), 0) as used,
                    extract(epoch from ((now() at time zone 'utc')::date + 1) - (now() at time zone 'utc'))::float8 as resets_in,
                    coalesce((select u.tool_lines from users u where u.id = $1), false) as tool_lines,
                    (select count(*) from agents where owner_id = $1 and deleted_at is null and paused is not null) as paused",
        )
        .bind(user_id)
        .fetch_one(&mut *conn)
        .await?;
        let own = keys::connected(conn, user_id).await?;
        let others = match &own {
            Some(own) => keys::agents_not_on(conn, user_id, own.version).await?,
            None => 0,
        };
        // Another BOT_ENCRYPTION_KEY: it is there, but not to be shown.
        let key = own.map(|own| own.open(&app.config.vault).map_or_else(|_| "…".to_owned(), |key| masked(&key)));
        let limits = limits::of(conn, &app.config, user_id).await?;
        let statuses = [Status::Running, Status::Provisioning, Status::Stopped, Status::Failed, Status::Deleting];
        let counted: Vec<(Status, i64)> = sqlx::query_as(
            "select status, count(*) from agents where owner_id = $1 and deleted_at is null group by status",
        )
        .bind(user_id)
        .fetch_all(conn)
        .await?;
        let agents = statuses.into_iter().filter_map(|status| counted.iter().find(|(s, _)| *s == status).copied());
        Ok(Self {
            key,
            used: row.get("used"),
            limit: limits.daily_messages,
            resets_in: Duration::try_from_secs_f64(row.get::<f64, _>("resets_in").max(0.0)).unwrap_or_default(),
            agents: agents.collect(),
            max_agents: limits.max_agents,
            others,
            paused: row.get("paused"),
            verbose: row.get("tool_lines"),
        })
    }
}
