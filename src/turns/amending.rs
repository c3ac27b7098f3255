//! What was said already: edited while its turn waits or afterwards, or asked once more after that failed.

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::request::{self, Part};
use crate::telegram::text::Place;
use crate::vault::Vault;

/// How many of a chat's newest turns are looked through for a message that was edited.
const EDITABLE: i64 = 200;

/// Puts an edited message in the place of what it was, if its turn still waits for its first claim. `false`: it does not,
/// and an agent may have seen what the message was.
pub async fn edit_waiting(
    conn: &mut PgConnection,
    vault: &Vault,
    (place, user_id): (Place, i64),
    part: &Part,
) -> sqlx::Result<bool> {
    let row = sqlx::query(
        "select id, request from turns
          where bot_id = $1 and chat_id = $2 and user_id = $3 and not done and claimed_by is null and attempt = 0
            and kind = 'message' and message_ids @> array[$4::int8]
          order by position limit 1 for update skip locked",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(user_id)
    .bind(part.message_id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(false) };
    // What cannot be read is told when the turn runs.
    let Ok(Some(request)) = request::replace(vault, row.get("request"), part) else { return Ok(false) };
    sqlx::query("update turns set request = $2 where id = $1")
        .bind(row.get::<Uuid, _>("id"))
        .bind(request)
        .execute(conn)
        .await?;
    Ok(true)
}

/// The turn that brought a message first, and its agent; `None` if that is too long ago, or nobody was told.
pub async fn turn_of(
    conn: &mut PgConnection,
    (place, user_id): (Place, i64),
    message_id: i64,
) -> sqlx::Result<Option<(Uuid, i64)>> {
    sqlx::query_as(
        "select n.id, n.agent_id
           from (select id, agent_id, user_id, position, message_ids from turns
                  where bot_id = $1 and chat_id = $2 order by position desc limit $5) n
          where n.user_id = $3 and n.message_ids @> array[$4::int8] order by n.position limit 1",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(user_id)
    .bind(message_id)
    .bind(EDITABLE)
    .fetch_optional(conn)
    .await
}

/// What a user asked once more.
#[derive(Debug)]
pub struct Retried {
    /// The agent it was for.
    pub agent_id: i64,
    /// What was said.
    pub parts: Vec<Part>,
    /// The turn that it was an edit of.
    pub edit_of: Option<Uuid>,
}

/// What was said in a turn that failed, to be asked again; only its sender can, and only once. The turn is locked until the
/// transaction ends, so that of two presses one finds the words [dropped](drop_request).
pub async fn failed_request(
    conn: &mut PgConnection,
    vault: &Vault,
    id: Uuid,
    user_id: i64,
) -> sqlx::Result<Option<Retried>> {
    let row = sqlx::query(
        "select agent_id, request, edit_of from turns
          where id = $1 and user_id = $2 and done and kind = 'message' and status in ('failed', 'unknown') and request <> ''
            for update",
    )
    .bind(id)
    .bind(user_id)
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(|row| {
        // silent-ok: what cannot be read cannot be asked again, and the user is told that
        let parts = request::open(vault, row.get("request")).ok().filter(|parts| !parts.is_empty())?;
        Some(Retried { agent_id: row.get("agent_id"), parts, edit_of: row.get("edit_of") })
    }))
}

/// The words of this turn have been asked again.
pub async fn drop_request(conn: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update turns set request = '' where id = $1").bind(id).execute(conn).await?;
    Ok(())
}
