//! What took the place of a chat's older messages, and what was learned of a model's tokens.

use super::read::Reader;
use super::writer::Changed;
use super::{Store, StoreError};
use rusqlite::{Connection, OptionalExtension, params};

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
        let chat_id = chat_id.to_owned();
        self.read(move |db| {
            let mut summary = db.prepare_cached("select content, up_to from summaries where chat_id = ?")?;
            let summary = summary.query_row([chat_id], |row| Ok(Summary { content: row.get(0)?, up_to: row.get(1)? }));
            Ok(summary.optional()?)
        })
        .await
    }

    /// Tokens a byte of a model, as learned in an earlier run.
    ///
    /// # Errors
    /// The database failed.
    pub async fn tokens_per_byte(&self, model: &str) -> Result<Option<f64>, StoreError> {
        let model = model.to_owned();
        self.read(move |db| {
            let mut ratio = db.prepare_cached("select ratio from tokens_per_byte where model = ?")?;
            Ok(ratio.query_row([model], |row| row.get(0)).optional()?)
        })
        .await
    }
}

impl Store {
    /// Puts a summary in the place of another one, which ended at `after` (0: of none); `false` where the chat has
    /// changed in the meantime: it was deleted, or somebody else was faster.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn summarise(&self, chat_id: String, after: i64, summary: Summary) -> Result<bool, StoreError> {
        self.write(move |db| Ok(Changed::quietly(summarise(db, &chat_id, after, &summary)?))).await
    }

    /// Keeps what was learned of a model.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn learn_tokens_per_byte(&self, model: String, ratio: f64) -> Result<(), StoreError> {
        self.write(move |db| {
            db.prepare_cached(
                "insert into tokens_per_byte (model, ratio) values (?1, ?2) on conflict (model) do update set ratio = ?2",
            )?
            .execute(params![model, ratio])?;
            Ok(Changed::quietly(()))
        })
        .await
    }
}

fn summarise(db: &Connection, chat_id: &str, after: i64, summary: &Summary) -> Result<bool, StoreError> {
    let mut is_there = db.prepare_cached(
        "select exists (select 1 from messages where chat_id = ?1 and id = ?2) \
         and coalesce((select up_to from summaries where chat_id = ?1), 0) = ?3",
    )?;
    if !is_there.query_row(params![chat_id, summary.up_to, after], |row| row.get(0))? {
        return Ok(false);
    }
    db.prepare_cached(
        "insert into summaries (chat_id, content, up_to) values (?1, ?2, ?3) \
         on conflict (chat_id) do update set content = ?2, up_to = ?3, created_at = unixepoch()",
    )?
    .execute(params![chat_id, summary.content, summary.up_to])?;
    Ok(true)
}
