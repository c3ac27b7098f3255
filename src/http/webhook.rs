//! `POST /telegram/webhook`: an update from Telegram.
//!
//! Durable before acknowledged: 200 means committed. Nothing else happens here. Telegram sends again whatever does not
//! get a 2xx, for a day and holding up that chat, so what cannot be read is stored too (and ends as a dead letter); only
//! a database that does not answer is a 503.

use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tracing::Instrument as _;

use super::Server;
use crate::eyes::metrics;
use crate::telegram::inbox::Stored;
use crate::trace;

/// The largest body that is taken, in bytes. Telegram's updates are a few KiB.
const MAX_BODY: usize = 1024 * 1024;

const SECRET_HEADER: &str = "x-telegram-bot-api-secret-token";

/// 200 stored; 400 no body; 401 wrong secret; 413 over [`MAX_BODY`]; 429 too many unhandled updates of
/// that chat; 503 not stored.
pub(super) async fn receive(State(server): State<Server>, headers: HeaderMap, body: Body) -> Response {
    let began = Instant::now();
    let response = take_in(&server, &headers, body).await;
    metrics::webhook_answered(response.status().as_u16(), began.elapsed());
    response
}

async fn take_in(server: &Server, headers: &HeaderMap, body: Body) -> Response {
    if !authorised(server, headers) {
        return (StatusCode::UNAUTHORIZED, "wrong or missing secret token\n").into_response();
    }
    // Only now: strangers begin no traces.
    let span = trace::served("POST", "/telegram/webhook");
    let response = store(server, body).instrument(span.clone()).await;
    trace::answered(&span, response.status().as_u16());
    response
}

async fn store(server: &Server, body: Body) -> Response {
    // Read only now: a stranger's bytes are not even buffered.
    let body = match axum::body::to_bytes(body, MAX_BODY).await {
        Ok(body) if body.is_empty() => return (StatusCode::BAD_REQUEST, "an update is expected\n").into_response(),
        Ok(body) => body,
        Err(error) if is_too_long(&error) => {
            return (StatusCode::PAYLOAD_TOO_LARGE, "an update has at most 1 MiB\n").into_response();
        }
        Err(_) => return (StatusCode::BAD_REQUEST, "the body broke off\n").into_response(),
    };
    match server.inbox.store(&body).await {
        Ok(Stored::Kept) => StatusCode::OK.into_response(),
        Ok(Stored::ChatFull) => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "5")]).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")]).into_response(),
    }
}

fn authorised(server: &Server, headers: &HeaderMap) -> bool {
    let Some(expected) = &server.app.config.telegram_webhook_secret else { return false };
    let given = headers.get(SECRET_HEADER).map_or(&b""[..], |value| value.as_bytes());
    given.ct_eq(expected.expose_secret().as_bytes()).into()
}

fn is_too_long(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}
