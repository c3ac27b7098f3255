//! The page to chat in: one document, nothing from elsewhere.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Telegram;

const HTML: &str = include_str!("page/chat.html");
const STYLE: &str = include_str!("page/chat.css");
const FORMAT: &str = include_str!("page/format.js");
const SCRIPT: &str = include_str!("page/chat.js");

/// The page runs its own script and style and talks to this server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'";

pub(crate) fn router() -> Router<Telegram> {
    Router::new().route("/", get(page))
}

async fn page() -> Response {
    let document = HTML.replace("/*STYLE*/", STYLE).replace("/*FORMAT*/", FORMAT).replace("/*SCRIPT*/", SCRIPT);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, document).into_response()
}
