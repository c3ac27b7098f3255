//! Full text search over what was said (SQLite FTS5).
//!
//! The index is filled in batches behind the turns and remembers how far it has come, so it costs a turn nothing, and after
//! a kill it goes on where it stood.

use super::read::Reader;
use super::writer::Changed;
use super::{Store, StoreError};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
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
/// Hits of one word that are compared.
const HITS: i64 = 40;
/// Characters of a word that are looked for.
const MAX_WORD: usize = 64;

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `user`, `assistant` or `tool`.
    pub role: String,
    /// The place in the text, with … where it was cut.
    pub snippet: String,
    /// Seconds since 1970.
    pub created_at: i64,
}

impl Reader {
    /// The messages of one chat that fit the words best, the newest first among equals; a query without a word finds nothing.
    ///
    /// Not ranked by SQLite's bm25: it visits every hit of every word, which took seconds in a chat of 200,000 messages. Here
    /// every word brings its newest hits, and a word with few hits counts more than one with many.
    ///
    /// # Errors
    /// The database failed. No text is a bad query.
    pub async fn search(&self, chat_id: &str, words: &str, max: u32) -> Result<Vec<Found>, StoreError> {
        let words = quoted(words);
        let chat_id = chat_id.to_owned();
        self.read(move |db| find(db, &chat_id, &words, max)).await
    }

    /// Whether messages wait to be taken into the index.
    ///
    /// # Errors
    /// The database failed.
    async fn index_is_behind(&self) -> Result<bool, StoreError> {
        self.read(|db| {
            let mut behind =
                db.prepare_cached("select coalesce((select max(id) from messages), 0) > up_to from search_index")?;
            Ok(behind.query_row([], |row| row.get(0))?)
        })
        .await
    }
}

fn find(db: &Connection, chat_id: &str, words: &[String], max: u32) -> Result<Vec<Found>, StoreError> {
    let chat: String = chat_id.bytes().map(|byte| format!("{byte:02x}")).collect();
    let within = |words: &str| format!("chat : \"c{chat}\" AND content : ({words})");
    let mut worth: HashMap<i64, f64> = HashMap::new();
    let all = (words.len() > 1).then(|| words.join(" AND "));
    let mut hits =
        db.prepare_cached("select rowid from messages_text where messages_text match ? order by rowid desc limit ?")?;
    for query in words.iter().chain(&all) {
        let hits: Vec<i64> =
            hits.query_map(params![within(query), HITS], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for id in &hits {
            *worth.entry(*id).or_default() += 1.0 / hits.len() as f64;
        }
    }
    let mut best: Vec<(i64, f64)> = worth.into_iter().collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
    let any = within(&words.join(" OR "));
    let mut show = db.prepare_cached(
        "select m.role, snippet(messages_text, 1, '', '', '…', 32), m.created_at from messages_text \
         join messages m on m.id = messages_text.rowid \
         where messages_text match ?1 and messages_text.rowid = ?2 and m.chat_id = ?3",
    )?;
    let mut found = Vec::new();
    for (id, _) in best.into_iter().take(max as usize) {
        let shown = show.query_row(params![any, id, chat_id], |row| {
            Ok(Found { role: row.get(0)?, snippet: row.get(1)?, created_at: row.get(2)? })
        });
        found.extend(shown.optional()?);
    }
    Ok(found)
}

/// The words of a query as FTS5 reads them, each by its beginning and in quotes, so that nothing of it is syntax.
fn quoted(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(MAX_WORDS);
    words
        .map(|word| {
            let word: String = word.chars().take(MAX_WORD).collect();
            // A short word's beginning would be found everywhere.
            let star = if word.chars().count() > 3 { "*" } else { "" };
            format!("\"{word}\"{star}")
        })
        .collect()
}

impl Store {
    /// Takes what was said up to now into the index.
    ///
    /// # Errors
    /// The database failed; what was taken in is in.
    pub async fn catch_up_index(&self) -> Result<(), StoreError> {
        while self.read().index_is_behind().await? {
            self.write(|db| Ok(Changed::quietly(index_step(db)?))).await?;
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

fn index_step(db: &Connection) -> Result<(), StoreError> {
    let up_to: i64 = db.prepare_cached("select up_to from search_index")?.query_row([], |row| row.get(0))?;
    let mut last = db.prepare_cached(
        "select max(id) from (select id, sum(length(content)) over (order by id) - length(content) as before \
         from (select id, substr(content, 1, 20000) as content from messages where id > ?1 order by id limit ?2)) \
         where before < ?3",
    )?;
    let last: Option<i64> = last.query_row([up_to, STEP, STEP_BYTES], |row| row.get(0))?;
    let Some(last) = last else {
        return Ok(());
    };
    db.prepare_cached(
        "insert into messages_text (rowid, chat, content) \
         select id, chat, content from searchable where id > ? and id <= ?",
    )?
    .execute([up_to, last])?;
    db.prepare_cached("update search_index set up_to = ?")?.execute([last])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn words_are_quoted_and_what_is_no_word_is_left_out() {
        assert_eq!(quoted("blue whale"), ["\"blue\"*", "\"whale\"*"]);
        assert_eq!(quoted("a\" OR chat:c31 NEAR("), ["\"a\"", "\"OR\"", "\"chat\"*", "\"c31\"", "\"NEAR\"*"]);
        for empty in ["", "  ", "\"\"", "*", "(((", "\0"] {
            assert!(quoted(empty).is_empty());
        }
        assert_eq!(quoted(&"word ".repeat(500)).len(), MAX_WORDS);
    }

    async fn say(store: &Store, chat: &'static str, texts: Vec<String>) {
        let insert = store.write(move |db| {
            let mut insert =
                db.prepare_cached("insert into messages (chat_id, turn, role, content) values (?, 1, 'user', ?)")?;
            for text in texts {
                insert.execute([chat, &text])?;
            }
            Ok(Changed::quietly(()))
        });
        insert.await.expect("written");
    }

    #[tokio::test]
    async fn an_old_rare_word_is_found_among_thousands_and_only_in_its_own_chat() {
        let directory = tempfile::TempDir::new().expect("temp dir");
        let (store, _writer) = Store::open(&directory.path().join("a.db")).await.expect("open");
        say(&store, "1", vec!["the quagga sleeps".into(), "Zoë drinks".into()]).await;
        say(&store, "1", (0..3_000).map(|n| format!("the number {n}")).collect()).await;
        say(&store, "2", vec!["the quagga of another".into()]).await;
        store.catch_up_index().await.expect("indexed");
        let found = store.read().search("1", "where the QUAGGA is", 5).await.expect("found");
        assert_eq!(found.len(), 5);
        assert_eq!(found[0].snippet, "the quagga sleeps");
        assert!(found.iter().all(|found| !found.snippet.contains("another")));
        assert_eq!(store.read().search("1", "zoe", 5).await.expect("found").len(), 1);
        for hostile in ["", "\"", "a AND", "NEAR(", "chat:c32 quagga", "*", "x\0y", "'; drop table messages"] {
            let found = store.read().search("1", hostile, 5).await.expect("no error");
            assert!(found.iter().all(|found| !found.snippet.contains("another")), "{hostile}");
        }
    }
}
