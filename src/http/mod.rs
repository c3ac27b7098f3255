//! The HTTP server: Telegram's webhook, health, and the administrators' API.

pub mod admin;
mod headers;
mod health;
mod home;
mod metrics;
mod webhook;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use tower_http::timeout::TimeoutLayer;

use crate::app::App;
use crate::telegram::inbox::Inbox;

/// What handlers get.
#[derive(Clone)]
struct Server {
    app: App,
    inbox: Inbox,
}

/// What is served, by where.
pub struct Routers {
    /// On LISTEN_ADDR.
    pub public: Router,
    /// On ADMIN_LISTEN_ADDR, where that is set.
    pub admin: Option<Router>,
}

/// What a process without the rest serves on ADMIN_LISTEN_ADDR: its figures, and that it lives.
pub fn watched(app: &App) -> Router {
    admin::figures(app.clone()).route("/healthz", get(async || "ok")).layer(from_fn(headers::harden))
}

/// All routes.
pub fn routers(app: &App) -> Routers {
    let server = Server { app: app.clone(), inbox: Inbox::start(app.clone()) };
    let public = Router::new()
        .route("/telegram/webhook", post(webhook::receive))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(health::ready))
        // Its body included. The API bounds its requests by itself and says so in its own form.
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, admin::TIMEOUT));
    let admin = admin::router(app.clone());
    let (public, admin) = match app.config.admin_listen_addr {
        None => (complete(public.merge(admin), server, true), None),
        Some(_) => (complete(public, server.clone(), false), Some(complete(admin, server, true))),
    };
    Routers { public, admin }
}

fn complete(router: Router<Server>, server: Server, has_admin: bool) -> Router {
    router
        .route("/", get(async move || home::page(has_admin)))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .layer(from_fn(headers::harden))
        .with_state(server)
}
