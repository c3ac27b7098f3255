//! Conversations of the Python agent that ran on a machine before this one: read from its database, once.
//!
//! Its schema: `messages` (`chat_id`, `role`, `content`, `tool_calls` as OpenAI's JSON, `tool_call_id`, `created_at` in ISO 8601) and
//! `pending_messages` (`chat_id`, `content`, `source`, `created_at`), from <https://github.com/Libertai/baal>,
//! `src/baal_agent/database.py`. It kept histories by when they were written, several turns of one chat could write at a time, and
//! SQLite holds it to no types.
//!
//! Everything is one transaction with the note that it was done, so a kill leaves all of it or nothing, and a second run changes
//! nothing.

mod history;
#[cfg(test)]
mod tests;

use super::StoreError;
use super::connection::open_up_to_date;
use crate::lock::{DirectoryLock, LockError};
use crate::tools::HEARTBEAT_CHAT;
use chrono::{DateTime, NaiveDateTime};
use history::{Line, Said, history, summary};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use std::path::{Path, PathBuf};

/// Chats in which nobody spoke, by the Python agent's names.
const PYTHONS_HEARTBEAT: &str = "__heartbeat__";
const PYTHONS_SUBAGENT: &str = "__subagent__";
/// Where what its subagents said is kept: a chat of a subagent that nothing is added to.
const SUBAGENTS: &str = "subagent:python";

/// What was taken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// An earlier run did it; nothing was written, and the numbers are of that run.
    pub before: bool,
    /// Conversations.
    pub chats: u64,
    /// Their messages, as they are kept here.
    pub messages: u64,
    /// Messages that were left out, since a model could not read them: empty ones, and results of calls that nobody made.
    pub left_out: u64,
    /// What waits to be said unasked.
    pub pending: u64,
}

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The Python agent's database.
    #[error("{path} cannot be read as a Python agent's database: {source}")]
    Source {
        /// Its file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// An agent is at work on ours.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Ours.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ImportError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Takes the conversations of `from` into the database `to`, which is made if missing and which no agent may be using.
///
/// `from` is opened to read only; where a log lies beside it (`-wal`), what is in there counts too.
///
/// # Errors
/// Nothing was written.
pub fn import(from: &Path, to: &Path) -> Result<Imported, ImportError> {
    let _lock = DirectoryLock::take(to)?;
    let mut ours = open_up_to_date(to)?;
    let transaction = ours.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Not among the migrations: nothing reads it but this, and an earlier version of the agent need not know it.
    transaction.execute_batch(
        "create table if not exists imported_from_python (
           chats integer not null, messages integer not null, left_out integer not null, pending integer not null,
           at integer not null default (unixepoch())) strict",
    )?;
    if let Some(done) = done_before(&transaction)? {
        return Ok(done);
    }
    let source = |source| ImportError::Source { path: from.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let pythons = Connection::open_with_flags(from, flags).map_err(source)?;
    let mut done = Imported::default();
    for chat in chats(&pythons).map_err(source)? {
        let lines = lines(&pythons, &chat).map_err(source)?;
        let read = lines.len();
        let said = history(lines);
        // What was made up for calls without a result is no message of theirs.
        let theirs = said.iter().filter(|said| !said.is_made_up).count();
        done.left_out += read.saturating_sub(theirs) as u64;
        if said.is_empty() {
            continue;
        }
        done.chats += 1;
        done.messages += said.len() as u64;
        keep(&transaction, our_name(&chat), &said)?;
    }
    done.pending = pending(&pythons, &transaction, source)?;
    transaction.execute(
        "insert into imported_from_python (chats, messages, left_out, pending) values (?, ?, ?, ?)",
        params![done.chats, done.messages, done.left_out, done.pending],
    )?;
    transaction.commit()?;
    Ok(done)
}

fn done_before(ours: &Connection) -> rusqlite::Result<Option<Imported>> {
    let numbers = "select chats, messages, left_out, pending from imported_from_python";
    let done = ours.query_row(numbers, [], |row| {
        let (chats, messages, left_out, pending) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(Imported { before: true, chats, messages, left_out, pending })
    });
    done.optional()
}

fn chats(pythons: &Connection) -> rusqlite::Result<Vec<String>> {
    if !pythons.table_exists(None, "messages")? {
        return Ok(Vec::new());
    }
    let mut chats = pythons.prepare(
        "select cast(chat_id as text) from messages where chat_id is not null group by chat_id order by min(id)",
    )?;
    chats.query_map([], |row| Ok(text(row.get_ref(0)?).unwrap_or_default()))?.collect()
}

/// One chat's messages in the order in which the Python agent told them to its model.
fn lines(pythons: &Connection, chat: &str) -> rusqlite::Result<Vec<Line>> {
    let mut lines = pythons.prepare(
        "select role, cast(content as text), cast(tool_calls as text), cast(tool_call_id as text), cast(created_at as text)
           from messages where cast(chat_id as text) = ? order by created_at, id",
    )?;
    let lines = lines.query_map([chat], |row| {
        let column = |at| row.get_ref(at).map(text);
        Ok(Line {
            role: column(0)?.unwrap_or_default(),
            content: column(1)?,
            tool_calls: column(2)?,
            tool_call_id: column(3)?,
            at: column(4)?.as_deref().and_then(seconds),
        })
    })?;
    lines.collect()
}

/// Text whose bytes need not be UTF-8.
fn text(value: rusqlite::types::ValueRef<'_>) -> Option<String> {
    // silent-ok: what is no text is none
    value.as_bytes().ok().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Seconds since 1970 of Python's `isoformat()` or SQLite's `datetime('now')`.
fn seconds(at: &str) -> Option<i64> {
    // silent-ok: a time that nobody can read is none
    let exact = DateTime::parse_from_rfc3339(at).ok().map(|at| at.timestamp());
    exact.or_else(|| {
        let forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
        // silent-ok: as above
        forms.iter().find_map(|form| NaiveDateTime::parse_from_str(at, form).ok()).map(|at| at.and_utc().timestamp())
    })
}

fn our_name(chat: &str) -> &str {
    match chat {
        PYTHONS_HEARTBEAT => HEARTBEAT_CHAT,
        PYTHONS_SUBAGENT => SUBAGENTS,
        person => person,
    }
}

fn keep(ours: &Connection, chat: &str, said: &[Said]) -> Result<(), StoreError> {
    let mut insert = ours.prepare_cached(
        "insert into messages (chat_id, role, content, tool_calls, tool_call_id, created_at)
         values (?, ?, ?, ?, ?, coalesce(?, unixepoch()))",
    )?;
    let mut ids = Vec::with_capacity(said.len());
    for Said { role, content, calls, call_id, at, .. } in said {
        let calls = if calls.is_empty() { None } else { Some(serde_json::to_string(calls)?) };
        insert.execute(params![chat, role.as_str(), content, calls, call_id, at])?;
        ids.push(ours.last_insert_rowid());
    }
    // The Python agent told its summary as two messages; here they stay to be found, and are told as any summary is.
    if let Some(words) = summary(said)
        && let Some(up_to) = ids.get(1)
    {
        ours.execute(
            "insert into summaries (chat_id, content, up_to) values (?, ?, ?) on conflict (chat_id) do nothing",
            params![chat, words, up_to],
        )?;
    }
    Ok(())
}

/// What waits to be said unasked. A file is named where it lies: what was to be sent is not kept apart as ours are.
fn pending(
    pythons: &Connection,
    ours: &Connection,
    source: impl Fn(rusqlite::Error) -> ImportError,
) -> Result<u64, ImportError> {
    let read = || -> rusqlite::Result<Vec<[Option<String>; 4]>> {
        if !pythons.table_exists(None, "pending_messages")? {
            return Ok(Vec::new());
        }
        let mut waiting = pythons.prepare(
            "select cast(chat_id as text), cast(content as text), cast(source as text), cast(created_at as text)
               from pending_messages order by created_at, id",
        )?;
        let waiting = waiting.query_map([], |row| {
            let column = |at| row.get_ref(at).map(text);
            Ok([column(0)?, column(1)?, column(2)?, column(3)?])
        })?;
        waiting.collect()
    };
    let mut count = 0;
    for [chat, content, kind, at] in read().map_err(&source)? {
        let (Some(chat), Some(content)) = (chat, content) else { continue };
        let kind = kind.unwrap_or_default();
        let content = if kind.ends_with("_file") { file_in_words(&content) } else { content };
        if chat.is_empty() || content.trim().is_empty() {
            continue;
        }
        let kind = if kind.starts_with("subagent") { "subagent" } else { "heartbeat" };
        ours.execute(
            "insert into pending (chat_id, source, content, created_at) values (?, ?, ?, coalesce(?, unixepoch()))",
            params![chat, kind, content, at.as_deref().and_then(seconds)],
        )?;
        count += 1;
    }
    Ok(count)
}

fn file_in_words(content: &str) -> String {
    // silent-ok: what is no JSON is told as it is
    let Ok(file) = serde_json::from_str::<serde_json::Value>(content) else { return content.to_owned() };
    let field = |name: &str| file.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let caption = Some(field("caption")).filter(|caption| !caption.is_empty()).map(|caption| format!(": {caption}"));
    format!("[File] {} is ready in the workspace{}", field("path"), caption.unwrap_or_default())
}
