//! A core channel node: messages, balances, prices, aggregates.
//!
//! Outside facts: pyaleph `web/controllers/` (p2p, messages, accounts, prices, aggregates).

use std::collections::HashMap;
use std::time::Instant;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Aleph;
use super::faults::{Kind, Occasion};
use super::ledger::{Hindrance, Status};
use super::listing;
use super::message::{Message, Rejection};
use super::prices;
use super::server::watched;

#[derive(Clone)]
struct Ccn {
    aleph: Aleph,
    name: String,
}

pub fn router(aleph: &Aleph, name: &str) -> Router {
    let router = Router::new()
        .route("/api/v0/messages", post(submit))
        .route("/api/v0/messages/{hash}", get(message))
        .route("/api/v0/messages.json", get(messages))
        .route("/api/v0/addresses/{address}/balance", get(balance))
        .route("/api/v0/price/estimate", post(estimate))
        .route("/api/v0/price/{hash}", get(price))
        .route("/api/v0/aggregates/{address}", get(aggregates))
        .with_state(Ccn { aleph: aleph.clone(), name: name.to_owned() });
    watched(router, aleph, Some(name))
}

impl Ccn {
    fn occasion<'a>(&'a self, item_hash: &'a str) -> Occasion<'a> {
        Occasion { party: &self.name, text: item_hash, ..Occasion::default() }
    }
}

/// `{"message": {…}, "sync": bool}`: 200 processed, 202 pending, 422 rejected.
async fn submit(State(ccn): State<Ccn>, Json(posted): Json<Value>) -> Response {
    let message = match Message::read(&posted["message"]) {
        Ok(message) => message,
        Err(problem) => return (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response(),
    };
    let item_hash = message.item_hash.clone();
    let faults = &ccn.aleph.inner.faults;
    let rejected = faults.take(&[Kind::Reject], &ccn.occasion(&item_hash));
    let pending = faults.take(&[Kind::Pending], &ccn.occasion(&item_hash));
    let hindrance = Hindrance {
        rejected: rejected.map(|fault| Rejection { code: fault.code.unwrap_or(-1), why: "told to be rejected".into() }),
        pending: pending.map(|fault| fault.wait().map(|wait| Instant::now() + wait)),
    };
    let mut world = ccn.aleph.world();
    #[expect(clippy::cast_precision_loss, reason = "credits are far below 2^52")]
    let credits = world.credits_of(message.owner()) as f64;
    world.ledger.post(message, hindrance, credits);
    drop(world);
    // Taken again, so that what a FORGET is about is forgotten before it is answered.
    let world = ccn.aleph.world();
    let status = world.ledger.get(&item_hash).map_or(Status::Waiting, |entry| entry.status.clone());
    let publication = json!({ "status": "success", "failed": [] });
    match status {
        Status::Rejected(rejection) => {
            let answer = json!({
                "publication_status": publication, "message_status": "rejected", "error_code": rejection.code,
                "details": { "errors": [rejection.why] },
            });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response()
        }
        status if posted["sync"] == true && status.is_alive() => {
            Json(json!({ "publication_status": publication, "message_status": "processed" })).into_response()
        }
        _ => {
            let answer = json!({ "publication_status": publication, "message_status": "pending" });
            (StatusCode::ACCEPTED, Json(answer)).into_response()
        }
    }
}

async fn message(State(ccn): State<Ccn>, Path(hash): Path<String>) -> Response {
    let unknown = || (StatusCode::NOT_FOUND, "404: Not Found").into_response();
    let wrong = ccn.aleph.inner.faults.take(&[Kind::WrongStatus], &ccn.occasion(&hash));
    let world = ccn.aleph.world();
    let Some(entry) = world.ledger.get(&hash) else { return unknown() };
    match wrong {
        None => Json(entry.json(&entry.status)).into_response(),
        Some(fault) => match Status::of_name(fault.says.as_deref().unwrap_or("unknown")) {
            Some(status) => Json(entry.json(&status)).into_response(),
            None => unknown(),
        },
    }
}

async fn messages(State(ccn): State<Ccn>, Query(query): Query<HashMap<String, String>>) -> Response {
    let world = ccn.aleph.world();
    let entries = world.ledger.entries();
    let mut found: Vec<Value> = match listing::select(&entries, &query) {
        Ok(found) => found,
        Err(problem) => return (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response(),
    };
    // One fault is one wrong list, however long.
    let hashes = found.iter().map(|message| message["item_hash"].as_str().unwrap_or_default());
    let all = hashes.collect::<Vec<_>>().join(" ");
    if let Some(fault) = ccn.aleph.inner.faults.take(&[Kind::Omit], &ccn.occasion(&all)) {
        let part = fault.contains.unwrap_or_default();
        found.retain(|message| !message["item_hash"].as_str().unwrap_or_default().contains(&part));
    }
    match listing::page(found, &query) {
        Ok(page) => Json(page).into_response(),
        Err(problem) => (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response(),
    }
}

async fn balance(State(ccn): State<Ccn>, Path(address): Path<String>) -> Json<Value> {
    let credits = ccn.aleph.world().credits_of(&address);
    Json(json!({
        "address": address, "balance": 0.0, "details": {}, "locked_amount": 0.0, "credit_balance": credits,
    }))
}

/// Takes unsigned messages too, as the real one does.
async fn estimate(Json(body): Json<Value>) -> Response {
    let content = body["message"]["item_content"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    match content {
        Some(content) if content["resources"].is_object() => Json(prices::estimate(&content)).into_response(),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, "only messages of instances have a price here").into_response(),
    }
}

async fn price(State(ccn): State<Ccn>, Path(hash): Path<String>) -> Response {
    match ccn.aleph.world().ledger.get(&hash) {
        Some(entry) if entry.status.is_alive() => Json(prices::estimate(&entry.message.content)).into_response(),
        _ => (StatusCode::NOT_FOUND, "Message not found").into_response(),
    }
}

/// `{address}.json?keys=a,b`: 404 where there is none of them.
async fn aggregates(Path(file): Path<String>, Query(query): Query<HashMap<String, String>>) -> Response {
    let address = file.strip_suffix(".json").unwrap_or_default();
    let keys = query.get("keys").map_or("pricing,vm-images", String::as_str);
    let data: serde_json::Map<String, Value> = keys
        .split(',')
        .filter(|_| address == prices::OWNER)
        .filter_map(|key| Some((key.to_owned(), prices::aggregate(key)?)))
        .collect();
    if data.is_empty() {
        return (StatusCode::NOT_FOUND, "No aggregate found for this address").into_response();
    }
    Json(json!({ "address": address, "data": data, "info": {} })).into_response()
}
