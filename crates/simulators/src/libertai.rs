//! LibertAI: OpenAI-compatible chat completions, with a canned persona instead of a model.
//!
//! Checked as strictly as a real service does; what the caller did wrong is kept and readable by `GET /sim/violations`.
//! Tests prescribe answers and failures by `POST /sim/script` and read what was asked by `GET /sim/requests`.

mod control;
mod persona;
mod request;
mod response;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

pub use control::{Account, LibertAi, Pace, Reply, Script};

/// Largest request that is read, in bytes.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// The models that `/v1/models` lists; completions take any name.
const MODELS: [&str; 2] = ["qwen3-coder-next", "glm-4.7"];

/// A service with a state of its own: `/v1/…` and, to steer it, `/sim/…`.
pub fn router() -> Router {
    router_with(LibertAi::default())
}

/// A service whose state the caller keeps hold of.
pub fn router_with(state: LibertAi) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/credits/balance", get(balance))
        .route("/sim/script", post(control::script))
        .route("/sim/pace", post(control::pace))
        .route("/sim/accounts", post(control::account))
        .route("/sim/requests", get(control::requests))
        .route("/sim/violations", get(control::violations))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// An error in OpenAI's form.
fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message, "type": kind, "param": null, "code": null}}))).into_response()
}

/// Any non-empty key will do, but one that begins with `bad`; gives the key.
fn check_key(headers: &HeaderMap) -> Result<&str, Box<Response>> {
    let key = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim)
        .unwrap_or_default();
    if key.is_empty() || key.starts_with("bad") {
        return Err(Box::new(refuse(StatusCode::UNAUTHORIZED, "authentication_error", "Invalid API key.")));
    }
    Ok(key)
}

async fn completions(State(sim): State<LibertAi>, headers: HeaderMap, body: Bytes) -> Response {
    let key = match check_key(&headers) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let request = match request::read(&body) {
        Ok(request) => request,
        Err(problem) => {
            sim.record_violation(&problem, &body);
            return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &problem);
        }
    };
    sim.record_request(&request, key);
    let reply = sim
        .scripted_reply(request.last_user_message())
        .unwrap_or_else(|| Reply { content: Some(persona::answer(&request)), ..Reply::default() });
    response::respond(&request, reply, sim.pace_now()).await
}

async fn models(headers: HeaderMap) -> Response {
    if let Err(refusal) = check_key(&headers) {
        return *refusal;
    }
    let data: Vec<_> = MODELS
        .iter()
        .map(|id| json!({"id": id, "object": "model", "created": 1_760_000_000, "owned_by": "libertai"}))
        .collect();
    Json(json!({"object": "list", "data": data})).into_response()
}

/// What is left on the key's account, 25 credits unless `POST /sim/accounts` says otherwise.
async fn balance(State(sim): State<LibertAi>, headers: HeaderMap) -> Response {
    let key = match check_key(&headers) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let account = sim.account_of(key);
    if let Some(delay) = account.delay_ms {
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
    }
    match (account.status.and_then(|status| StatusCode::from_u16(status).ok()), account.raw) {
        (Some(status), _) => refuse(status, "insufficient_quota", "There is nothing left on this account."),
        (None, Some(raw)) => raw.into_response(),
        (None, None) => Json(json!({"balance": account.balance.unwrap_or(25.0)})).into_response(),
    }
}
