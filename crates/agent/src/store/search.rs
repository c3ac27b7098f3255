//! Full text search over what was said (SQLite FTS5).
//!
//! The index is filled in batches behind the turns and remembers how far it has come, so it costs a turn nothing, and after
//! a kill it goes on where it stood.

use super::read::Reader;
use super::writer::Changed;
use super::{Store, StoreError};
use sqlx::{SqliteConnection, query, query_as, query_scalar};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Messages that one step takes into the index: a few milliseconds of the writer's time.
const STEP: i64 = 200;
/// Bytes of text after which a step ends, the last message included.
const STEP_BYTES: i64 = 256 * 1024;
const EVERY: Duration = Duration::from_secs(5);
/// Words of a query that are looked for; more are left out.
const MAX_WORDS: usize = 12;
/// Characters of a word that are looked for.
const MAX_WORD: usize = 64;

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Found {
    /// `user`, `assistant` or `tool`.
    pub role: String,
    /// The place in the text, with … where it was cut.
    pub snippet: String,
    /// Seconds since 1970.
    pub created_at: i64,
}

impl Reader {
    /// The messages of one chat that fit the words best; a query without a word finds nothing.
    ///
    /// # Errors
    /// The database failed. No text is a bad query.
    pub async fn search(&self, chat_id: &str, words: &str, max: u32) -> Result<Vec<Found>, StoreError> {
        let Some(words) = match_any(words) else {
            return Ok(Vec::new());
        };
        let chat: String = chat_id.bytes().map(|byte| format!("{byte:02x}")).collect();
        Ok(query_as(
            "select m.role, snippet(messages_text, 1, '', '', '…', 32) as snippet, m.created_at from messages_text \
             join messages m on m.id = messages_text.rowid \
             where messages_text match ?1 and m.chat_id = ?2 order by rank limit ?3",
        )
        .bind(format!("chat : \"c{chat}\" AND content : ({words})"))
        .bind(chat_id)
        .bind(max)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Whether messages wait to be taken into the index.
    ///
    /// # Errors
    /// The database failed.
    async fn index_is_behind(&self) -> Result<bool, StoreError> {
        Ok(query_scalar("select coalesce((select max(id) from messages), 0) > up_to from search_index")
            .fetch_one(&self.pool)
            .await?)
    }
}

/// A query of FTS5 for any of the words, each by its beginning. Every word is quoted, so nothing of it is syntax.
fn match_any(text: &str) -> Option<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(MAX_WORDS);
    let quoted: Vec<String> = words
        .map(|word| {
            let word: String = word.chars().take(MAX_WORD).collect();
            // A short word's beginning would be found everywhere.
            let star = if word.chars().count() > 3 { "*" } else { "" };
            format!("\"{word}\"{star}")
        })
        .collect();
    (!quoted.is_empty()).then(|| quoted.join(" OR "))
}

impl Store {
    /// Takes what was said up to now into the index.
    ///
    /// # Errors
    /// The database failed; what was taken in is in.
    pub async fn catch_up_index(&self) -> Result<(), StoreError> {
        while self.read().index_is_behind().await? {
            self.write(|db| Box::pin(async move { Ok(Changed::quietly(index_step(db).await?)) })).await?;
        }
        Ok(())
    }

    /// Keeps the index a few seconds behind what is said, until `shutdown`.
    pub async fn keep_index(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            match shutdown.run_until_cancelled(self.catch_up_index()).await {
                Some(Err(e)) => warn!(error = %e, "messages could not be made searchable, trying again"),
                Some(Ok(())) => {}
                None => return,
            }
        }
    }
}

async fn index_step(db: &mut SqliteConnection) -> Result<(), StoreError> {
    let up_to: i64 = query_scalar("select up_to from search_index").fetch_one(&mut *db).await?;
    let last: Option<i64> = query_scalar(
        "select max(id) from (select id, sum(length(content)) over (order by id) - length(content) as before \
         from (select id, substr(content, 1, 20000) as content from messages where id > ?1 order by id limit ?2)) \
         where before < ?3",
    )
    .bind(up_to)
    .bind(STEP)
    .bind(STEP_BYTES)
    .fetch_one(&mut *db)
    .await?;
    let Some(last) = last else {
        return Ok(());
    };
    query(
        "insert into messages_text (rowid, chat, content) \
         select id, chat, content from searchable where id > ? and id <= ?",
    )
    .bind(up_to)
    .bind(last)
    .execute(&mut *db)
    .await?;
    query("update search_index set up_to = ?").bind(last).execute(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::match_any;

    #[test]
    fn words_are_quoted_and_what_is_no_word_is_left_out() {
        assert_eq!(match_any("blue whale").as_deref(), Some("\"blue\"* OR \"whale\"*"));
        assert_eq!(
            match_any("a\" OR chat:c31 NEAR(").as_deref(),
            Some("\"a\" OR \"OR\" OR \"chat\"* OR \"c31\" OR \"NEAR\"*")
        );
        assert_eq!(match_any("Zoë's"), Some("\"Zoë\" OR \"s\"".into()));
        for empty in ["", "  ", "\"\"", "*", "(((", "\0"] {
            assert_eq!(match_any(empty), None);
        }
        assert_eq!(match_any(&"word ".repeat(500)).map(|q| q.matches("OR").count()), Some(11));
    }
}
