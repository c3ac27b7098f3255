//! What a chat's page watches: a snapshot, then every change, as server-sent events.

use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use tokio_stream::wrappers::BroadcastStream;

use super::Telegram;
use super::control::Misuse;
use super::world::{Command, Standing, World};

/// Messages that a page shows.
const SHOWN: usize = 500;

/// Who is in a chat, and what its command menu offers.
pub(crate) fn header(world: &World, chat_id: i64) -> Value {
    let user = world.users.get(&chat_id);
    let language = user.and_then(|user| user.language_code.as_deref()).unwrap_or("en");
    let mut bot = world.bot_json();
    bot["description"] = world.bot.description.clone().into();
    bot["commands"] = json!(commands(world, chat_id, language));
    let standing = world.chats.get(&chat_id).map_or(Standing::Unknown, |chat| chat.standing);
    json!({ "bot": bot, "chat": world.chat_json(chat_id), "standing": standing })
}

/// Telegram's order: the narrower scope first, within it the user's language (core.telegram.org/bots/api, "Determining list
/// of commands").
fn commands<'a>(world: &'a World, chat_id: i64, language: &str) -> &'a [Command] {
    let all = if chat_id > 0 { "all_private_chats" } else { "all_group_chats" };
    let scopes = [json!({ "type": "chat", "chat_id": chat_id }), json!({ "type": all }), json!({ "type": "default" })];
    let sets = scopes.iter().flat_map(|scope| [(scope, language), (scope, "")]);
    sets.into_iter()
        .find_map(|(scope, language)| {
            world.bot.commands.iter().find(|set| set.scope == *scope && set.language_code == language)
        })
        .map_or(&[], |set| &set.commands)
}

pub(crate) async fn watch(State(telegram): State<Telegram>, Path(id): Path<i64>) -> Response {
    let (snapshot, changes) = {
        // Snapshot and subscription under one lock: nothing falls between them, nothing comes twice.
        let mut world = telegram.world();
        if id > 0 {
            world.private(id);
        }
        let Some(chat) = world.chats.get_mut(&id) else { return Misuse::no_chat(id).into_response() };
        let changes = chat.watch();
        let mut snapshot = header(&world, id);
        snapshot["type"] = "snapshot".into();
        snapshot["messages"] = world.chats.get(&id).map_or_else(
            || json!([]),
            |chat| {
                let alive = chat.messages.values().rev().filter(|message| !message.deleted).take(SHOWN);
                let mut shown: Vec<Value> = alive.map(|message| world.message_brief(message)).collect();
                shown.reverse();
                shown.into()
            },
        );
        (snapshot.to_string(), changes)
    };
    // A page that lags behind is cut off; it comes back and starts from a fresh snapshot.
    let changes = BroadcastStream::new(changes)
        .take_while(|change| std::future::ready(change.is_ok()))
        .filter_map(|change| std::future::ready(change.ok()))
        .map(|change| Ok::<_, Infallible>(Event::default().data(&*change)));
    let first = stream::once(std::future::ready(Ok(Event::default().data(snapshot))));
    Sse::new(first.chain(changes)).keep_alive(KeepAlive::default()).into_response()
}
