//! A compute node: instances are started, steered by their owners and shown.
//!
//! Outside facts: aleph-vm `orchestrator/views/` (`__init__.py`, `operator.py`), version 2.1.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use super::Aleph;
use super::auth;
use super::clock;
use super::crypto::same_address;
use super::message::Kind;
use super::prices;
use super::server::watched;
use super::world::{Execution, World};

#[derive(Clone)]
struct Crn {
    aleph: Aleph,
    name: String,
}

/// What owners may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Start,
    Stop,
    Reboot,
    Erase,
}

pub fn router(aleph: &Aleph, name: &str) -> Router {
    let operate = |path: &'static str, operation: Operation| {
        let handler = move |State(crn): State<Crn>, Path(hash): Path<String>, headers: HeaderMap| async move {
            crn.operate(operation, &hash, &headers, &path.replace("{hash}", &hash))
        };
        (path, post(handler))
    };
    let mut router = Router::new()
        .route("/control/allocation/notify", post(notify))
        .route("/v2/about/executions/list", get(executions_v2))
        .route("/about/executions/list", get(executions_v1))
        .route("/about/usage/system", get(usage))
        .route("/status/check/ipv6", get(ipv6))
        .route("/status/config", get(config));
    for (path, handler) in [
        operate("/control/machine/{hash}/start", Operation::Start),
        operate("/control/machine/{hash}/stop", Operation::Stop),
        operate("/control/machine/{hash}/reboot", Operation::Reboot),
        operate("/control/machine/{hash}/erase", Operation::Erase),
    ] {
        router = router.route(path, handler);
    }
    watched(router.with_state(Crn { aleph: aleph.clone(), name: name.to_owned() }), aleph, Some(name))
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(json!({ "error": why.into() }))).into_response()
}

/// `{"instance": hash}`: the node looks the message up and starts it.
async fn notify(State(crn): State<Crn>, Json(body): Json<Value>) -> Response {
    let Some(hash) = body["instance"].as_str() else {
        return refuse(StatusCode::BAD_REQUEST, "Body did not contain an instance");
    };
    let mut world = crn.aleph.world();
    let Some(entry) = world.ledger.get(hash).filter(|entry| entry.message.kind == Kind::Instance) else {
        return refuse(StatusCode::NOT_FOUND, "Message not found");
    };
    if !entry.status.is_alive() {
        return refuse(StatusCode::NOT_FOUND, format!("Message is {}", entry.status.name()));
    }
    let own = world.crn(&crn.name).map(|node| node.hash.as_str());
    if own != Some(entry.message.node_hash()) {
        return refuse(StatusCode::BAD_REQUEST, "The instance is pinned to another node");
    }
    #[expect(clippy::cast_precision_loss, reason = "credits are far below 2^52")]
    let credits = world.credits_of(entry.message.owner()) as f64;
    if credits < prices::hourly(&entry.message.content) {
        return refuse(StatusCode::PAYMENT_REQUIRED, "Insufficient credits for an hour");
    }
    match crn.aleph.start_instance(&mut world, &crn.name, hash) {
        Ok(()) => Json(json!({ "success": true, "successful": true, "failing": [], "errors": {} })).into_response(),
        Err(error) => {
            let errors = json!({ hash: error.to_string() });
            let answer = json!({ "success": false, "successful": false, "failing": [hash], "errors": errors });
            (StatusCode::SERVICE_UNAVAILABLE, Json(answer)).into_response()
        }
    }
}

impl Crn {
    fn operate(&self, operation: Operation, hash: &str, headers: &HeaderMap, path: &str) -> Response {
        let mut world = self.aleph.world();
        let domain = world.crn(&self.name).map(|node| node.address.ip().to_string()).unwrap_or_default();
        let caller = match auth::caller(headers, &domain, "POST", path) {
            Ok(caller) => caller,
            Err((status, why)) => return refuse(status, why),
        };
        let owner = world.ledger.get(hash).map(|entry| entry.message.owner().to_owned());
        let here = world.executions.get(hash).filter(|execution| execution.crn == self.name);
        let (Some(owner), Some(execution)) = (owner, here) else {
            return (StatusCode::NOT_FOUND, format!("No virtual machine with ref {hash}")).into_response();
        };
        if !same_address(&owner, &caller) {
            return (StatusCode::FORBIDDEN, "Unauthorized sender").into_response();
        }
        let running = world.is_running(execution);
        let did = match operation {
            Operation::Start => match self.aleph.start_instance(&mut world, &self.name, hash) {
                Ok(()) => "Started",
                Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            Operation::Stop => {
                world.stop(hash);
                "Stopped"
            }
            Operation::Reboot if running => "Rebooted",
            Operation::Reboot => "Starting VM, was not running",
            Operation::Erase => {
                world.end(hash);
                "Erased"
            }
        };
        if operation == Operation::Reboot {
            self.aleph.reboot_instance(&mut world, hash);
        }
        (StatusCode::OK, format!("{did} VM with ref {hash}")).into_response()
    }
}

fn executions(crn: &Crn, shown: impl Fn(&World, &Execution) -> Option<Value>) -> Json<Value> {
    let world = crn.aleph.world();
    let list: Map<String, Value> = world
        .executions
        .iter()
        .filter(|(_, execution)| execution.crn == crn.name)
        .filter_map(|(hash, execution)| Some((hash.clone(), shown(&world, execution)?)))
        .collect();
    Json(list.into())
}

async fn executions_v2(State(crn): State<Crn>) -> Json<Value> {
    executions(&crn, |world, execution| {
        let state = world.state(execution);
        let running = state == "running";
        let n = execution.number;
        let ports = match &execution.forward {
            Some(forward) if running => json!({ "22": { "host": forward.port, "tcp": true, "udp": false } }),
            _ => json!({}),
        };
        let host = world.crn(&execution.crn).map(|node| node.address.ip().to_string());
        let since = running.then(|| clock::now().to_rfc3339());
        Some(json!({
            "networking": {
                "ipv4_network": format!("172.16.{}.0/24", n % 256), "ipv4_ip": format!("172.16.{}.2", n % 256),
                "ipv6_network": format!("fd00:ba:a1::{n:x}0/124"), "ipv6_ip": format!("fd00:ba:a1::{n:x}1"),
                "host_ipv4": host, "mapped_ports": ports,
            },
            "running": running,
            "state": state,
            "allocation": if state == "defined" { json!({ "state": "planned", "attempts": 0, "error": null,
                "next_retry_at": null }) } else { Value::Null },
            "status": {
                "defined_at": null, "preparing_at": null, "prepared_at": null, "starting_at": null,
                "started_at": since, "stopping_at": null, "stopped_at": null,
            },
        }))
    })
}

async fn executions_v1(State(crn): State<Crn>) -> Json<Value> {
    executions(&crn, |world, execution| {
        let n = execution.number;
        world.is_running(execution).then(|| {
            json!({ "networking": {
                "ipv4": format!("172.16.{}.0/24", n % 256), "ipv6": format!("fd00:ba:a1::{n:x}0/124"),
            } })
        })
    })
}

async fn usage(State(crn): State<Crn>) -> Json<Value> {
    Json(crn.aleph.world().crn(&crn.name).map(|node| node.listing["system_usage"].clone()).unwrap_or_default())
}

async fn ipv6(State(crn): State<Crn>) -> Json<Value> {
    Json(crn.aleph.world().crn(&crn.name).map(|node| node.listing["ipv6_check"].clone()).unwrap_or_default())
}

async fn config(State(crn): State<Crn>) -> Json<Value> {
    let domain = crn.aleph.world().crn(&crn.name).map(|node| node.address.ip().to_string());
    Json(json!({ "DOMAIN_NAME": domain, "version": "2.1.0" }))
}
