//! The bearer secret, compared in constant time.

use super::{App, Failure};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

pub(super) async fn require_secret(State(app): State<App>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(strip_bearer).unwrap_or_default();
    let wanted = app.secret.expose_secret().as_bytes();
    // Slices of different length are unequal at once: the length is no secret.
    if bool::from(given.ct_eq(wanted)) { next.run(request).await } else { Failure::Unauthorized.into_response() }
}

/// What follows the scheme, whose name has no case (RFC 9110, 11.1).
fn strip_bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(rest.trim_ascii())
}
