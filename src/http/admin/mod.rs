//! The administrators' API under `/api/v1`, its document, and Swagger UI. One file per resource; each calls the same
//! service functions as the bot.

mod agents;
mod audit;
mod chat;
mod conduct;
mod cors;
mod deployments;
mod docs;
mod document;
mod etag;
mod extract;
mod guard;
mod hosts;
mod jobs;
mod links;
mod once;
mod outbox;
mod pool;
mod problem;
mod reconcile;
mod system;
mod tokens;
mod turns;
mod updates;
mod usage;
mod users;
mod visitors;
mod vms;

use std::collections::HashMap;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

pub(super) use self::conduct::TIMEOUT;
use self::guard::Guard;
use self::problem::ApiError;
use super::{Server, metrics};
use crate::admin::Scope;
use crate::app::App;

/// The largest body that is taken, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Guarded like the operations, and no part of the document: its format is Prometheus'.
const METRICS: &str = "/metrics";

fn resources() -> OpenApiRouter<Server> {
    let resources = [
        agents::routes(),
        turns::routes(),
        deployments::routes(),
        links::routes(),
        visitors::routes(),
        chat::routes(),
        users::routes(),
        usage::routes(),
        jobs::routes(),
        vms::routes(),
        pool::routes(),
        hosts::routes(),
        reconcile::routes(),
        updates::routes(),
        outbox::routes(),
        system::routes(),
        tokens::routes(),
        audit::routes(),
    ];
    let all = resources.into_iter().fold(OpenApiRouter::new(), OpenApiRouter::merge);
    OpenApiRouter::with_openapi(document::Document::openapi()).nest("/api/v1", all)
}

/// The OpenAPI document, as `baal openapi` writes it.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = resources().to_openapi();
    document::complete(&mut document);
    document
}

/// Figures alone, under the same rules.
pub(super) fn figures(app: App) -> Router {
    let guard = Guard::new(app.clone(), HashMap::from([((Method::GET, METRICS.to_owned()), Scope::Read)]));
    Router::new()
        .route(METRICS, metrics::route(app.clone()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .route_layer(from_fn_with_state(guard, Guard::check))
        .layer(from_fn_with_state(app, conduct::conduct))
}

/// All that administrators use.
pub(super) fn router(app: App) -> Router<Server> {
    let (router, mut document) = resources().split_for_parts();
    document::complete(&mut document);
    document::offer(&mut document, &app.config.models);
    let mut scopes = document::scopes(&mut document);
    scopes.insert((Method::GET, METRICS.to_owned()), Scope::Read);
    let guard = Guard::new(app.clone(), scopes);
    let router = router
        .route(METRICS, metrics::route(app.clone()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .route_layer(from_fn_with_state(guard, Guard::check))
        .route(
            "/api/{*path}",
            any(async || ApiError::NotFound("There is nothing here; /docs shows what there is.".into())),
        )
        .merge(docs::pages(document));
    let router = match cors::layer(&app.config.admin_cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(DefaultBodyLimit::max(MAX_BODY)).layer(from_fn_with_state(app, conduct::conduct))
}
