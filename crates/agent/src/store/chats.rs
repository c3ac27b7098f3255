//! Conversations as a whole.

use super::writer::Changed;
use super::{Reader, Store, StoreError};
use sqlx::{SqliteConnection, query, query_as};

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
    /// Forgets a conversation: its history, and what its finished turns said. The answer counts messages of history.
    /// A turn that is queued or running goes on, and begins the new history.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: String) -> Result<i64, StoreError> {
        self.write(|db| Box::pin(async move { Ok(Changed::quietly(delete_chat(db, &chat_id).await?)) })).await
    }
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
    query(
        "delete from events where turn in (select position from turns where chat_id = ? and finished_at is not null)",
    )
    .bind(chat_id)
    .execute(db)
    .await?;
    Ok(i64::try_from(deleted.rows_affected()).unwrap_or(i64::MAX))
}
