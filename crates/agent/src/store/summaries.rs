//! What took the place of a chat's older messages, and what was learned of a model's tokens.

use super::read::Reader;
use super::writer::Changed;
use super::{Store, StoreError};
use sqlx::{SqliteConnection, query, query_as, query_scalar};

/// What stands for the older messages of a chat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// In the model's words.
    pub content: String,
    /// Id of the newest message that it stands for.
    pub up_to: i64,
}

impl Reader {
    /// The summary of a chat, if there is one.
    ///
    /// # Errors
    /// The database failed.
    pub async fn summary(&self, chat_id: &str) -> Result<Option<Summary>, StoreError> {
        let row: Option<(String, i64)> = query_as("select content, up_to from summaries where chat_id = ?")
            .bind(chat_id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|(content, up_to)| Summary { content, up_to }))
    }

    /// Tokens a byte of a model, as learned in an earlier run.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tokens_per_byte(&self, model: &str) -> Result<Option<f64>, StoreError> {
        Ok(query_scalar("select ratio from tokens_per_byte where model = ?")
            .bind(model)
            .fetch_optional(&self.pool)
            .await?)
    }
}

impl Store {
    /// Puts a summary in the place of another one, which ended at `after` (0: of none); `false` where the chat has
    /// changed in the meantime: it was deleted, or somebody else was faster.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn summarise(&self, chat_id: String, after: i64, summary: Summary) -> Result<bool, StoreError> {
        self.write(move |db| {
            Box::pin(async move { Ok(Changed::quietly(summarise(db, &chat_id, after, &summary).await?)) })
        })
        .await
    }

    /// Keeps what was learned of a model.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn learn_tokens_per_byte(&self, model: String, ratio: f64) -> Result<(), StoreError> {
        self.write(move |db| {
            Box::pin(async move {
                query("insert into tokens_per_byte (model, ratio) values (?1, ?2) on conflict (model) do update set ratio = ?2")
                    .bind(model)
                    .bind(ratio)
                    .execute(db)
                    .await?;
                Ok(Changed::quietly(()))
            })
        })
        .await
    }
}

async fn summarise(
    db: &mut SqliteConnection,
    chat_id: &str,
    after: i64,
    summary: &Summary,
) -> Result<bool, StoreError> {
    let is_there: bool = query_scalar(
        "select exists (select 1 from messages where chat_id = ?1 and id = ?2) \
         and coalesce((select up_to from summaries where chat_id = ?1), 0) = ?3",
    )
    .bind(chat_id)
    .bind(summary.up_to)
    .bind(after)
    .fetch_one(&mut *db)
    .await?;
    if !is_there {
        return Ok(false);
    }
    query(
        "insert into summaries (chat_id, content, up_to) values (?1, ?2, ?3) \
         on conflict (chat_id) do update set content = ?2, up_to = ?3, created_at = unixepoch()",
    )
    .bind(chat_id)
    .bind(&summary.content)
    .bind(summary.up_to)
    .execute(db)
    .await?;
    Ok(true)
}
