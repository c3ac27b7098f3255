//! What is said unasked, kept until whoever delivers it acknowledges.

use super::read::Reader;
use super::writer::Changed;
use super::{Store, StoreError};
use baal_protocol::{EventKind, PendingMessage, PendingSource};
use chrono::{DateTime, SecondsFormat};
use futures_util::TryStreamExt;
use sqlx::{SqliteConnection, query, query_as, query_scalar};
use std::collections::HashSet;
use tokio::sync::watch;
use uuid::Uuid;

/// Messages of one answer.
const AT_ONCE: i64 = 100;
/// Text of one answer, in bytes, beyond its first message.
const MAX_BYTES: usize = 1024 * 1024;

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
pub(super) async fn database_id(db: &mut SqliteConnection) -> Result<Uuid, StoreError> {
    Ok(query_scalar("select database_id from identity").fetch_one(db).await?)
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
        self.write(|db| Box::pin(async { Ok(Changed::quietly(drain(db).await?)) })).await
    }

    /// Forgets the messages up to an id; the answer counts them.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn acknowledge_pending(&self, up_to: i64) -> Result<i64, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(delete_up_to(db, up_to).await?)) })).await
    }
}

impl Reader {
    /// How many messages wait.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending_count(&self) -> Result<i64, StoreError> {
        Ok(query_scalar("select count(*) from pending").fetch_one(&self.pool).await?)
    }

    /// The oldest messages with a greater id, a bounded number of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending_after(&self, after: i64) -> Result<Vec<PendingMessage>, StoreError> {
        select(&mut *self.pool.acquire().await?, after).await
    }

    /// Paths of the snapshots that messages wait to be fetched with.
    ///
    /// # Errors
    /// The database failed.
    pub async fn pending_files(&self) -> Result<HashSet<String>, StoreError> {
        let contents: Vec<String> =
            query_scalar("select content from pending where source in ('heartbeat_file', 'subagent_file')")
                .fetch_all(&self.pool)
                .await?;
        let path = |content: String| match serde_json::from_str(&content) {
            Ok(EventKind::File { path, .. }) => Some(path),
            _ => None,
        };
        Ok(contents.into_iter().filter_map(path).collect())
    }
}

/// Adds a message for a chat; [`Bell::ring_if`] is to follow the commit.
pub(super) async fn insert(
    db: &mut SqliteConnection,
    chat_id: &str,
    source: PendingSource,
    content: &str,
) -> Result<(), StoreError> {
    query("insert into pending (chat_id, source, content) values (?, ?, ?)")
        .bind(chat_id)
        .bind(source.as_str())
        .bind(content)
        .execute(db)
        .await?;
    Ok(())
}

/// Whether a file is among events.
pub(super) fn has_file(events: &[EventKind]) -> bool {
    events.iter().any(|event| matches!(event, EventKind::File { .. }))
}

/// What a turn says at its end to the chat that it works for, if there still is one; it becomes part of that chat's history.
/// Of a turn that is over nothing is said again.
pub(super) async fn deliver(
    db: &mut SqliteConnection,
    position: i64,
    source: PendingSource,
    content: &str,
) -> Result<(), StoreError> {
    let chat_id: Option<String> = query_scalar(
        "select deliver_to from turns where position = ? and finished_at is null and deliver_to is not null",
    )
    .bind(position)
    .fetch_optional(&mut *db)
    .await?;
    let Some(chat_id) = chat_id else {
        return Ok(());
    };
    insert(db, &chat_id, source, content).await?;
    query("insert into notes (chat_id, content) values (?, ?)").bind(&chat_id).bind(content).execute(db).await?;
    Ok(())
}

/// A file that a turn sends, for the chat that it works for; nothing for a person's own turn, whose readers see the event.
///
/// Called where events are stored, so a file is announced if and only if the result of the call that sent it is there.
pub(super) async fn deliver_file(
    db: &mut SqliteConnection,
    position: i64,
    event: &EventKind,
) -> Result<(), StoreError> {
    query(
        "insert into pending (chat_id, source, content) select deliver_to, kind || '_file', ? from turns \
         where position = ? and kind <> 'chat' and deliver_to is not null",
    )
    .bind(serde_json::to_string(event)?)
    .bind(position)
    .execute(db)
    .await?;
    Ok(())
}

async fn drain(db: &mut SqliteConnection) -> Result<Vec<PendingMessage>, StoreError> {
    let messages = select(&mut *db, i64::MIN).await?;
    if let Some(last) = messages.last() {
        delete_up_to(db, last.id).await?;
    }
    Ok(messages)
}

async fn select(db: &mut SqliteConnection, after: i64) -> Result<Vec<PendingMessage>, StoreError> {
    let mut rows = query_as::<_, (i64, String, String, String, i64)>(
        "select id, chat_id, source, content, created_at from pending where id > ? order by id limit ?",
    )
    .bind(after)
    .bind(AT_ONCE)
    .fetch(db);
    let mut messages = Vec::new();
    let mut bytes = 0;
    while let Some((id, chat_id, source, content, created_at)) = rows.try_next().await? {
        bytes += content.len();
        if bytes > MAX_BYTES && !messages.is_empty() {
            break;
        }
        let source = source_named(&source);
        messages.push(PendingMessage { id, chat_id, content, source, created_at: rfc3339(created_at) });
    }
    Ok(messages)
}

async fn delete_up_to(db: &mut SqliteConnection, id: i64) -> Result<i64, StoreError> {
    let deleted = query("delete from pending where id <= ?").bind(id).execute(db).await?;
    Ok(i64::try_from(deleted.rows_affected()).unwrap_or(i64::MAX))
}

fn source_named(name: &str) -> PendingSource {
    use PendingSource::{Heartbeat, HeartbeatFile, Subagent, SubagentFile};
    [Heartbeat, Subagent, HeartbeatFile].into_iter().find(|source| source.as_str() == name).unwrap_or(SubagentFile)
}

fn rfc3339(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
