//! Errors as `{"error": "…"}`.

use crate::store::StoreError;
use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::error;

/// Why a request fails.
#[derive(Debug)]
pub enum Failure {
    /// 401.
    Unauthorized,
    /// 400, and what is wrong.
    BadRequest(String),
    /// 404, and what is missing.
    NotFound(&'static str),
    /// 405.
    MethodNotAllowed,
    /// 409, and what is in the way.
    Conflict(&'static str),
    /// 413.
    TooLarge,
    /// 413, of a file.
    FileTooLarge,
    /// 403, and why.
    Forbidden(&'static str),
    /// 503; nothing was done.
    Store(StoreError),
    /// 503, and what is the matter.
    Unavailable(&'static str),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Failure::TooLarge
        } else {
            Failure::BadRequest("the body could not be read".into())
        }
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Failure::BadRequest(format!("the path does not fit: {}", rejection.body_text()))
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Failure::BadRequest(format!("what follows the ? does not fit: {}", rejection.body_text()))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Failure::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized".to_owned()),
            Failure::BadRequest(problem) => (StatusCode::BAD_REQUEST, problem),
            Failure::NotFound(what) => (StatusCode::NOT_FOUND, what.to_owned()),
            Failure::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "this method is not for this path".to_owned())
            }
            Failure::Conflict(what) => (StatusCode::CONFLICT, what.to_owned()),
            Failure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB".to_owned()),
            Failure::FileTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the file is larger than 50 MB".to_owned()),
            Failure::Forbidden(why) => (StatusCode::FORBIDDEN, why.to_owned()),
            Failure::Store(e) => {
                error!(error = %e, "a request failed because of the database");
                let message = "the agent's database does not answer, try again in a moment";
                (StatusCode::SERVICE_UNAVAILABLE, message.to_owned())
            }
            Failure::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, why.to_owned()),
        };
        (status, Json(json!({"error": message}))).into_response()
    }
}
