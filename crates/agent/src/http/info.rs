//! Who the agent is, and what waits to be fetched.

use super::{App, Failure};
use axum::Json;
use axum::extract::State;
use baal_protocol::{Health, PROTOCOL, Version};

pub(super) async fn health(State(app): State<App>) -> Result<Json<Health>, Failure> {
    if !app.store.is_writable() {
        return Err(Failure::Unavailable("the agent cannot write to its database; look whether its disk is full"));
    }
    Ok(Json(Health { status: "ok".into(), agent_name: app.agent_name.to_string() }))
}

pub(super) async fn version(State(app): State<App>) -> Json<Version> {
    let features = ["turns", "stream", "steer", "tools", "pending", "files", "uploads"].map(str::to_owned).to_vec();
    let walls = app.walls.found();
    Json(Version { version: env!("CARGO_PKG_VERSION").into(), protocol: PROTOCOL, features, walls })
}
