//! What is there once for the whole network: the list of compute nodes, the scheduler, the gateway's API.

use std::collections::HashMap;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Aleph;
use super::clock;
use super::faults::{Kind, Occasion};
use super::ledger::Entry;
use super::message;
use super::names;
use super::server::watched;
use super::world::World;

pub fn router(aleph: &Aleph) -> Router {
    let router = Router::new()
        .route("/crns.json", get(crns))
        .route("/api/v0/allocation/{hash}", get(allocation))
        .route("/api/v1/vms", get(vms))
        .route("/api/v1/vms/{hash}", get(vm))
        .route("/api/v1/nodes/{hash}", get(node))
        .route("/api/hash/{hash}", get(name))
        .with_state(aleph.clone());
    watched(router, aleph, None)
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "detail": "Not found" }))).into_response()
}

async fn crns(State(aleph): State<Aleph>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let only_active = query.get("filter_inactive").is_some_and(|value| value == "true");
    let world = aleph.world();
    let listed: Vec<&Value> = world
        .crns
        .iter()
        .map(|crn| &crn.listing)
        .filter(|crn| !only_active || crn["system_usage"]["active"] == true)
        .collect();
    Json(json!({ "last_refresh": clock::now().to_rfc3339(), "crns": listed }))
}

/// Scheduler, version 0.
async fn allocation(State(aleph): State<Aleph>, Path(hash): Path<String>) -> Response {
    let world = aleph.world();
    let Some(execution) = world.executions.get(&hash) else { return not_found() };
    let Some(node) = world.crn(&execution.crn) else { return not_found() };
    Json(json!({
        "vm_hash": hash, "vm_type": "instance", "vm_ipv6": format!("fd00:ba:a1::{:x}1", execution.number),
        "period": { "start_timestamp": clock::now().to_rfc3339(), "duration_seconds": 0.0 },
        "node": { "node_id": node.hash, "url": node.url, "ipv6": null, "supports_ipv6": true },
    }))
    .into_response()
}

fn vm_json(world: &World, entry: &Entry) -> Value {
    let message = &entry.message;
    let on = world.executions.get(&message.item_hash);
    let running = on.is_some_and(|execution| world.is_running(execution));
    let observed: Vec<&str> = match on.and_then(|execution| world.crn(&execution.crn)) {
        Some(node) if running => vec![&node.hash],
        _ => Vec::new(),
    };
    let status = match (entry.status.is_alive(), running) {
        (true, true) => "dispatched",
        (true, false) => "scheduled",
        (false, true) => "orphaned",
        (false, false) => "removed",
    };
    json!({
        "vm_hash": message.item_hash, "vm_type": "instance", "allocated_node": message.node_hash(),
        "observed_nodes": observed, "status": status,
        "scheduling_status": if entry.status.is_alive() { "scheduled" } else { "removed" },
        "migration_target": null, "owner": message.owner(), "sender": message.sender,
    })
}

async fn vms(State(aleph): State<Aleph>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let world = aleph.world();
    let number = |name: &str, or: usize| query.get(name).and_then(|text| text.parse().ok()).unwrap_or(or).max(1);
    let (page, size) = (number("page", 1), number("page_size", 20));
    let wanted = |name: &str, value: &str| query.get(name).is_none_or(|wanted| wanted == value);
    let all: Vec<Value> = world
        .ledger
        .entries()
        .into_iter()
        .filter(|entry| entry.message.kind == message::Kind::Instance)
        .filter(|entry| wanted("owner", entry.message.owner()) && wanted("sender", &entry.message.sender))
        .filter(|entry| query.get("vm_hash").is_none_or(|prefix| entry.message.item_hash.starts_with(prefix)))
        .map(|entry| vm_json(&world, entry))
        .collect();
    let total = all.len();
    let items: Vec<Value> = all.into_iter().skip((page - 1) * size).take(size).collect();
    let pages = total.div_ceil(size);
    Json(json!({
        "items": items,
        "pagination": { "page": page, "page_size": size, "total_items": total, "total_pages": pages },
    }))
}

async fn vm(State(aleph): State<Aleph>, Path(hash): Path<String>) -> Response {
    let world = aleph.world();
    match world.ledger.get(&hash).filter(|entry| entry.message.kind == message::Kind::Instance) {
        Some(entry) => Json(vm_json(&world, entry)).into_response(),
        None => not_found(),
    }
}

async fn node(State(aleph): State<Aleph>, Path(hash): Path<String>) -> Response {
    let world = aleph.world();
    match world.crns.iter().find(|crn| crn.hash == hash) {
        Some(crn) => {
            let dead = aleph.inner.dead.borrow().contains(&crn.name);
            let status = if dead { "unreachable" } else { "healthy" };
            Json(json!({ "node_hash": hash, "address": crn.url, "status": status })).into_response()
        }
        None => not_found(),
    }
}

/// The gateway's API: an instance's name, and whether it is routed.
async fn name(State(aleph): State<Aleph>, Path(hash): Path<String>) -> Response {
    let world = aleph.world();
    let known = world.ledger.get(&hash).filter(|entry| entry.status.is_alive());
    let (Some(_), Some(words)) = (known, names::words(&hash)) else { return not_found() };
    let occasion = Occasion { party: "gateway", method: "TLS", text: &hash, ..Occasion::default() };
    let active = world.host_of(&hash).is_some() && !aleph.inner.faults.is_due(Kind::NotRouting, &occasion);
    let ipv6 = world.executions.get(&hash).map(|execution| format!("fd00:ba:a1::{:x}1", execution.number));
    Json(json!({
        "instance_hash": hash, "subdomain": words, "url": format!("https://{words}.{}", aleph.inner.public_domain()),
        "ipv6": ipv6, "active": active,
    }))
    .into_response()
}
