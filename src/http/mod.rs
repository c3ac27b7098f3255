//! The HTTP server: Telegram's webhook and health.

mod health;
mod webhook;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use std::time::Duration;
use tower_http::timeout::TimeoutLayer;

use crate::app::App;
use crate::telegram::inbox::Inbox;

/// How long a request may take, its body included.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What handlers get.
#[derive(Clone)]
struct Server {
    app: App,
    inbox: Inbox,
}

/// All routes.
pub fn router(app: App) -> Router {
    let inbox = Inbox::start(app.clone());
    Router::new()
        .route(
            "/",
            get(async || concat!("Baal ", env!("CARGO_PKG_VERSION"), ": a Telegram bot platform for AI agents.\n")),
        )
        .route("/telegram/webhook", post(webhook::receive))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(health::ready))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIMEOUT))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .with_state(Server { app, inbox })
}
