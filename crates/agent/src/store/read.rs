//! What is committed, read by connections of their own.

use super::{StoreError, options};
use crate::model::Message;
use baal_protocol::{Event, TurnState, TurnStatus};
use futures_util::TryStreamExt;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{SqlitePool, query_as};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// Connections; a read takes well under a millisecond.
const READERS: u32 = 2;
/// Events of one read.
const EVENTS_AT_ONCE: i64 = 200;
/// Text of the history that a model gets at most, in bytes: some 60,000 tokens.
const MAX_HISTORY_BYTES: usize = 256 * 1024;

/// The reading side of the database.
#[derive(Clone)]
pub struct Reader {
    pool: SqlitePool,
}

/// A turn that is queued or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct OpenTurn {
    /// Its place in the order of arrival.
    pub position: i64,
    /// Its id.
    pub id: Uuid,
}

/// A turn as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of arrival.
    pub position: i64,
    /// State and newest event.
    pub status: TurnStatus,
}

impl Stored {
    /// Whether nothing will be added.
    pub fn is_over(&self) -> bool {
        matches!(self.status.state, TurnState::Done | TurnState::Cancelled)
    }
}

impl Reader {
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options(path).read_only(true));
        Ok(Self { pool })
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    /// One turn, or `None` where it was never accepted.
    ///
    /// # Errors
    /// The database failed.
    pub async fn turn(&self, id: Uuid) -> Result<Option<Stored>, StoreError> {
        let row: Option<(i64, String, i64)> = query_as("select position, state, last_seq from turns where id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|(position, state, last_seq)| {
            let state = match state.as_str() {
                "queued" => TurnState::Queued,
                "running" => TurnState::Running,
                "cancelled" => TurnState::Cancelled,
                _ => TurnState::Done,
            };
            Stored { position, status: TurnStatus { turn_id: id, state, last_seq } }
        }))
    }

    /// The next events of a turn after `seq`, a bounded number of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn events(&self, position: i64, seq: i64) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, String)> =
            query_as("select seq, body from events where turn = ? and seq > ? order by seq limit ?")
                .bind(position)
                .bind(seq)
                .bind(EVENTS_AT_ONCE)
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter().map(|(seq, body)| Ok(Event { seq, kind: serde_json::from_str(&body)? })).collect()
    }

    /// The turn of a chat whose time it is.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next_open_turn(&self, chat_id: &str) -> Result<Option<OpenTurn>, StoreError> {
        Ok(query_as(
            "select position, id from turns where chat_id = ? and finished_at is null order by position limit 1",
        )
        .bind(chat_id)
        .fetch_optional(&self.pool)
        .await?)
    }

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

    /// The newest messages of a chat, oldest first: at most `max`, and no more text than a model can be asked to read.
    ///
    /// # Errors
    /// The database failed.
    pub async fn history(&self, chat_id: &str, max: u32) -> Result<Vec<Message>, StoreError> {
        let mut rows = query_as::<_, (String, String)>(
            "select role, content from messages where chat_id = ? order by id desc limit ?",
        )
        .bind(chat_id)
        .bind(max)
        .fetch(&self.pool);
        let mut history = Vec::new();
        let mut bytes = 0;
        while let Some((role, content)) = rows.try_next().await? {
            bytes += content.len();
            if bytes > MAX_HISTORY_BYTES {
                break;
            }
            history.push(if role == "user" { Message::user(content) } else { Message::assistant(content) });
        }
        history.reverse();
        Ok(history)
    }
}
