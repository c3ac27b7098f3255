//! Going back to an earlier personality. Part of [`service`](super::service), by whose rules this goes.

use sqlx::PgConnection;

use super::model::Agent;
use super::service::{self, Change, Changed, ServiceError};
use super::store;
use crate::app::App;

/// The newest version that had another personality than the agent is wanted to have now.
pub async fn earlier(conn: &mut PgConnection, agent: &Agent) -> Result<Option<i32>, ServiceError> {
    let version = sqlx::query_scalar(
        "select version from agent_versions where agent_id = $1 and system_prompt <> $2 order by version desc limit 1",
    )
    .bind(agent.id)
    .bind(&agent.system_prompt)
    .fetch_optional(conn)
    .await?;
    Ok(version)
}

/// Gives the agent the personality of version `to` again. None, and nothing is done, if it does not have that of version
/// `from` any more, or if there are no such versions.
pub async fn undo(
    conn: &mut PgConnection,
    app: &App,
    owner_id: i64,
    id: i64,
    (from, to): (i32, i32),
) -> Result<Option<Changed>, ServiceError> {
    let agent = service::owned_by(owner_id, store::lock(conn, id).await?)?;
    let words: Option<String> = sqlx::query_scalar(
        "select t.system_prompt from agent_versions f join agent_versions t on t.agent_id = f.agent_id and t.version = $3
          where f.agent_id = $1 and f.version = $2 and f.system_prompt = $4 and t.system_prompt <> $4",
    )
    .bind(id)
    .bind(from)
    .bind(to)
    .bind(&agent.system_prompt)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(words) = words else { return Ok(None) };
    let change = Change { system_prompt: Some(words), ..Change::default() };
    service::change(conn, app, owner_id, id, change).await.map(Some)
}
