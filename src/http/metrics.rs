//! `GET /metrics`: figures for Prometheus. The guard in front of it takes a token of scope `read`.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

use crate::app::App;
use crate::eyes::Eyes;

/// Prometheus' text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The route's handler. 200 also where the database does not answer: figures tell.
pub(super) fn route<S: Clone + Send + Sync + 'static>(app: App) -> MethodRouter<S> {
    let eyes = Eyes::new(app);
    get(async move || answer(eyes.clone()).await)
}

async fn answer(eyes: Eyes) -> impl IntoResponse {
    ([(CONTENT_TYPE, FORMAT)], eyes.scrape().await)
}
