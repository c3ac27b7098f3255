//! The history: what was said, which tools were called and what they brought.

use super::{Reader, StoreError};
use crate::model::{Message, ToolCall};
use baal_protocol::{Attachment, ChatRequest};
use serde::Deserialize;
use sqlx::{SqliteConnection, query, query_scalar};

/// Text of the older history that is read at most, in bytes: some 60,000 tokens.
const MAX_HISTORY_BYTES: i64 = 256 * 1024;

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

#[derive(Deserialize)]
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
        // As one value, because each row costs more on its way than all of it.
        let rows: String = query_scalar(
            "select json_group_array(json_array(id, turn, role, content, tool_calls, tool_call_id, attachments)) \
             from (select *, sum(iif(turn = ?3, 0, octet_length(content))) over (order by id desc) as bytes \
             from (select id, turn, role, content, tool_calls, tool_call_id, attachments from messages \
             where chat_id = ?1 order by id desc limit ?2 + (select count(*) from messages where turn = ?3))) \
             where turn = ?3 or bytes <= ?4",
        )
        .bind(chat_id)
        .bind(max)
        .bind(position)
        .bind(MAX_HISTORY_BYTES)
        .fetch_one(&self.pool)
        .await?;
        let rows: Vec<Row> = serde_json::from_str(&rows)?;
        let mut history = rows.into_iter().map(Row::read).collect::<Result<Vec<_>, _>>()?;
        history.sort_unstable_by_key(|message| message.id);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewTurn, Results, Round, Store, ToolResult};
    use crate::tools::TurnKind;
    use tempfile::TempDir;

    async fn turn(store: &Store, message: &str) -> i64 {
        let request = serde_json::json!({"message": message, "chat_id": "1", "attachments":
            [{"path": "uploads/1/a.txt", "name": "a.txt", "size": 3}]});
        let request = serde_json::from_value(request).expect("a request");
        let turn = NewTurn::background(TurnKind::Chat, request, "1".into());
        match store.accept(turn, true).await.expect("written") {
            crate::store::Accepted::New { position, .. } => position,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_history_is_read_as_it_was_written_whatever_is_in_it() {
        let directory = TempDir::new().expect("temp dir");
        let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
        let odd = "a \0 \" \\ \u{1b}[0m \u{fffd} 𝄞 \u{2028}\n";
        let position = turn(&store, odd).await;
        let call = ToolCall { id: "a".into(), name: "bash".into(), arguments: "{\"command\": \"\\u0000\"".into() };
        let round = Round { position, text: odd.into(), calls: vec![call.clone()], had_deltas: false, spent_tokens: 0 };
        assert!(store.round(round).await.expect("written"));
        let result = |text: String| Results {
            position,
            results: vec![ToolResult { call_id: "a".into(), text }],
            events: Vec::new(),
            had_output: false,
            steered_by: None,
        };
        assert!(store.results(result(odd.into())).await.expect("written"));
        let history = store.read().history("1", position, 0).await.expect("read");
        let messages: Vec<Message> = history.iter().map(|stored| stored.message.clone()).collect();
        let wanted = [
            Message::user(odd.into()),
            Message::Assistant { text: odd.into(), calls: vec![call] },
            Message::tool("a".into(), odd.into()),
        ];
        assert_eq!(messages, wanted);
        assert_eq!((history[0].attachments[0].name.as_str(), history[0].turn), ("a.txt", position));

        // Of other turns only so much, of this one all.
        let long = "x".repeat(200 * 1024);
        for _ in 0..2 {
            assert!(store.results(result(long.clone())).await.expect("written"));
        }
        let lengths = async |position| {
            let history = store.read().history("1", position, 10).await.expect("read");
            history.len()
        };
        assert_eq!((lengths(position).await, lengths(position + 1).await), (5, 1));
    }
}
