//! What users do.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Misuse};
use crate::telegram::Telegram;
use crate::telegram::entities::Formatted;
use crate::telegram::keyboard::has_callback;
use crate::telegram::methods::{describe_file, keep_file};
use crate::telegram::updates::QueueKey;
use crate::telegram::world::{Callback, Message, Standing, World, now_ms};

/// UTF-16 units after which a client cuts a long text into several messages.
const MAX_TEXT: usize = 4_096;

pub(super) async fn list(State(telegram): State<Telegram>) -> Json<Value> {
    Json(telegram.world().users.values().map(crate::telegram::world::User::json).collect())
}

#[derive(Deserialize)]
pub(super) struct Description {
    first_name: Option<String>,
    last_name: Option<String>,
    username: Option<String>,
    language_code: Option<String>,
}

pub(super) async fn describe(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Json(description): Json<Description>,
) -> Answer {
    if id <= 0 {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "user ids are positive"));
    }
    let mut world = telegram.world();
    world.changed = true;
    let user = world.user(id);
    if let Some(first_name) = description.first_name {
        user.first_name = first_name;
    }
    user.last_name = description.last_name.or(user.last_name.take());
    user.username = description.username.or(user.username.take());
    user.language_code = description.language_code.or(user.language_code.take());
    Ok(Json(user.json()))
}

/// A message of a user: a text, or a file with a caption.
#[derive(Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    pub text: String,
    photo: Option<Attached>,
    document: Option<Attached>,
    /// Further fields of the Bot API's message, laid over what is made of the rest.
    #[serde(default)]
    raw: Map<String, Value>,
}

#[derive(Deserialize)]
struct Attached {
    #[serde(default)]
    file_name: String,
    mime_type: Option<String>,
    content_base64: String,
}

pub(super) async fn write(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Json(written): Json<Written>,
) -> Answer {
    if id <= 0 {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "user ids are positive"));
    }
    let mut world = telegram.world();
    let chat = world.private(id);
    if chat.standing == Standing::Banned {
        return Err(Misuse::new(StatusCode::CONFLICT, format!("user {id} has blocked the bot; unblock it first")));
    }
    chat.standing = Standing::Member;
    submit(&telegram, &mut world, id, id, written)
}

/// Puts what user `from` wrote into `chat_id` and sends it to the bot, cut into several messages where it is too long for one.
pub(super) fn submit(telegram: &Telegram, world: &mut World, chat_id: i64, from: i64, written: Written) -> Answer {
    let mut extra = written.raw;
    for (kind, attached) in [("photo", written.photo), ("document", written.document)] {
        if let Some(attached) = attached {
            let bytes = STANDARD.decode(&attached.content_base64);
            let bytes = bytes.map_err(|_| Misuse::new(StatusCode::BAD_REQUEST, "`content_base64` is not base64"))?;
            let standard = if kind == "photo" { "image/jpeg" } else { "application/octet-stream" };
            let mime = attached.mime_type.as_deref().unwrap_or(standard);
            let file = keep_file(world, kind, &attached.file_name, mime, Bytes::from(bytes));
            extra.insert(kind.into(), describe_file(kind, &file));
        }
    }
    let parts = cut(&written.text);
    let contents: Vec<Formatted> = parts.iter().filter_map(|part| Formatted::checked(part, Vec::new()).ok()).collect();
    if extra.is_empty() && contents.iter().all(|content| content.text.is_empty()) {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "there is nothing to send: `text` is empty"));
    }
    let mut sent = Vec::new();
    for content in contents {
        let mut message = Message::new(world.next_message_id(), Some(from), content, now_ms());
        message.extra = extra.clone();
        let payload = world.message_json(chat_id, &message);
        world.tell_message(chat_id, "message", &message);
        let message_id = message.message_id;
        let chat = world.chats.get_mut(&chat_id).ok_or_else(|| Misuse::no_chat(chat_id))?;
        chat.threads.extend(message.extra.get("message_thread_id").and_then(Value::as_i64));
        chat.keep(message);
        let update_id = world.updates.push("message", QueueKey::Chat(chat_id), payload);
        telegram.start_delivery(world, QueueKey::Chat(chat_id));
        sent.push(json!({ "message_id": message_id, "update_id": update_id }));
    }
    let mut answer = sent.first().cloned().unwrap_or_default();
    if sent.len() > 1 {
        answer["messages"] = sent.into();
    }
    Ok(Json(answer))
}

fn cut(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut length = 0;
    for c in text.chars() {
        if length + c.len_utf16() > MAX_TEXT {
            parts.push(String::new());
            length = 0;
        }
        length += c.len_utf16();
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

#[derive(Deserialize)]
pub(super) struct Edited {
    text: String,
}

pub(super) async fn edit(
    State(telegram): State<Telegram>,
    Path((id, message_id)): Path<(i64, i64)>,
    Json(edited): Json<Edited>,
) -> Answer {
    let mut world = telegram.world();
    let content = Formatted::checked(&edited.text, Vec::new())
        .map_err(|refusal| Misuse::new(StatusCode::BAD_REQUEST, refusal.description))?;
    let message = own_message(&mut world, id, message_id)?;
    message.edit(content, None, now_ms());
    let message = message.clone();
    let payload = world.message_json(id, &message);
    world.tell_message(id, "edited", &message);
    let update_id = world.updates.push("edited_message", QueueKey::Chat(id), payload);
    telegram.start_delivery(&mut world, QueueKey::Chat(id));
    Ok(Json(json!({ "message_id": message_id, "update_id": update_id })))
}

/// Users can delete messages of both sides; bots aren't told.
pub(super) async fn delete(State(telegram): State<Telegram>, Path((id, message_id)): Path<(i64, i64)>) -> Answer {
    let mut world = telegram.world();
    world.changed = true;
    let chat = world.chats.get_mut(&id).ok_or_else(|| Misuse::no_chat(id))?;
    let message = chat.messages.get_mut(&message_id).filter(|message| !message.deleted);
    message.ok_or_else(|| no_message(message_id))?.deleted = true;
    chat.tell(|| json!({ "type": "deleted", "message_id": message_id }));
    Ok(Json(json!({})))
}

fn own_message(world: &mut World, id: i64, message_id: i64) -> Result<&mut Message, Misuse> {
    let chat = world.chats.get_mut(&id).ok_or_else(|| Misuse::no_chat(id))?;
    let message = chat.messages.get_mut(&message_id).filter(|message| !message.deleted && message.from == Some(id));
    message.ok_or_else(|| no_message(message_id))
}

fn no_message(id: i64) -> Misuse {
    Misuse::new(StatusCode::NOT_FOUND, format!("there is no message {id}"))
}

#[derive(Deserialize)]
pub(super) struct Press {
    message_id: i64,
    data: String,
    /// Presses although there is no such button, as a hostile client can.
    #[serde(default)]
    forge: bool,
    /// The group of the message; the private chat without it.
    chat_id: Option<i64>,
}

pub(super) async fn press(State(telegram): State<Telegram>, Path(id): Path<i64>, Json(press): Json<Press>) -> Answer {
    let mut world = telegram.world();
    world.user(id);
    let chat_id = press.chat_id.unwrap_or(id);
    let chat = world.chats.get(&chat_id).ok_or_else(|| Misuse::no_chat(chat_id))?;
    let message = chat.messages.get(&press.message_id).filter(|message| !message.deleted);
    let markup = message.and_then(|message| message.reply_markup.as_ref());
    if !press.forge && !markup.is_some_and(|markup| has_callback(markup, &press.data)) {
        let (message, data) = (press.message_id, press.data);
        return Err(Misuse::new(StatusCode::CONFLICT, format!("message {message} has no button with data {data:?}")));
    }
    let shown = message.map_or_else(
        || json!({ "chat": world.chat_json(chat_id), "message_id": press.message_id, "date": 0 }),
        |message| world.message_json(chat_id, message),
    );
    let query_id = rand::random_range(1_000_000_000_000_000_000u64..u64::MAX / 2).to_string();
    let payload = json!({
        "id": query_id,
        "from": world.sender_json(Some(id)),
        "message": shown,
        "chat_instance": format!("-{}", chat_id.unsigned_abs().wrapping_mul(1_000_003)),
        "data": press.data,
    });
    world.keep_callback(query_id.clone(), Callback { chat_id, at: std::time::Instant::now(), answer: None });
    let update_id = world.updates.push("callback_query", QueueKey::User(id), payload);
    telegram.start_delivery(&mut world, QueueKey::User(id));
    Ok(Json(json!({ "query_id": query_id, "update_id": update_id })))
}

/// What the bot answered to a press: `{"answered":false}`, or its `text`, `show_alert` and `url`.
pub(super) async fn callback(State(telegram): State<Telegram>, Path(id): Path<String>) -> Answer {
    let world = telegram.world();
    let callback = world.callbacks.get(&id);
    let callback = callback.ok_or_else(|| Misuse::new(StatusCode::NOT_FOUND, "there was no such press"))?;
    Ok(Json(callback.answer.clone().unwrap_or_else(|| json!({ "answered": false }))))
}

pub(super) async fn block(State(telegram): State<Telegram>, Path(id): Path<i64>) -> Answer {
    set_blocked(&telegram, id, Standing::Banned)
}

pub(super) async fn unblock(State(telegram): State<Telegram>, Path(id): Path<i64>) -> Answer {
    set_blocked(&telegram, id, Standing::Member)
}

fn set_blocked(telegram: &Telegram, id: i64, standing: Standing) -> Answer {
    if id <= 0 {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "user ids are positive"));
    }
    let mut world = telegram.world();
    world.private(id);
    let by = world.sender_json(Some(id));
    let update_id = telegram.change_standing(&mut world, id, by, standing);
    Ok(Json(json!({ "update_id": update_id })))
}
