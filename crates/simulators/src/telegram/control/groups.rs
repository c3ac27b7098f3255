//! Groups: made, written in, left.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::written::{Album, Edited, Written, change, submit, submit_album};
use super::{Answer, Misuse};
use crate::telegram::Telegram;
use crate::telegram::entities::Formatted;
use crate::telegram::updates::QueueKey;
use crate::telegram::world::{Chat, Message, Standing, World, now_ms};

#[derive(Deserialize)]
pub(super) struct NewGroup {
    title: String,
    /// Users; the first one makes the group and adds the bot.
    members: Vec<i64>,
}

pub(super) async fn create(State(telegram): State<Telegram>, Json(group): Json<NewGroup>) -> Answer {
    let Some(&creator) = group.members.first() else {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "a group needs at least one member"));
    };
    let mut world = telegram.world();
    for &member in &group.members {
        world.user(member);
    }
    world.last_group += 1;
    let id = -world.last_group;
    let mut chat = Chat::new(id, Some(group.title));
    chat.standing = Standing::Left;
    chat.members.extend(group.members);
    world.chats.insert(id, chat);
    let by = world.sender_json(Some(creator));
    telegram.change_standing(&mut world, id, by, Standing::Member);
    let bot = world.bot_json();
    let update_id = service_message(&telegram, &mut world, id, creator, "new_chat_members", json!([bot]));
    Ok(Json(json!({ "chat_id": id, "update_id": update_id })))
}

fn service_message(
    telegram: &Telegram,
    world: &mut World,
    chat: i64,
    from: i64,
    field: &str,
    value: Value,
) -> Option<i64> {
    let mut message = Message::new(world.next_message_id(), Some(from), Formatted::default(), now_ms());
    message.extra.insert(field.into(), value);
    let payload = world.message_json(chat, &message);
    world.chats.get_mut(&chat)?.keep(message);
    let update_id = world.updates.push("message", QueueKey::Chat(chat), payload);
    telegram.start_delivery(world, QueueKey::Chat(chat));
    update_id
}

#[derive(Deserialize)]
pub(super) struct GroupMessage {
    from: i64,
    #[serde(flatten)]
    written: Written,
}

/// The group in which user `from` writes now.
fn enter(world: &mut World, id: i64, from: i64) -> Result<(), Misuse> {
    world.user(from);
    let chat = world.chats.get_mut(&id).filter(|chat| chat.title.is_some()).ok_or_else(|| Misuse::no_chat(id))?;
    chat.members.insert(from);
    if chat.standing != Standing::Member {
        return Err(Misuse::new(StatusCode::CONFLICT, "the bot is not in this group and would not see the message"));
    }
    Ok(())
}

pub(super) async fn write(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Json(message): Json<GroupMessage>,
) -> Answer {
    let mut world = telegram.world();
    enter(&mut world, id, message.from)?;
    submit(&telegram, &mut world, id, message.from, message.written).map(Json)
}

#[derive(Deserialize)]
pub(super) struct GroupAlbum {
    from: i64,
    #[serde(flatten)]
    album: Album,
}

pub(super) async fn write_album(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Json(sent): Json<GroupAlbum>,
) -> Answer {
    let mut world = telegram.world();
    enter(&mut world, id, sent.from)?;
    submit_album(&telegram, &mut world, id, sent.from, sent.album).map(Json)
}

#[derive(Deserialize)]
pub(super) struct GroupEdit {
    from: i64,
    #[serde(flatten)]
    edited: Edited,
}

pub(super) async fn edit(
    State(telegram): State<Telegram>,
    Path((id, message_id)): Path<(i64, i64)>,
    Json(edit): Json<GroupEdit>,
) -> Answer {
    change(&telegram, &mut telegram.world(), id, edit.from, message_id, &edit.edited)
}

/// The group's first member removes the bot.
pub(super) async fn kick(State(telegram): State<Telegram>, Path(id): Path<i64>) -> Answer {
    let mut world = telegram.world();
    let chat = world.chats.get(&id).filter(|chat| chat.title.is_some()).ok_or_else(|| Misuse::no_chat(id))?;
    let first = chat.members.first().copied();
    let by = world.sender_json(first);
    let update_id = telegram.change_standing(&mut world, id, by, Standing::Banned);
    Ok(Json(json!({ "update_id": update_id })))
}

/// The group becomes a supergroup with a new id; calls for the old one are refused with `migrate_to_chat_id`.
pub(super) async fn migrate(State(telegram): State<Telegram>, Path(id): Path<i64>) -> Answer {
    let mut world = telegram.world();
    let to = -1_000_000_000_000 + id;
    let old = world.chats.get_mut(&id).filter(|chat| chat.title.is_some()).ok_or_else(|| Misuse::no_chat(id))?;
    old.standing = Standing::Migrated(to);
    let mut new = Chat::new(to, old.title.clone());
    new.members = old.members.clone();
    let from = new.members.first().copied().unwrap_or_default();
    world.chats.insert(to, new);
    let update_id = service_message(&telegram, &mut world, id, from, "migrate_to_chat_id", to.into());
    Ok(Json(json!({ "chat_id": to, "update_id": update_id })))
}
