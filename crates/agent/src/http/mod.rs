//! The HTTP side: one file per resource.

mod auth;
mod chat;
mod error;
mod events;
mod files;
mod info;
mod pending;
mod turns;
mod uploads;

use crate::files::Files;
use crate::store::Store;
use crate::tools::Walls;
use crate::turns::Scheduler;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use baal_launcher::client::Launcher;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use error::Failure;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Longest time until an answer begins; a stream may go on as long as its turn.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    /// The database.
    pub store: Store,
    /// Runs turns.
    pub turns: Scheduler,
    /// What is known of the walls around the tools.
    pub walls: Walls,
    /// What goes out and comes in beside the words.
    pub files: Files,
    /// Reaches the workspaces.
    pub launcher: Arc<Launcher>,
    /// Display name.
    pub agent_name: Arc<str>,
    /// The bearer secret of callers.
    pub secret: Arc<SecretString>,
    /// Ends the streams.
    pub shutdown: CancellationToken,
}

/// All endpoints; all but `/health` behind the bearer secret, unknown paths included.
pub fn router(app: App) -> Router {
    let quick = Router::new()
        .route("/version", get(info::version))
        .route("/chat", post(chat::post))
        .route("/chat/{chat_id}", delete(chat::delete))
        .route("/turns/{turn_id}", get(turns::get))
        .route("/turns/{turn_id}/events", get(turns::events))
        .route("/turns/{turn_id}/cancel", post(turns::cancel))
        .route("/pending/ack", post(pending::acknowledge))
        .route_layer(middleware::from_fn(answer_in_time));
    // These wait for something to come, or bring a whole file first.
    let slow = Router::new()
        .route("/pending", get(pending::get))
        .route("/files/{*path}", get(files::get))
        .route("/uploads/{turn_id}/{name}", put(uploads::put).layer(DefaultBodyLimit::disable()));
    quick
        .merge(slow)
        .fallback(async || Failure::NotFound("there is nothing here"))
        .method_not_allowed_fallback(async || Failure::MethodNotAllowed)
        .layer(middleware::from_fn_with_state(app.clone(), auth::require_secret))
        .route("/health", get(info::health))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

/// 503, not 408: the agent is slow, the request is as good as before, and callers ask again.
async fn answer_in_time(request: Request, next: Next) -> Response {
    let late = Failure::Unavailable("the agent did not get to it in time, try again in a moment");
    tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.unwrap_or_else(|_| late.into_response())
}
