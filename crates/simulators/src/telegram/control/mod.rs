//! `/sim/…`: playing the users, ordering faults, seeing what happened.

mod groups;
mod users;
mod written;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Telegram;
use super::faults::Fault;
use super::updates::{Update, key_of};
use super::world::{Standing, World, now_ms};

/// A request to `/sim` that makes no sense: an HTTP status and what is wrong.
pub(crate) struct Misuse(StatusCode, String);

impl Misuse {
    fn new(status: StatusCode, what: impl Into<String>) -> Self {
        Self(status, what.into())
    }

    fn no_message(id: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no message {id}"))
    }

    pub(crate) fn no_chat(id: i64) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no chat {id}"))
    }
}

impl IntoResponse for Misuse {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

type Answer = Result<Json<Value>, Misuse>;

pub(crate) fn router() -> Router<Telegram> {
    Router::new()
        .route("/sim/users", get(users::list))
        .route("/sim/users/{id}", put(users::describe))
        .route("/sim/users/{id}/messages", post(users::write))
        .route("/sim/users/{id}/messages/{message_id}", put(users::edit).delete(users::delete))
        .route("/sim/users/{id}/albums", post(users::write_album))
        .route("/sim/users/{id}/press", post(users::press))
        .route("/sim/users/{id}/block", post(users::block))
        .route("/sim/users/{id}/unblock", post(users::unblock))
        .route("/sim/callbacks/{id}", get(users::callback))
        .route("/sim/groups", post(groups::create))
        .route("/sim/groups/{id}/messages", post(groups::write))
        .route("/sim/groups/{id}/messages/{message_id}", put(groups::edit))
        .route("/sim/groups/{id}/albums", post(groups::write_album))
        .route("/sim/groups/{id}/kick", post(groups::kick))
        .route("/sim/groups/{id}/migrate", post(groups::migrate))
        .route("/sim/chats", get(chats))
        .route("/sim/chats/{id}", get(chat))
        .route("/sim/chats/{id}/messages", get(messages))
        .route("/sim/chats/{id}/events", get(super::events::watch))
        .route("/sim/files/{id}", get(file))
        .route("/sim/calls", get(calls).delete(forget_calls))
        .route("/sim/requests", get(requests))
        .route("/sim/violations", get(violations).delete(forget_violations))
        .route("/sim/updates", get(pending).post(inject))
        .route("/sim/faults", get(faults).post(order_faults).delete(clear_faults))
        .route("/sim/limits", post(limits))
        .route("/sim/webhook", post(webhook))
        .route("/sim/authority", post(authority))
        .route("/sim/bot", get(bot))
        .route("/sim", delete(forget_everything))
}

impl Telegram {
    /// Changes where the bot stands in a chat and tells the bot: `my_chat_member`.
    pub(crate) fn change_standing(
        &self,
        world: &mut World,
        chat_id: i64,
        by: Value,
        standing: Standing,
    ) -> Option<i64> {
        let bot = world.bot_json();
        let member = |standing| {
            let status = match standing {
                Standing::Member | Standing::Migrated(_) => "member",
                Standing::Banned => "kicked",
                Standing::Left | Standing::Unknown => "left",
            };
            let mut member = json!({ "user": bot, "status": status });
            if status == "kicked" {
                member["until_date"] = 0.into();
            }
            member
        };
        let chat = world.chats.get_mut(&chat_id)?;
        let before = std::mem::replace(&mut chat.standing, standing);
        chat.tell(|| json!({ "type": "standing", "standing": standing }));
        if before == standing {
            return None;
        }
        let payload = json!({
            "chat": world.chat_json(chat_id),
            "from": by,
            "date": now_ms() / 1000,
            "old_chat_member": member(before),
            "new_chat_member": member(standing),
        });
        let key = super::updates::QueueKey::Chat(chat_id);
        let id = world.updates.push("my_chat_member", key, payload);
        self.start_delivery(world, key);
        id
    }
}

async fn chats(State(telegram): State<Telegram>) -> Json<Value> {
    let world = telegram.world();
    let mut ids: Vec<i64> = world.chats.keys().copied().collect();
    ids.sort_unstable();
    Json(ids.into_iter().map(|id| world.chat_json(id)).collect())
}

async fn chat(State(telegram): State<Telegram>, Path(id): Path<i64>) -> Json<Value> {
    Json(super::events::header(&telegram.world(), id))
}

async fn bot(State(telegram): State<Telegram>) -> Json<Value> {
    let world = telegram.world();
    let mut bot = world.bot_json();
    bot["description"] = world.bot.description.clone().into();
    bot["short_description"] = world.bot.short_description.clone().into();
    Json(bot)
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: i64,
}

async fn messages(
    State(telegram): State<Telegram>,
    Path(id): Path<i64>,
    Query(After { after }): Query<After>,
) -> Json<Value> {
    let world = telegram.world();
    let Some(chat) = world.chats.get(&id) else { return Json(json!([])) };
    Json(chat.messages.range(after.saturating_add(1)..).map(|(_, message)| world.message_view(message)).collect())
}

/// A file of a chat, for the page; as a download unless it is a picture that a browser shows safely.
async fn file(State(telegram): State<Telegram>, Path(id): Path<String>) -> Response {
    let Some(file) = telegram.world().files.by_id(&id).cloned() else {
        return Misuse::new(StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let picture = ["image/png", "image/jpeg", "image/gif", "image/webp"].into_iter().find(|mime| *mime == file.mime);
    let shown = if picture.is_some() { "inline" } else { "attachment" };
    let headers = [
        (header::CONTENT_TYPE, picture.unwrap_or("application/octet-stream")),
        (header::CONTENT_DISPOSITION, shown),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, file.bytes).into_response()
}

#[derive(Deserialize)]
struct CallFilter {
    method: Option<String>,
    chat_id: Option<i64>,
}

async fn calls(State(telegram): State<Telegram>, Query(filter): Query<CallFilter>) -> Json<Value> {
    Json(json!(telegram.inner.journal.calls(|call| {
        filter.chat_id.is_none_or(|id| call.chat_id == Some(id))
            && filter.method.as_ref().is_none_or(|method| call.method.eq_ignore_ascii_case(method))
    })))
}

#[derive(Deserialize)]
struct RequestFilter {
    chat_id: Option<i64>,
    /// Requests with a larger `seq`.
    #[serde(default)]
    after: u64,
}

/// The calls with what they said: whole parameters, names and sizes of files.
async fn requests(State(telegram): State<Telegram>, Query(filter): Query<RequestFilter>) -> Json<Value> {
    Json(json!(telegram.inner.journal.requests(|request| {
        request.seq > filter.after && filter.chat_id.is_none_or(|id| request.chat_id == Some(id))
    })))
}

async fn forget_calls(State(telegram): State<Telegram>) -> Json<Value> {
    telegram.inner.journal.forget_calls();
    Json(json!({}))
}

async fn violations(State(telegram): State<Telegram>) -> Json<Value> {
    Json(json!(telegram.inner.journal.violations()))
}

async fn forget_violations(State(telegram): State<Telegram>) -> Json<Value> {
    telegram.inner.journal.forget_violations();
    Json(json!({}))
}

async fn pending(State(telegram): State<Telegram>) -> Json<Value> {
    Json(telegram.world().updates.pending.values().map(|update| update.body.clone()).collect())
}

#[derive(Deserialize)]
struct Injection {
    /// Delivers this earlier update once more.
    update_id: Option<i64>,
    /// Delivers this as an update; an `update_id` is given where it has none.
    update: Option<Value>,
}

/// A redelivery goes out at once beside the queues, and its HTTP status is answered; a raw update waits in its queue.
async fn inject(State(telegram): State<Telegram>, Json(injection): Json<Injection>) -> Answer {
    if let Some(mut body) = injection.update {
        if !body.is_object() {
            return Err(Misuse::new(StatusCode::BAD_REQUEST, "`update` must be an object"));
        }
        let mut world = telegram.world();
        let update_id = body["update_id"].as_i64().unwrap_or(world.updates.last_id + 1);
        world.updates.last_id = world.updates.last_id.max(update_id);
        body["update_id"] = update_id.into();
        let key = key_of(&body);
        world.updates.enqueue(Update { update_id, key, at_ms: now_ms(), body });
        telegram.start_delivery(&mut world, key);
        return Ok(Json(json!({ "update_id": update_id })));
    }
    let Some(update_id) = injection.update_id else {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "give `update_id` to redeliver or `update` to inject"));
    };
    let (update, pushed) = {
        let mut world = telegram.world();
        let Some(update) = world.updates.history.get(&update_id).cloned() else {
            return Err(Misuse::new(StatusCode::NOT_FOUND, format!("update {update_id} is not remembered")));
        };
        let pushed = world.updates.webhook.is_some();
        if !pushed {
            world.updates.pending.insert(update_id, update.clone());
            telegram.inner.updates_arrived.notify_waiters();
        }
        (update, pushed)
    };
    let status = if pushed { telegram.post_once(&update).await } else { None };
    Ok(Json(json!({ "update_id": update_id, "status": status })))
}

async fn faults(State(telegram): State<Telegram>) -> Json<Value> {
    Json(json!(telegram.inner.faults.left()))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<Fault>),
    One(Fault),
}

async fn order_faults(State(telegram): State<Telegram>, Json(faults): Json<OneOrMany>) -> Json<Value> {
    telegram.inner.faults.order(match faults {
        OneOrMany::Many(faults) => faults,
        OneOrMany::One(fault) => vec![fault],
    });
    Json(json!({}))
}

async fn clear_faults(State(telegram): State<Telegram>) -> Json<Value> {
    telegram.inner.faults.clear();
    Json(json!({}))
}

#[derive(Deserialize)]
struct Limits {
    /// Messages and edits a second that a chat accepts; without it there is no limit.
    per_chat_per_second: Option<f64>,
}

async fn limits(State(telegram): State<Telegram>, Json(limits): Json<Limits>) -> Json<Value> {
    let mut world = telegram.world();
    world.per_chat_per_second = limits.per_chat_per_second.filter(|rate| *rate > 0.0);
    world.chats.values_mut().for_each(|chat| chat.budget = None);
    Json(json!({}))
}

#[derive(Deserialize)]
struct WebhookSettings {
    /// The first pause after a failed delivery.
    retry_base_ms: u64,
}

async fn webhook(State(telegram): State<Telegram>, Json(settings): Json<WebhookSettings>) -> Json<Value> {
    telegram.world().updates.retry_base_ms = settings.retry_base_ms.max(1);
    Json(json!({}))
}

#[derive(Deserialize)]
struct Authority {
    /// A certificate.
    pem: String,
}

/// Believes this certificate authority, too, where webhooks are.
async fn authority(State(telegram): State<Telegram>, Json(Authority { pem }): Json<Authority>) -> Answer {
    let trusted = telegram.trust(pem.as_bytes());
    trusted.map_err(|error| Misuse::new(StatusCode::BAD_REQUEST, format!("the certificate is not usable: {error}")))?;
    Ok(Json(json!({})))
}

/// Forgets chats, users, files and pending updates; ids go on.
async fn forget_everything(State(telegram): State<Telegram>) -> Json<Value> {
    let mut world = telegram.world();
    world.updates.drop_pending();
    world.chats.clear();
    world.users.clear();
    world.callbacks.clear();
    world.callback_order.clear();
    world.changed = true;
    Json(json!({}))
}
