//! Conversations as a whole.

use super::pending;
use super::turns::cancel;
use super::writer::{Changed, Told};
use super::{Reader, Store, StoreError};
use rusqlite::Connection;
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
        self.read(|db| {
            let mut chats = db.prepare_cached(
                "select chat_id from turns where finished_at is null group by chat_id order by min(position)",
            )?;
            let chats = chats.query_map([], |row| row.get(0))?;
            Ok(chats.collect::<Result<_, _>>()?)
        })
        .await
    }
}

impl Store {
    /// Forgets a conversation: its history, and what its finished turns said. A turn that is queued or running goes on, and
    /// begins the new history; subagents that work for the chat are cancelled and say nothing any more.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: String) -> Result<Deleted, StoreError> {
        self.write(move |db| {
            let (subagents, events) = cancel_subagents(db, &chat_id)?;
            let messages = delete_chat(db, &chat_id)?;
            Ok(Changed { value: Deleted { messages, subagents }, events })
        })
        .await
    }
}

fn cancel_subagents(db: &Connection, chat_id: &str) -> Result<(Vec<Uuid>, Vec<Told>), StoreError> {
    let mut open = db.prepare_cached(
        "update turns set deliver_to = null where kind = 'subagent' and finished_at is null and deliver_to = ? returning id",
    )?;
    let open: Vec<Uuid> = open.query_map([chat_id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut told = Vec::new();
    for id in &open {
        told.extend(cancel(db, *id)?.1);
    }
    Ok((open, told))
}

fn delete_chat(db: &Connection, chat_id: &str) -> Result<i64, StoreError> {
    // A running turn would be left with results of calls that nobody made.
    let mut delete = db.prepare_cached(
        "delete from messages where chat_id = ?1 \
         and turn not in (select position from turns where chat_id = ?1 and finished_at is null)",
    )?;
    let deleted = delete.execute([chat_id])?;
    db.prepare_cached("delete from summaries where chat_id = ?")?.execute([chat_id])?;
    db.prepare_cached("delete from notes where chat_id = ?")?.execute([chat_id])?;
    pending::forget_chat(db, chat_id)?;
    db.prepare_cached(
        "delete from events where turn in (select position from turns where chat_id = ? and finished_at is not null)",
    )?
    .execute([chat_id])?;
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
}
