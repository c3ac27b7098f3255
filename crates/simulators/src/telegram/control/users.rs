//! What users do.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::written::{Album, Edited, Written, change, submit, submit_album};
use super::{Answer, Misuse};
use crate::telegram::Telegram;
use crate::telegram::keyboard::has_callback;
use crate::telegram::updates::QueueKey;
use crate::telegram::world::{Callback, Standing, World};

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

/// The private chat with user `id`, in which the user writes now.
fn enter(world: &mut World, id: i64) -> Result<(), Misuse> {
    if id <= 0 {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "user ids are positive"));
    }
    let chat = world.private(id);
    if chat.standing == Standing::Banned {
        return Err(Misuse::new(StatusCode::CONFLICT, format!("user {id} has blocked the bot; unblock it first")));
    }
    chat.standing = Standing::Member;
    Ok(())
}

pub(super) async fn write(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Json(written): Json<Written>,
) -> Answer {
    let mut world = telegram.world();
    enter(&mut world, id)?;
    submit(&telegram, &mut world, id, id, written).map(Json)
}

pub(super) async fn write_album(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Json(album): Json<Album>,
) -> Answer {
    let mut world = telegram.world();
    enter(&mut world, id)?;
    submit_album(&telegram, &mut world, id, id, album).map(Json)
}

pub(super) async fn edit(
    State(telegram): State<Telegram>,
    Path((id, message_id)): Path<(i64, i64)>,
    Json(edited): Json<Edited>,
) -> Answer {
    change(&telegram, &mut telegram.world(), id, id, message_id, &edited)
}

/// Users can delete messages of both sides; bots aren't told.
pub(super) async fn delete(State(telegram): State<Telegram>, Path((id, message_id)): Path<(i64, i64)>) -> Answer {
    let mut world = telegram.world();
    world.changed = true;
    let chat = world.chats.get_mut(&id).ok_or_else(|| Misuse::no_chat(id))?;
    let message = chat.messages.get_mut(&message_id).filter(|message| !message.deleted);
    message.ok_or_else(|| Misuse::no_message(message_id))?.deleted = true;
    chat.tell(|| json!({ "type": "deleted", "message_id": message_id }));
    Ok(Json(json!({})))
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
