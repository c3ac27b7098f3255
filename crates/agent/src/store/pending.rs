//! What is said unasked, kept until whoever delivers it acknowledges.

use super::read::Reader;
use super::writer::Changed;
use super::{Store, StoreError};
use baal_protocol::{EventKind, PendingMessage, PendingSource};
use chrono::{DateTime, SecondsFormat};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashSet;
use tokio::sync::watch;
use tracing::warn;
use uuid::Uuid;

/// Messages of one answer.
const AT_ONCE: i64 = 100;
/// Text of one answer, in bytes, beyond its first message.
const MAX_BYTES: usize = 1024 * 1024;

/// Messages that wait at most: where nobody fetches them, the oldest go.
const KEPT: i64 = 1000;
/// How long one waits, in days, and one with a file: as long as the file.
const KEPT_DAYS: i64 = 30;
const KEPT_DAYS_WITH_FILE: i64 = 7;

/// Rings after every commit that added messages; clones share it.
#[derive(Clone)]
pub(super) struct Bell {
    changes: watch::Sender<u64>,
}

impl Bell {
    pub fn new() -> Self {
        Self { changes: watch::Sender::new(0) }
    }

    /// To be called after the commit.
    pub fn ring_if(&self, added: bool) {
        if added {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

/// The database's own id, which its pending ids belong to.
pub(super) fn database_id(db: &Connection) -> Result<Uuid, StoreError> {
    Ok(db.query_row("select database_id from identity", [], |row| row.get(0))?)
}

impl Store {
    /// Tells when messages were added. The value only counts changes.
    pub fn watch_pending(&self) -> watch::Receiver<u64> {
        self.bell.changes.subscribe()
    }

    /// Takes the oldest messages out, a bounded number of them.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn drain_pending(&self) -> Result<Vec<PendingMessage>, StoreError> {
        self.write(|db| Ok(Changed::quietly(drain(db)?))).await
    }

    /// Forgets the messages up to an id; the answer counts them.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn acknowledge_pending(&self, up_to: i64) -> Result<i64, StoreError> {
        self.write(move |db| Ok(Changed::quietly(delete_up_to(db, up_to)?))).await
    }

    /// Forgets messages that nobody fetched for a month, and for a week those with files: the room for files is bounded.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn forget_old_pending(&self) -> Result<(), StoreError> {
        self.write(move |db| {
            let mut delete = db.prepare_cached(
                "delete from pending where created_at < unixepoch() - 86400 * \
                 case when source in ('heartbeat_file', 'subagent_file') then ? else ? end",
            )?;
            let messages = delete.execute([KEPT_DAYS_WITH_FILE, KEPT_DAYS])?;
            tell_lost(messages);
            Ok(Changed::quietly(()))
        })
        .await
    }
}

/// Keeps the newest messages only.
fn bound(db: &Connection) -> Result<(), StoreError> {
    let mut delete = db
        .prepare_cached("delete from pending where id <= (select id from pending order by id desc limit 1 offset ?)")?;
    tell_lost(delete.execute([KEPT])?);
    Ok(())
}

fn tell_lost(messages: usize) {
    if messages > 0 {
        warn!(messages, "messages that nobody fetched are forgotten; does the control plane reach this agent?");
    }
}

/// Forgets what subagents have said to a chat that is no more.
pub(super) fn forget_chat(db: &Connection, chat_id: &str) -> Result<(), StoreError> {
    // What a heartbeat said is about HEARTBEAT.md, which is still there.
    db.prepare_cached("delete from pending where chat_id = ? and source in ('subagent', 'subagent_file')")?
        .execute([chat_id])?;
    Ok(())
}

impl Reader {
    /// How many messages wait.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending_count(&self) -> Result<i64, StoreError> {
        self.read(|db| Ok(db.prepare_cached("select count(*) from pending")?.query_row([], |row| row.get(0))?)).await
    }

    /// The oldest messages with a greater id, a bounded number of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending_after(&self, after: i64) -> Result<Vec<PendingMessage>, StoreError> {
        self.read(move |db| select(db, after)).await
    }

    /// Paths of the snapshots that messages wait to be fetched with.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending_files(&self) -> Result<HashSet<String>, StoreError> {
        self.read(|db| {
            let mut files =
                db.prepare_cached("select content from pending where source in ('heartbeat_file', 'subagent_file')")?;
            let mut files = files.query([])?;
            let mut paths = HashSet::new();
            while let Some(row) = files.next()? {
                let content: String = row.get(0)?;
                if let Ok(EventKind::File { path, .. }) = serde_json::from_str(&content) {
                    paths.insert(path);
                }
            }
            Ok(paths)
        })
        .await
    }
}

/// Adds a message for a chat; [`Bell::ring_if`] is to follow the commit.
pub(super) fn insert(db: &Connection, chat_id: &str, source: PendingSource, content: &str) -> Result<(), StoreError> {
    db.prepare_cached("insert into pending (chat_id, source, content) values (?, ?, ?)")?.execute([
        chat_id,
        source.as_str(),
        content,
    ])?;
    bound(db)
}

/// Whether a file is among events.
pub(super) fn has_file(events: &[EventKind]) -> bool {
    events.iter().any(|event| matches!(event, EventKind::File { .. }))
}

/// What a turn says at its end to the chat that it works for, if there still is one; it becomes part of that chat's history.
/// Of a turn that is over nothing is said again.
pub(super) fn deliver(db: &Connection, position: i64, source: PendingSource, content: &str) -> Result<(), StoreError> {
    let mut deliver_to = db.prepare_cached(
        "select deliver_to from turns where position = ? and finished_at is null and deliver_to is not null",
    )?;
    let Some(chat_id) = deliver_to.query_row([position], |row| row.get::<_, String>(0)).optional()? else {
        return Ok(());
    };
    insert(db, &chat_id, source, content)?;
    db.prepare_cached("insert into notes (chat_id, content) values (?, ?)")?.execute([&chat_id, content])?;
    Ok(())
}

/// A file that a turn sends, for the chat that it works for; nothing for a person's own turn, whose readers see the event.
///
/// Called where events are stored, so a file is announced if and only if the result of the call that sent it is there.
pub(super) fn deliver_file(db: &Connection, position: i64, event: &EventKind) -> Result<(), StoreError> {
    db.prepare_cached(
        "insert into pending (chat_id, source, content) select deliver_to, kind || '_file', ? from turns \
         where position = ? and kind <> 'chat' and deliver_to is not null",
    )?
    .execute(params![serde_json::to_string(event)?, position])?;
    bound(db)
}

fn drain(db: &Connection) -> Result<Vec<PendingMessage>, StoreError> {
    let messages = select(db, i64::MIN)?;
    if let Some(last) = messages.last() {
        delete_up_to(db, last.id)?;
    }
    Ok(messages)
}

fn select(db: &Connection, after: i64) -> Result<Vec<PendingMessage>, StoreError> {
    let mut select = db.prepare_cached(
        "select id, chat_id, source, content, created_at from pending where id > ? order by id limit ?",
    )?;
    let mut rows = select.query([after, AT_ONCE])?;
    let mut messages = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let (source, content): (String, String) = (row.get(2)?, row.get(3)?);
        bytes += content.len();
        if bytes > MAX_BYTES && !messages.is_empty() {
            break;
        }
        let (id, chat_id, created_at) = (row.get(0)?, row.get(1)?, rfc3339(row.get(4)?));
        messages.push(PendingMessage { id, chat_id, content, source: source_named(&source), created_at });
    }
    Ok(messages)
}

fn delete_up_to(db: &Connection, id: i64) -> Result<i64, StoreError> {
    let deleted = db.prepare_cached("delete from pending where id <= ?")?.execute([id])?;
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
}

fn source_named(name: &str) -> PendingSource {
    use PendingSource::{Heartbeat, HeartbeatFile, Subagent, SubagentFile};
    [Heartbeat, Subagent, HeartbeatFile].into_iter().find(|source| source.as_str() == name).unwrap_or(SubagentFile)
}

fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
