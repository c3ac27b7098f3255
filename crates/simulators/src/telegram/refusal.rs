//! What the Bot API answers when it refuses, in Telegram's own words.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refused call: `{"ok":false,"error_code":…,"description":…,"parameters":…}` with `code` as the HTTP status.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub code: u16,
    pub description: String,
    pub parameters: Option<Value>,
    /// Whether only a faulty bot gets this answer. Users block bots and delete messages, so some refusals are nobody's fault.
    pub violation: bool,
}

impl Refusal {
    /// A 400 that a correct bot never provokes.
    pub fn wrong(reason: impl std::fmt::Display) -> Self {
        Self { code: 400, description: format!("Bad Request: {reason}"), parameters: None, violation: true }
    }

    /// A 400 that a correct bot can meet.
    pub fn unlucky(reason: impl std::fmt::Display) -> Self {
        Self { violation: false, ..Self::wrong(reason) }
    }

    pub fn forbidden(reason: &str) -> Self {
        Self { code: 403, description: format!("Forbidden: {reason}"), parameters: None, violation: false }
    }

    pub fn conflict(reason: &str) -> Self {
        Self { code: 409, description: format!("Conflict: {reason}"), parameters: None, violation: false }
    }

    /// 429: `seconds` is what the bot has to wait.
    pub fn too_many_requests(seconds: u64) -> Self {
        Self {
            code: 429,
            description: format!("Too Many Requests: retry after {seconds}"),
            parameters: Some(json!({ "retry_after": seconds })),
            violation: false,
        }
    }

    pub fn unauthorized() -> Self {
        Self { code: 401, description: "Unauthorized".into(), parameters: None, violation: true }
    }

    pub fn unknown_method() -> Self {
        Self { code: 404, description: "Not Found: method not found".into(), parameters: None, violation: true }
    }

    pub fn chat_not_found() -> Self {
        Self::wrong("chat not found")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "ok": false, "error_code": self.code, "description": self.description });
        if let Some(parameters) = self.parameters {
            body["parameters"] = parameters;
        }
        let status = StatusCode::from_u16(self.code).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(body)).into_response()
    }
}
