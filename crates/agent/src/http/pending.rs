//! `GET /pending`: what the agent says unasked; `POST /pending/ack`: the caller has it for good.

use super::{App, Failure};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use baal_protocol::{AcknowledgePending, PendingAcknowledged, PendingMessages};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Longest wait for something to come.
const MAX_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
pub(super) struct Asked {
    /// Id of the last message that the caller has; absent from callers of the base protocol.
    after: Option<String>,
    /// Seconds.
    wait: Option<String>,
}

pub(super) async fn get(
    State(app): State<App>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<PendingMessages>, Failure> {
    let Query(asked) = query?;
    let after: Option<i64> = number(asked.after.as_deref(), "after")?;
    let wait: Option<u64> = number(asked.wait.as_deref(), "wait")?;
    let messages = match after {
        // As callers of the base protocol know it: read is gone.
        None => app.store.drain_pending().await?,
        Some(after) => {
            let wait = Duration::from_secs(wait.unwrap_or(0)).min(MAX_WAIT);
            wait_for_messages(&app, after, Instant::now() + wait).await?
        }
    };
    Ok(Json(PendingMessages { messages, database_id: Some(app.store.database_id()) }))
}

async fn wait_for_messages(
    app: &App,
    after: i64,
    until: Instant,
) -> Result<Vec<baal_protocol::PendingMessage>, Failure> {
    // Before the first look, so that nothing falls in between.
    let mut changes = app.store.watch_pending();
    loop {
        let messages = app.store.read().pending_after(after).await?;
        if !messages.is_empty() || until <= Instant::now() {
            return Ok(messages);
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return Ok(messages),
            changed = timeout_at(until, changes.changed()) => match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(messages),
            },
        }
    }
}

pub(super) async fn acknowledge(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PendingAcknowledged>, Failure> {
    let AcknowledgePending { up_to, database_id } = serde_json::from_slice(&body?)
        .map_err(|e| Failure::BadRequest(format!("the body does not fit, wanted is {{\"up_to\":ID}}: {e}")))?;
    // Ids of a database that was lost would name messages here that nobody has seen.
    if database_id.is_some_and(|id| id != app.store.database_id()) {
        return Err(Failure::Conflict("this id belongs to another database; ask for the pending messages anew"));
    }
    let deleted = app.store.acknowledge_pending(up_to).await?;
    Ok(Json(PendingAcknowledged { status: "ok".into(), deleted }))
}

fn number<T: std::str::FromStr>(text: Option<&str>, name: &str) -> Result<Option<T>, Failure> {
    match text {
        None => Ok(None),
        Some("") => Err(Failure::BadRequest(format!("{name} must be a whole number"))),
        Some(text) => text.parse().map(Some).map_err(|_| Failure::BadRequest(format!("{name} must be a whole number"))),
    }
}
