//! Conversations as a whole.

use super::turns::cancel;
use super::writer::Changed;
use super::{Reader, Store, StoreError};
use baal_protocol::Event;
use sqlx::{SqliteConnection, query, query_as};
use uuid::Uuid;

/// What a deletion took away.
#[derive(Debug)]
pub struct Deleted {
    /// Messages of history.
    pub messages: i64,
    /// Turns of subagents that are over or yet to stop.
    pub subagents: Vec<Uuid>,
}

impl Reader {
    /// Chats with turns that a restart has to resume, the longest waiting first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn chats_with_open_turns(&self) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> =
            query_as("select chat_id from turns where finished_at is null group by chat_id order by min(position)")
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().map(|(chat_id,)| chat_id).collect())
    }
}

impl Store {
    /// Forgets a conversation: its history, and what its finished turns said. A turn that is queued or running goes on, and
    /// begins the new history; subagents that work for the chat are cancelled and say nothing any more.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: String) -> Result<Deleted, StoreError> {
        self.write(|db| {
            Box::pin(async move {
                let (subagents, events) = cancel_subagents(db, &chat_id).await?;
                let messages = delete_chat(db, &chat_id).await?;
                Ok(Changed { value: Deleted { messages, subagents }, events })
            })
        })
        .await
    }
}

async fn cancel_subagents(
    db: &mut SqliteConnection,
    chat_id: &str,
) -> Result<(Vec<Uuid>, Vec<(Uuid, Vec<Event>)>), StoreError> {
    let open: Vec<(Uuid,)> = query_as(
        "update turns set deliver_to = null where kind = 'subagent' and finished_at is null and deliver_to = ? returning id",
    )
    .bind(chat_id)
    .fetch_all(&mut *db)
    .await?;
    let mut told = Vec::new();
    for (id,) in &open {
        told.extend(cancel(db, *id).await?.1);
    }
    Ok((open.into_iter().map(|(id,)| id).collect(), told))
}

async fn delete_chat(db: &mut SqliteConnection, chat_id: &str) -> Result<i64, StoreError> {
    // A running turn would be left with results of calls that nobody made.
    let deleted = query(
        "delete from messages where chat_id = ?1 \
         and turn not in (select position from turns where chat_id = ?1 and finished_at is null)",
    )
    .bind(chat_id)
    .execute(&mut *db)
    .await?;
    query("delete from summaries where chat_id = ?").bind(chat_id).execute(&mut *db).await?;
    query("delete from notes where chat_id = ?").bind(chat_id).execute(&mut *db).await?;
    query(
        "delete from events where turn in (select position from turns where chat_id = ? and finished_at is not null)",
    )
    .bind(chat_id)
    .execute(db)
    .await?;
    Ok(i64::try_from(deleted.rows_affected()).unwrap_or(i64::MAX))
}
