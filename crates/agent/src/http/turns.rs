//! A turn after it was taken in: its state, its events, its cancellation.

use super::{App, Failure, events};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use baal_protocol::TurnStatus;
use serde::Deserialize;
use uuid::Uuid;

const UNKNOWN: Failure = Failure::NotFound("no turn with this id was ever accepted");

pub(super) fn turn_id(text: &str) -> Result<Uuid, Failure> {
    Uuid::try_parse(text).map_err(|_| Failure::BadRequest("the turn id must be a UUID".into()))
}

type Id = Result<Path<String>, PathRejection>;

pub(super) async fn get(State(app): State<App>, id: Id) -> Result<Json<TurnStatus>, Failure> {
    let turn = app.store.read().turn(turn_id(&id?)?).await?.ok_or(UNKNOWN)?;
    Ok(Json(turn.status))
}

#[derive(Deserialize)]
pub(super) struct After {
    /// The last sequence number that the caller has.
    after: Option<String>,
}

pub(super) async fn events(
    State(app): State<App>,
    id: Id,
    query: Result<Query<After>, QueryRejection>,
) -> Result<Response, Failure> {
    let (id, Query(query)) = (turn_id(&id?)?, query?);
    let after = match query.after.as_deref() {
        None | Some("") => 0,
        Some(after) => after.parse().map_err(|_| Failure::BadRequest("after must be a whole number".into()))?,
    };
    events::of_turn(app, id, after).await
}

pub(super) async fn cancel(State(app): State<App>, id: Id) -> Result<Json<TurnStatus>, Failure> {
    let cancelled = app.turns.cancel(turn_id(&id?)?).await?.ok_or(UNKNOWN)?;
    Ok(Json(cancelled.status))
}
