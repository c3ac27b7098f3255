//! `/sim/aleph/…`: giving hosts, ordering faults, seeing what runs and what was called.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::Aleph;
use super::faults::{Fault, Kind};
use super::ledger::{Ledger, Status};
use super::world::{Host, NewHost, Use};

mod shown;

/// Calls that the state shows.
const SHOWN_CALLS: usize = 200;

/// A request that makes no sense: an HTTP status and what is wrong.
struct Misuse(StatusCode, String);

impl IntoResponse for Misuse {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

type Answer = Result<Json<Value>, Misuse>;

fn missing<T>(what: impl Into<String>) -> Result<T, Misuse> {
    Err(Misuse(StatusCode::NOT_FOUND, what.into()))
}

fn misuse<T>(what: impl Into<String>) -> Result<T, Misuse> {
    Err(Misuse(StatusCode::BAD_REQUEST, what.into()))
}

pub fn router(aleph: &Aleph) -> Router {
    Router::new()
        .route("/sim/aleph", get(urls))
        .route("/sim/aleph/state", get(shown::state))
        .route("/sim/aleph/calls", get(calls).post(forget_calls).delete(forget_calls))
        .route("/sim/aleph/faults", get(faults).post(order_faults).delete(clear_faults))
        .route("/sim/aleph/hosts", get(shown::hosts).post(add_host))
        .route("/sim/aleph/hosts/{n}/clean", post(clean_host))
        .route("/sim/aleph/crns", post(add_crn))
        .route("/sim/aleph/crns/{name}", post(describe_crn))
        .route("/sim/aleph/credits", post(credits))
        .route("/sim/aleph/settings", post(settings))
        .route("/sim/aleph/messages/{hash}", post(set_status))
        .route("/sim/aleph/instances/{hash}/{action}", post(act))
        .route("/sim/aleph/reset", post(reset))
        .with_state(aleph.clone())
}

async fn urls(State(aleph): State<Aleph>) -> Json<Value> {
    Json(aleph.urls())
}

async fn calls(State(aleph): State<Aleph>) -> Json<Value> {
    Json(aleph.inner.journal.json(usize::MAX))
}

async fn forget_calls(State(aleph): State<Aleph>) -> Json<Value> {
    aleph.inner.journal.reset();
    Json(json!({ "ok": true }))
}

async fn faults(State(aleph): State<Aleph>) -> Json<Value> {
    Json(json!(aleph.inner.faults.left()))
}

/// One fault or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Order {
    Many(Vec<Value>),
    One(Value),
}

async fn order_faults(State(aleph): State<Aleph>, Json(order): Json<Order>) -> Answer {
    let order = match order {
        Order::Many(list) => list,
        Order::One(fault) => vec![fault],
    };
    let ordered: Result<Vec<Fault>, _> = order.into_iter().map(serde_json::from_value).collect();
    let ordered = ordered.or_else(|error| misuse(error.to_string()))?;
    for fault in ordered {
        if fault.kind == Kind::Dead && fault.party.is_none() {
            return misuse("dead needs a party: all at once would be the control interface too");
        }
        if fault.kind == Kind::WrongStatus {
            let says = fault.says.as_deref().unwrap_or("unknown");
            if says != "unknown" && Status::of_name(says).is_none() {
                return misuse(format!("{says} is no status"));
            }
        }
        let lasts = fault.lasts_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        if let (Kind::Dead, Some(lasts)) = (fault.kind, lasts) {
            let aleph = aleph.clone();
            tokio::spawn(async move {
                tokio::time::sleep(lasts).await;
                aleph.refresh_dead();
            });
        }
        aleph.inner.faults.order(fault);
    }
    settle_dead(&aleph).await;
    Ok(Json(json!({ "ok": true })))
}

#[derive(Deserialize)]
struct Which {
    kind: Option<Kind>,
}

async fn clear_faults(State(aleph): State<Aleph>, Query(which): Query<Which>) -> Json<Value> {
    aleph.inner.faults.clear(which.kind);
    settle_dead(&aleph).await;
    Json(json!({ "ok": true }))
}

/// Until the dead refuse connections and the others accept them.
async fn settle_dead(aleph: &Aleph) {
    aleph.refresh_dead();
    let dead = aleph.inner.dead.borrow().clone();
    let nodes: Vec<_> = {
        let world = aleph.world();
        let nodes = world.ccns.iter().chain(&world.crns);
        nodes.map(|node| (node.address, dead.contains(&node.name))).collect()
    };
    for (address, is_dead) in nodes {
        for _ in 0..200 {
            if TcpStream::connect(address).await.is_err() == is_dead {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn add_host(State(aleph): State<Aleph>, Json(new): Json<NewHost>) -> Json<Value> {
    let mut world = aleph.world();
    let https = new.https.unwrap_or_else(|| (new.ssh.ip(), 443).into());
    world.hosts.push(Host { ssh: new.ssh, https, usage: Use::Free });
    Json(json!({ "n": world.hosts.len() - 1 }))
}

async fn clean_host(State(aleph): State<Aleph>, Path(n): Path<usize>) -> Answer {
    let mut world = aleph.world();
    let Some(host) = world.hosts.get_mut(n) else { return missing(format!("there is no host {n}")) };
    match &host.usage {
        Use::Used(hash) => return misuse(format!("host {n} is used by {hash}")),
        Use::Free | Use::Dirty => host.usage = Use::Free,
    }
    Ok(Json(json!({ "ok": true })))
}

async fn add_crn(State(aleph): State<Aleph>) -> Answer {
    let name = aleph.add_crn().await.or_else(|error| misuse(error.to_string()))?;
    let world = aleph.world();
    Ok(Json(world.crn(&name).map(|crn| crn.listing.clone()).unwrap_or_default()))
}

/// Changes the node's entry in the list: objects are merged, everything else replaced.
async fn describe_crn(State(aleph): State<Aleph>, Path(name): Path<String>, Json(change): Json<Value>) -> Answer {
    let mut world = aleph.world();
    let Some(crn) = world.crns.iter_mut().find(|crn| crn.name == name) else {
        return missing(format!("there is no {name}"));
    };
    merge(&mut crn.listing, change);
    Ok(Json(crn.listing.clone()))
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credits {
    credits: u64,
    /// All that were given none of their own, if it is not said.
    #[serde(default)]
    address: Option<String>,
}

async fn credits(State(aleph): State<Aleph>, Json(body): Json<Credits>) -> Json<Value> {
    let mut world = aleph.world();
    match body.address {
        Some(address) => {
            world.credits.insert(address.to_ascii_lowercase(), body.credits);
        }
        None => world.default_credits = body.credits,
    }
    Json(json!({ "ok": true }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Milliseconds from an instance's start until it runs.
    boot_ms: u64,
}

async fn settings(State(aleph): State<Aleph>, Json(body): Json<Settings>) -> Json<Value> {
    aleph.world().boot = Duration::from_millis(body.boot_ms);
    Json(json!({ "ok": true }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewStatus {
    status: String,
}

async fn set_status(State(aleph): State<Aleph>, Path(hash): Path<String>, Json(body): Json<NewStatus>) -> Answer {
    let Some(status) = Status::of_name(&body.status) else { return misuse(format!("{} is no status", body.status)) };
    if !aleph.world().ledger.set_status(&hash, status) {
        return missing(format!("there is no message {hash}"));
    }
    // Whoever reads the state next sees what follows from it.
    drop(aleph.world());
    Ok(Json(json!({ "ok": true })))
}

/// `remap`: SSH moves to another port. `stop`: it stops by itself. `vanish`: its node has lost it.
async fn act(State(aleph): State<Aleph>, Path((hash, action)): Path<(String, String)>) -> Answer {
    let mut world = aleph.world();
    if !world.executions.contains_key(&hash) {
        return missing(format!("no node has {hash}"));
    }
    match action.as_str() {
        "remap" => aleph.open_port(&mut world, &hash).or_else(|error| misuse(error.to_string()))?,
        "stop" => world.stop(&hash),
        "vanish" => {
            world.end(&hash);
        }
        _ => return missing(format!("{action} is not possible; remap, stop and vanish are")),
    }
    Ok(Json(json!({ "ok": true })))
}

/// Messages, faults and calls are forgotten, instances ended. Hosts stay, and stay as dirty as they are.
async fn reset(State(aleph): State<Aleph>) -> Json<Value> {
    {
        let mut world = aleph.world();
        let running: Vec<String> = world.executions.keys().cloned().collect();
        for hash in running {
            world.end(&hash);
        }
        world.ledger = Ledger::default();
        world.credits.clear();
    }
    aleph.inner.faults.clear(None);
    aleph.inner.journal.reset();
    settle_dead(&aleph).await;
    Json(json!({ "ok": true }))
}
