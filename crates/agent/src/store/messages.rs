//! The history: what was said, which tools were called and what they brought.

use super::{Reader, StoreError};
use crate::files::{Arrived, quoted};
use crate::model::{Message, ToolCall};
use baal_protocol::{Attachment, ChatRequest};
use futures_util::TryStreamExt;
use sqlx::{FromRow, SqliteConnection, query, query_as};
use std::collections::HashMap;

/// Images of one message that are shown.
const MAX_IMAGES: usize = 8;

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

impl StoredMessage {
    /// What a request says, as it is stored.
    pub fn of_request(request: &ChatRequest) -> Self {
        Self {
            id: 0,
            turn: 0,
            message: Message::user(request.message.clone()),
            attachments: request.attachments.clone(),
        }
    }

    /// As the model reads it: with the names of the files that came with it. Of those that `arrived` knows, it says where they
    /// are not in the workspace after all, and shows the images.
    pub fn into_message(self, arrived: &HashMap<String, Arrived>, sees_images: bool) -> Message {
        let Self { mut message, attachments, .. } = self;
        if let Message::User { text, images } = &mut message {
            for Attachment { path, name, mime, size } in attachments {
                let mime = mime.map(|mime| format!(", {}", quoted(&mime))).unwrap_or_default();
                let Arrived { problem, image } = arrived.get(&path).cloned().unwrap_or_default();
                let place = match problem {
                    None => format!("as {path}"),
                    Some(problem) => format!("but not in the workspace: {problem}"),
                };
                if !text.is_empty() {
                    *text += "\n\n";
                }
                *text += &format!("[Attached: {}{mime}, {size} bytes, {place}]", quoted(&name));
                images.extend(image.filter(|_| sees_images && images.len() < MAX_IMAGES));
            }
        }
        message
    }
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
    /// The newest messages of a chat after `after` that were said before the turn at `position`, oldest first: at most `max`,
    /// and no more once there are `max_bytes`. May begin anywhere, also between a call and its result.
    ///
    /// # Errors
    /// The database failed.
    pub async fn messages_before(
        &self,
        chat_id: &str,
        after: i64,
        position: i64,
        max: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        let mut rows = query_as::<_, Row>(
            "select id, turn, role, content, tool_calls, tool_call_id, attachments from messages \
             where chat_id = ? and id > ? and turn < ? order by id desc limit ?",
        )
        .bind(chat_id)
        .bind(after)
        .bind(position)
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch(&self.pool);
        let mut messages = Vec::new();
        let mut bytes = 0;
        while bytes <= max_bytes
            && let Some(row) = rows.try_next().await?
        {
            let message = row.read()?;
            bytes += message.message.bytes();
            messages.push(message);
        }
        messages.reverse();
        Ok(messages)
    }

    /// The oldest messages of a chat after `after` and up to `up_to`, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn messages_between(
        &self,
        chat_id: &str,
        after: i64,
        up_to: i64,
        max: usize,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        let rows: Vec<Row> = query_as(
            "select id, turn, role, content, tool_calls, tool_call_id, attachments from messages \
             where chat_id = ? and id > ? and id <= ? order by id limit ?",
        )
        .bind(chat_id)
        .bind(after)
        .bind(up_to)
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    /// All messages of one turn, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn turn_messages(&self, position: i64) -> Result<Vec<StoredMessage>, StoreError> {
        let rows: Vec<Row> = query_as(
            "select id, turn, role, content, tool_calls, tool_call_id, attachments from messages \
             where turn = ? order by id",
        )
        .bind(position)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Row::read).collect()
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
