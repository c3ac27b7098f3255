//! Creations that name an `Idempotency-Key`: done once, however often they are asked for.
//!
//! The key is written in the transaction that creates. A second request with it waits for the first one's transaction
//! and gets its answer; if that one was rolled back, the second creates.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::problem::ApiError;
use crate::admin::Caller;
use crate::vault::Vault;

/// The longest key, in characters.
const LONGEST: usize = 255;

/// The `Idempotency-Key` of a request, if it has one.
#[derive(Clone)]
pub(super) struct Key(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(given) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let is_good =
            |key: &&str| (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        // silent-ok: told as what it is
        let key = given.to_str().ok().filter(is_good).ok_or_else(|| {
            ApiError::Malformed(format!(
                "An Idempotency-Key has 1 to {LONGEST} visible ASCII characters, without spaces."
            ))
        })?;
        Ok(Self(Some(key.to_owned())))
    }
}

/// A creation that may go ahead, or has been done already.
pub(super) enum Once {
    /// Create, then [`Creation::answer`].
    Now(Creation),
    /// The answer that the first request got.
    Before(Response),
}

/// A creation under way.
pub(super) struct Creation(Option<(i64, String)>);

impl Key {
    /// The first statement of a creation's transaction. `operation` and `request` are what is asked for.
    pub(super) async fn claim(
        self,
        conn: &mut PgConnection,
        vault: &Vault,
        caller: &Caller,
        operation: &str,
        request: &impl Serialize,
    ) -> Result<Once, ApiError> {
        let Some(key) = self.0 else { return Ok(Once::Now(Creation(None))) };
        let token = caller.token_id.unwrap_or_default();
        let request = serde_json::to_vec(request).map_err(|error| ApiError::Internal(error.into()))?;
        let mut hash = Sha256::new_with_prefix(operation);
        hash.update([0]);
        hash.update(&request);
        let hash = hash.finalize().to_vec();
        // Waits for another transaction that has inserted the same key and has not ended.
        let inserted = sqlx::query(
            "insert into idempotency (token_id, key, request, status, body) values ($1, $2, $3, 0, '') on conflict do nothing",
        )
        .bind(token)
        .bind(&key)
        .bind(&hash)
        .execute(&mut *conn)
        .await?;
        if inserted.rows_affected() == 1 {
            return Ok(Once::Now(Creation(Some((token, key)))));
        }
        let (first, status, location, body): (Vec<u8>, i32, Option<String>, Vec<u8>) =
            sqlx::query_as("select request, status, location, body from idempotency where token_id = $1 and key = $2")
                .bind(token)
                .bind(&key)
                .fetch_one(conn)
                .await?;
        if first != hash {
            return Err(ApiError::Conflict(
                "This Idempotency-Key was used for another request. Take a new one for each thing that you create."
                    .into(),
            ));
        }
        let body = vault.decrypt(&body).map_err(|error| ApiError::Internal(error.into()))?;
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        Ok(Once::Before(respond(status.unwrap_or(StatusCode::CREATED), location.as_deref(), body)))
    }
}

impl Creation {
    /// The answer, kept for repetitions. Commit, then send it.
    pub(super) async fn answer(
        self,
        conn: &mut PgConnection,
        vault: &Vault,
        status: StatusCode,
        location: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Response, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Internal(error.into()))?;
        if let Some((token, key)) = self.0 {
            sqlx::query(
                "update idempotency set status = $3, location = $4, body = $5 where token_id = $1 and key = $2",
            )
            .bind(token)
            .bind(key)
            .bind(i32::from(status.as_u16()))
            .bind(location)
            .bind(vault.encrypt(&body))
            .execute(conn)
            .await?;
        }
        Ok(respond(status, location, body))
    }
}

fn respond(status: StatusCode, location: Option<&str>, body: Vec<u8>) -> Response {
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    // silent-ok: our own locations are numbers and ids
    if let Some(location) = location.and_then(|location| HeaderValue::from_str(location).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
