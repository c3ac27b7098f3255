//! What the control interface shows.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::SHOWN_CALLS;
use crate::aleph::Aleph;
use crate::aleph::ledger::{Entry, Status};
use crate::aleph::message::Kind;
use crate::aleph::names;
use crate::aleph::prices;
use crate::aleph::world::{Execution, Node, Use, World};

pub async fn hosts(State(aleph): State<Aleph>) -> Json<Value> {
    Json(hosts_json(&aleph.world()))
}

fn hosts_json(world: &World) -> Value {
    let shown = world.hosts.iter().enumerate().map(|(n, host)| {
        let (state, instance) = match &host.usage {
            Use::Free => ("free", None),
            Use::Used(hash) => ("used", Some(hash)),
            Use::Dirty => ("dirty", None),
        };
        json!({ "n": n, "ssh": host.ssh, "https": host.https, "state": state, "instance": instance })
    });
    shown.collect()
}

fn execution_json(aleph: &Aleph, world: &World, execution: &Execution) -> Value {
    let ip = aleph.inner.address.ip();
    json!({
        "crn": execution.crn, "host": execution.host, "state": world.state(execution),
        "running": world.is_running(execution),
        "ssh": execution.forward.as_ref().map(|forward| format!("{ip}:{}", forward.port)),
        "outlives_its_message": execution.outlives.is_some(),
    })
}

fn instance_json(aleph: &Aleph, world: &World, entry: &Entry) -> Value {
    let message = &entry.message;
    let name = names::words(&message.item_hash).unwrap_or_default();
    let crn = world.crns.iter().find(|crn| crn.hash == message.node_hash()).map(|crn| &crn.name);
    let (forgotten_by, error_code) = match &entry.status {
        Status::Forgotten(by) => (json!(by), Value::Null),
        Status::Rejected(rejection) => (json!([]), rejection.code.into()),
        _ => (json!([]), Value::Null),
    };
    let execution = world.executions.get(&message.item_hash);
    json!({
        "item_hash": message.item_hash, "status": entry.status.name(), "error_code": error_code,
        "forgotten_by": forgotten_by, "owner": message.owner(), "channel": message.channel, "time": message.time,
        "metadata": message.content["metadata"], "crn": crn, "crn_hash": message.node_hash(),
        "url": format!("https://{name}.{}", aleph.inner.public_domain()),
        "billed": entry.status.is_alive(), "hourly": prices::hourly(&message.content),
        "execution": execution.map(|execution| execution_json(aleph, world, execution)),
    })
}

pub async fn state(State(aleph): State<Aleph>) -> Json<Value> {
    let world = aleph.world();
    let entries = world.ledger.entries();
    let of_kind = |kind: Kind| entries.iter().filter(move |entry| entry.message.kind == kind);
    let instances: Vec<Value> = of_kind(Kind::Instance).map(|entry| instance_json(&aleph, &world, entry)).collect();
    let forgets: Vec<Value> = of_kind(Kind::Forget)
        .map(|entry| {
            let message = &entry.message;
            json!({
                "item_hash": message.item_hash, "status": entry.status.name(), "owner": message.owner(),
                "targets": message.targets(),
            })
        })
        .collect();
    let billed: Vec<&Value> =
        instances.iter().filter(|instance| instance["billed"] == true).map(|instance| &instance["item_hash"]).collect();
    let running: Vec<&String> =
        world.executions.iter().filter(|(_, execution)| world.is_running(execution)).map(|(hash, _)| hash).collect();
    let with_status = |name: &str| instances.iter().filter(|instance| instance["status"] == name).count();
    let hosts = hosts_json(&world);
    let in_use = |name: &str| hosts.as_array().into_iter().flatten().filter(|host| host["state"] == name).count();
    let dead = aleph.inner.dead.borrow().clone();
    let node = |node: &Node| {
        let name = &node.name;
        json!({ "name": name, "hash": node.hash, "url": node.url, "dead": dead.contains(name) })
    };
    let hourly: f64 = instances.iter().filter(|i| i["billed"] == true).filter_map(|i| i["hourly"].as_f64()).sum();
    let journal = aleph.inner.journal.json(SHOWN_CALLS);
    Json(json!({
        "counts": {
            "billed": billed.len(), "running": running.len(), "executions": world.executions.len(),
            "processed": with_status("processed"), "pending": with_status("pending"),
            "removing": with_status("removing"), "removed": with_status("removed"),
            "forgotten": with_status("forgotten"), "rejected": with_status("rejected"),
            "hosts_free": in_use("free"), "hosts_used": in_use("used"), "hosts_dirty": in_use("dirty"),
            "calls": journal["total"],
        },
        "billed": billed, "running": running, "hourly": hourly,
        "credits": { "default": world.default_credits, "of": world.credits },
        "instances": instances, "forgets": forgets, "hosts": hosts,
        "ccns": world.ccns.iter().map(node).collect::<Vec<_>>(),
        "crns": world.crns.iter().map(node).collect::<Vec<_>>(),
        "faults": aleph.inner.faults.left(), "calls": journal["calls"],
    }))
}
