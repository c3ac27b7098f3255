//! The history: what was said, which tools were called and what they brought.

use super::{Reader, StoreError};
use crate::model::{Message, ToolCall};
use baal_protocol::{Attachment, ChatRequest};
use futures_util::TryStreamExt;
use sqlx::{FromRow, SqliteConnection, query, query_as};

/// Text of the older history that is read at most, in bytes: some 60,000 tokens.
const MAX_HISTORY_BYTES: usize = 256 * 1024;

/// A message of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Grows.
    pub id: i64,
    /// Position of the turn that it was said in; 0 where nobody knows.
    pub turn: i64,
    /// The message; a user's without images.
    pub message: Message,
    /// Files that came with it.
    pub attachments: Vec<Attachment>,
}

#[derive(FromRow)]
struct Row {
    id: i64,
    turn: i64,
    role: String,
    content: String,
    tool_calls: Option<String>,
    tool_call_id: Option<String>,
    attachments: Option<String>,
}

impl Row {
    fn read(self) -> Result<StoredMessage, StoreError> {
        let Row { id, turn, role, content, .. } = self;
        let message = match role.as_str() {
            "user" => Message::user(content),
            "tool" => Message::tool(self.tool_call_id.unwrap_or_default(), content),
            _ => Message::Assistant { text: content, calls: calls(self.tool_calls.as_deref())? },
        };
        let attachments = self.attachments.map(|json| serde_json::from_str(&json)).transpose()?.unwrap_or_default();
        Ok(StoredMessage { id, turn, message, attachments })
    }
}

/// The calls of an assistant's row.
pub(super) fn calls(json: Option<&str>) -> Result<Vec<ToolCall>, StoreError> {
    Ok(json.map(serde_json::from_str).transpose()?.unwrap_or_default())
}

impl Reader {
    /// The newest messages of a chat, oldest first: those of the turn at `position` all, of older ones at most `max`, and no
    /// more text than a model can be asked to read. It may begin anywhere, also between a call and its result.
    ///
    /// # Errors
    /// The database failed.
    pub async fn history(&self, chat_id: &str, position: i64, max: u32) -> Result<Vec<StoredMessage>, StoreError> {
        let mut rows = query_as::<_, Row>(
            "select id, turn, role, content, tool_calls, tool_call_id, attachments from messages where chat_id = ?1 \
             order by id desc limit ?2 + (select count(*) from messages where turn = ?3)",
        )
        .bind(chat_id)
        .bind(max)
        .bind(position)
        .fetch(&self.pool);
        let mut history = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            let message = row.read()?;
            if message.turn != position {
                bytes += message.message.bytes();
                if bytes > MAX_HISTORY_BYTES {
                    break;
                }
            }
            history.push(message);
        }
        history.reverse();
        Ok(history)
    }
}

/// What a person says, as a message of the turn at `position`.
pub(super) async fn insert_user(
    db: &mut SqliteConnection,
    position: i64,
    chat_id: &str,
    request: &ChatRequest,
) -> Result<(), StoreError> {
    let attachments =
        if request.attachments.is_empty() { None } else { Some(serde_json::to_string(&request.attachments)?) };
    query("insert into messages (chat_id, turn, role, content, attachments) values (?, ?, 'user', ?, ?)")
        .bind(chat_id)
        .bind(position)
        .bind(&request.message)
        .bind(attachments)
        .execute(db)
        .await?;
    Ok(())
}

/// What the model says in the turn at `position`.
pub(super) async fn insert_assistant(
    db: &mut SqliteConnection,
    position: i64,
    text: &str,
    calls: &[ToolCall],
) -> Result<(), StoreError> {
    let calls = if calls.is_empty() { None } else { Some(serde_json::to_string(calls)?) };
    query(
        "insert into messages (chat_id, turn, role, content, tool_calls) \
         select chat_id, position, 'assistant', ?, ? from turns where position = ?",
    )
    .bind(text)
    .bind(calls)
    .bind(position)
    .execute(db)
    .await?;
    Ok(())
}

/// What a call in the turn at `position` brought.
pub(super) async fn insert_result(
    db: &mut SqliteConnection,
    position: i64,
    call_id: &str,
    text: &str,
) -> Result<(), StoreError> {
    query(
        "insert into messages (chat_id, turn, role, content, tool_call_id) \
         select chat_id, position, 'tool', ?, ? from turns where position = ?",
    )
    .bind(text)
    .bind(call_id)
    .bind(position)
    .execute(db)
    .await?;
    Ok(())
}
