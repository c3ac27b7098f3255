//! The history: what was said, which tools were called and what they brought.

use super::{Reader, StoreError};
use crate::context::window::shortened;
use crate::files::{Arrived, quoted};
use crate::model::{Message, ToolCall};
use baal_protocol::{Attachment, ChatRequest};
use rusqlite::{Connection, Params, Row, params};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Stands for calls that another version of the agent wrote down.
const UNREADABLE_CALLS: &str = "[The agent: tools were called here; what they were called with can no longer be read.]";
/// In the place of a result that the model cannot be shown.
const REFUSED_RESULT: &str = "[The agent: what this brought is left out, since the AI service refused to read it.]";

/// How much of a history is read.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Messages at most.
    pub max: usize,
    /// Their bytes, beyond the last message.
    pub max_bytes: usize,
    /// Bytes that a tool's result counts with at most.
    pub short: usize,
}

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
            message: Message::user(said(request).into_owned()),
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
                let (problem, image) = arrived
                    .get(&path)
                    .map_or((None, None), |Arrived { problem, image }| (problem.as_ref(), image.as_ref()));
                let place = match problem {
                    None => format!("as {path}"),
                    Some(problem) => format!("but not in the workspace: {problem}"),
                };
                if !text.is_empty() {
                    *text += "\n\n";
                }
                *text += &format!("[Attached: {}{mime}, {size} bytes, {place}]", quoted(&name));
                images.extend(image.filter(|_| sees_images).map(|image| image.url.clone()));
            }
        }
        message
    }
}

/// As [`read_message`] reads it.
const SELECT: &str = "select id, turn, role, content, tool_calls, tool_call_id, attachments from messages";

fn read_message(row: &Row<'_>) -> Result<StoredMessage, StoreError> {
    let (role, content): (String, String) = (row.get(2)?, row.get(3)?);
    let [called, call_id, attachments]: [Option<String>; 3] = [row.get(4)?, row.get(5)?, row.get(6)?];
    let message = match role.as_str() {
        "user" => Message::user(content),
        "tool" => Message::tool(call_id.unwrap_or_default(), content),
        _ => match calls(called.as_deref()) {
            Some(calls) => Message::Assistant { text: content, calls },
            None if content.is_empty() => Message::assistant(UNREADABLE_CALLS.to_owned()),
            None => Message::assistant(format!("{content}\n\n{UNREADABLE_CALLS}")),
        },
    };
    // silent-ok: what another version of the agent wrote must not stop the chat for ever; the words are there
    let attachments = attachments.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    Ok(StoredMessage { id: row.get(0)?, turn: row.get(1)?, message, attachments })
}

/// The calls of an assistant's row; `None` where another version of the agent wrote them down.
pub(super) fn calls(json: Option<&str>) -> Option<Vec<ToolCall>> {
    // silent-ok: whoever reads them says so
    json.map_or(Some(Vec::new()), |json| serde_json::from_str(json).ok())
}

/// Leaves out the results of calls that could not be read: services refuse a result without its call.
fn without_orphans(messages: Vec<StoredMessage>) -> Vec<StoredMessage> {
    let mut called = HashSet::new();
    let mut whole = messages;
    whole.retain(|stored| match &stored.message {
        Message::Assistant { calls, .. } => {
            called = calls.iter().map(|call| call.id.clone()).collect();
            true
        }
        Message::Tool { call_id, .. } => called.contains(call_id),
        _ => true,
    });
    whole
}

impl Reader {
    /// The newest messages of a chat after `after` that were said before the turn at `position`, oldest first: at most `max`,
    /// and no more once there are `max_bytes`. May begin anywhere, also between a call and its result.
    ///
    /// Results of tools count with `short` bytes at most; those that are too much in their full length are cut to that.
    ///
    /// # Errors
    /// The database failed.
    pub async fn messages_before(
        &self,
        chat_id: &str,
        after: i64,
        position: i64,
        bounds: Bounds,
    ) -> Result<Vec<StoredMessage>, StoreError> {
        let chat_id = chat_id.to_owned();
        let Bounds { max, max_bytes, short } = bounds;
        self.read(move |db| {
            let mut select = db.prepare_cached(&format!(
                "{SELECT} where chat_id = ? and id > ? and turn < ? order by id desc limit ?"
            ))?;
            let mut rows = select.query(params![chat_id, after, position, max])?;
            let mut messages = Vec::new();
            let (mut bytes, mut whole_bytes) = (0, 0);
            while bytes <= max_bytes
                && let Some(row) = rows.next()?
            {
                let mut message = read_message(row)?;
                whole_bytes += message.message.bytes();
                if let Message::Tool { text, .. } = &mut message.message {
                    bytes += text.len().min(short);
                    if whole_bytes > max_bytes {
                        *text = shortened(text, short);
                    }
                } else {
                    bytes += message.message.bytes();
                }
                messages.push(message);
            }
            messages.reverse();
            Ok(without_orphans(messages))
        })
        .await
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
        let chat_id = chat_id.to_owned();
        self.read(move |db| {
            select(
                db,
                "where chat_id = ? and id > ? and id <= ? order by id limit ?",
                params![chat_id, after, up_to, max],
            )
        })
        .await
    }

    /// What was said in one turn: the person's messages and the last answer, oldest first, without what tools did in between.
    ///
    /// # Errors
    /// The database failed.
    pub async fn words_of_turn(&self, position: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.read(move |db| {
            select(
                db,
                "where turn = ?1 and (role = 'user' or id = (select max(id) from messages \
                 where turn = ?1 and role = 'assistant' and tool_calls is null)) order by id",
                [position],
            )
        })
        .await
    }

    /// Whether a chat has messages with an id between these two.
    ///
    /// # Errors
    /// The database failed.
    pub async fn has_messages_between(&self, chat_id: &str, after: i64, before: i64) -> Result<bool, StoreError> {
        let chat_id = chat_id.to_owned();
        self.read(move |db| {
            let mut any =
                db.prepare_cached("select 1 from messages where chat_id = ? and id > ? and id < ? limit 1")?;
            Ok(any.exists(params![chat_id, after, before])?)
        })
        .await
    }

    /// All messages of one turn, oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn turn_messages(&self, position: i64) -> Result<Vec<StoredMessage>, StoreError> {
        self.read(move |db| Ok(without_orphans(select(db, "where turn = ? order by id", [position])?))).await
    }
}

fn select(db: &Connection, which: &str, values: impl Params) -> Result<Vec<StoredMessage>, StoreError> {
    let mut select = db.prepare_cached(&format!("{SELECT} {which}"))?;
    let mut rows = select.query(values)?;
    let mut messages = Vec::new();
    while let Some(row) = rows.next()? {
        messages.push(read_message(row)?);
    }
    Ok(messages)
}

/// What a person says, as a message of the turn at `position`.
pub(super) fn insert_user(
    db: &Connection,
    position: i64,
    chat_id: &str,
    request: &ChatRequest,
) -> Result<(), StoreError> {
    let attachments =
        if request.attachments.is_empty() { None } else { Some(serde_json::to_string(&request.attachments)?) };
    db.prepare_cached("insert into messages (chat_id, turn, role, content, attachments) values (?, ?, 'user', ?, ?)")?
        .execute(params![chat_id, position, said(request), attachments])?;
    Ok(())
}

/// A person's words. What was answered to the first ones stays in the history, so the model is told that these replace them.
fn said(request: &ChatRequest) -> Cow<'_, str> {
    match request.edit_of {
        None => Cow::Borrowed(&request.message),
        Some(_) => format!("[I have changed an earlier message of mine. It now reads:]\n\n{}", request.message).into(),
    }
}

/// What the model says in the turn at `position`.
pub(super) fn insert_assistant(
    db: &Connection,
    position: i64,
    text: &str,
    calls: &[ToolCall],
) -> Result<(), StoreError> {
    let calls = if calls.is_empty() { None } else { Some(serde_json::to_string(calls)?) };
    db.prepare_cached(
        "insert into messages (chat_id, turn, role, content, tool_calls) \
         select chat_id, position, 'assistant', ?, ? from turns where position = ?",
    )?
    .execute(params![text, calls, position])?;
    Ok(())
}

/// What a call in the turn at `position` brought.
pub(super) fn insert_result(db: &Connection, position: i64, call_id: &str, text: &str) -> Result<(), StoreError> {
    db.prepare_cached(
        "insert into messages (chat_id, turn, role, content, tool_call_id) \
         select chat_id, position, 'tool', ?, ? from turns where position = ?",
    )?
    .execute(params![text, call_id, position])?;
    Ok(())
}

/// Puts a few words in the place of the newest round's results of the turn at `position`.
pub(super) fn leave_out_results(db: &Connection, position: i64) -> Result<(), StoreError> {
    let newest = "turn = ?1 and role = 'tool' \
         and id > (select max(id) from messages where turn = ?1 and role = 'assistant' and tool_calls is not null)";
    // The index has to be told what it held.
    let indexed = format!(
        "from searchable where id in (select id from messages where {newest}) and id <= (select up_to from search_index)"
    );
    db.prepare_cached(&format!(
        "insert into messages_text (messages_text, rowid, chat, content) select 'delete', id, chat, content {indexed}"
    ))?
    .execute([position])?;
    db.prepare_cached(&format!("update messages set content = ?2 where {newest}"))?
        .execute(params![position, REFUSED_RESULT])?;
    db.prepare_cached(&format!("insert into messages_text (rowid, chat, content) select id, chat, content {indexed}"))?
        .execute([position])?;
    Ok(())
}
