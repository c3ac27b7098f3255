//! Errors as RFC 9457 has them: `application/problem+json` with a `type` that programs can rely on.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::agents::service::ServiceError;

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// Which kind of problem, for programs; stays as it is.
    #[serde(rename = "type")]
    #[schema(example = "urn:baal:problem:not-found")]
    pub kind: String,
    /// The same for people.
    #[schema(example = "There is no such thing")]
    pub title: &'static str,
    /// The answer's status.
    #[schema(example = 404, minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time, and what to do about it.
    #[schema(example = "There is no agent 42.")]
    pub detail: String,
    /// The fields that cannot be taken as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The request as it is in the logs.
    #[schema(example = "0199c0de-5f2a-7c7e-8f2b-6f1f7b2d9a10")]
    pub request_id: String,
}

/// A field that cannot be taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its place in the body, `endpoint.url` for one within another, or the parameter's name.
    #[schema(example = "name")]
    pub field: String,
    /// What is wrong, and what would be right.
    #[schema(example = "A name has 1 to 64 characters.")]
    pub message: String,
}

/// Why a request was not done. Whatever was written in its transaction is rolled back.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No token, or one that is not good (any more).
    #[error("A good token is needed: `Authorization: Bearer …`. `baal token create` makes one.")]
    Unauthorised,
    /// A token that does not allow this.
    #[error("This takes a token of scope `{0}`; yours has `{1}`.")]
    Forbidden(&'static str, &'static str),
    /// Not there. The text is the whole sentence.
    #[error("{0}")]
    NotFound(String),
    /// No such operation on this.
    #[error("This path has other methods; the Allow header names them.")]
    MethodNotAllowed,
    /// Not in the present state. The text says what to do.
    #[error("{0}")]
    Conflict(String),
    /// Not JSON, or a parameter that cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// Readable, but not to be taken.
    #[error("{}", in_short(.0))]
    Invalid(Vec<FieldError>),
    /// Not what the caller has seen.
    #[error("It was changed since you read it. Read it again and decide anew.")]
    PreconditionFailed,
    /// A change that does not say what it is a change of.
    #[error("Say which version you change: `If-Match` with the ETag that you read, or `*` for whichever there is.")]
    PreconditionRequired,
    /// More than may be sent.
    #[error("A body has at most 1 MiB.")]
    TooLarge,
    /// Not JSON by its own account.
    #[error("A body is JSON: send `Content-Type: application/json`.")]
    UnsupportedMediaType,
    /// Too often, or too many wrong tokens.
    #[error("Too many requests. Try again in {0} s.")]
    TooManyRequests(u64),
    /// A far side that the request needs did not do its part. The text says which, and holds neither URL nor secret.
    #[error("{0}")]
    FarSide(String),
    /// The API's own time is over. What was written in a transaction that was not committed is rolled back.
    #[error("This took too long and was given up. Look at what is there now before you try again.")]
    TookTooLong,
    /// Postgres does not answer.
    #[error(
        "The database does not answer. Nothing was changed, or all of it: read before you repeat what names no Idempotency-Key."
    )]
    Unavailable,
    /// Our mistake; the cause is logged.
    #[error("Something went wrong on our side. The logs have it under the request's id.")]
    Internal(#[source] anyhow::Error),
}

/// What goes with a response until the request's id is known; see `conduct`.
#[derive(Clone)]
pub(super) struct Pending(Problem);

impl ApiError {
    /// A single field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::Forbidden(..) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::FarSide(_) => StatusCode::BAD_GATEWAY,
            Self::Unavailable | Self::TookTooLong => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Unauthorised => ("unauthorised", "No good token"),
            Self::Forbidden(..) => ("forbidden", "The token does not allow this"),
            Self::NotFound(_) => ("not-found", "There is no such thing"),
            Self::MethodNotAllowed => ("method-not-allowed", "No such method here"),
            Self::Conflict(_) => ("conflict", "Not in the present state"),
            Self::Malformed(_) => ("malformed", "The request cannot be read"),
            Self::Invalid(_) => ("invalid", "Some fields cannot be taken"),
            Self::PreconditionFailed => ("changed-meanwhile", "It was changed meanwhile"),
            Self::PreconditionRequired => ("precondition-required", "If-Match is missing"),
            Self::TooLarge => ("too-large", "The body is too large"),
            Self::UnsupportedMediaType => ("unsupported-media-type", "Not JSON"),
            Self::TooManyRequests(_) => ("too-many-requests", "Too many requests"),
            Self::FarSide(_) => ("far-side", "Another server did not do its part"),
            Self::Unavailable => ("unavailable", "The database does not answer"),
            Self::TookTooLong => ("took-too-long", "It took too long"),
            Self::Internal(_) => ("internal", "Something went wrong"),
        }
    }
}

fn in_short(errors: &[FieldError]) -> String {
    errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join(" ")
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::Unavailable,
            // `lock_not_available` and `query_canceled`, which the session's time-outs raise.
            sqlx::Error::Database(error) if matches!(error.code().as_deref(), Some("55P03" | "57014")) => {
                Self::TookTooLong
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<ServiceError> for ApiError {
    /// The words are those that the bot says.
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound | ServiceError::NoSuchLink | ServiceError::NoSuchVisitor => {
                Self::NotFound(error.to_string())
            }
            ServiceError::Invalid { field, message } => Self::invalid(field, message),
            ServiceError::LimitReached { .. } | ServiceError::Closed(_) | ServiceError::Conflict { .. } => {
                Self::Conflict(error.to_string())
            }
            ServiceError::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Internal(cause) = &self {
            error!(error = format!("{cause:#}"), "a request of the API failed");
        }
        let (kind, title) = self.kind();
        let status = self.status();
        let problem = Problem {
            kind: format!("urn:baal:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            errors: if let Self::Invalid(errors) = &self { errors.clone() } else { Vec::new() },
            request_id: String::new(),
        };
        let mut response = status.into_response();
        let headers = response.headers_mut();
        match self {
            Self::TooManyRequests(seconds) => {
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            Self::Unavailable | Self::TookTooLong => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            Self::Unauthorised => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"baal\""));
            }
            _ => {}
        }
        response.extensions_mut().insert(Pending(problem));
        response
    }
}

/// Writes a problem's body, now that the request's id is known.
pub(super) fn complete(mut response: Response, request_id: &str) -> Response {
    let Some(Pending(mut problem)) = response.extensions_mut().remove::<Pending>() else { return response };
    problem.request_id = request_id.to_owned();
    // silent-ok: texts and numbers are always JSON
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
    response
}
