//! What a user may have and do here: the settings, and what operators set instead for this user.

use sqlx::{PgConnection, Row as _};

use crate::config::Config;

/// What holds for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages a UTC day on the operator's key.
    pub daily_messages: i32,
    /// Agents at once.
    pub max_agents: u32,
    /// Whether operators shut them out.
    pub blocked: bool,
}

impl Limits {
    /// What holds where the user's row says this; none: what the settings say.
    pub fn new(config: &Config, daily_messages: Option<i32>, max_agents: Option<i32>, blocked: bool) -> Self {
        let own = max_agents.and_then(|agents| u32::try_from(agents).ok());
        Self {
            daily_messages: daily_messages.unwrap_or(config.free_tier_daily_messages),
            max_agents: own.unwrap_or(config.max_agents_per_user),
            blocked,
        }
    }
}

/// What holds for this user; the settings where nothing is known of them.
pub async fn of(conn: &mut PgConnection, config: &Config, user_id: i64) -> sqlx::Result<Limits> {
    let row =
        sqlx::query("select daily_messages, max_agents, blocked_at is not null as blocked from users where id = $1")
            .bind(user_id)
            .fetch_optional(conn)
            .await?;
    Ok(match row {
        Some(row) => Limits::new(config, row.get("daily_messages"), row.get("max_agents"), row.get("blocked")),
        None => Limits::new(config, None, None, false),
    })
}
