//! `/tokens`: bearer tokens of this API.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::{Json, List, Page, Path, Query};
use super::once::{Key, Once};
use super::problem::ApiError;
use crate::admin::tokens::{self, NewTokenError, Token};
use crate::admin::{Caller, Scope};
use crate::database;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read)).routes(routes!(revoke))
}

/// A token to make.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// What it is for: 1 to 64 characters on one line, the first of them not a space.
    #[schema(
        example = "deploys",
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\x00-\x20\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
    )]
    label: String,
    /// What it allows.
    scope: Scope,
    /// How many days it is good for; without it, until it is revoked.
    #[schema(example = 90, minimum = 1, maximum = 3650)]
    days: Option<i32>,
}

/// A new token, with its text: it is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreatedToken)]
pub(super) struct Created {
    #[serde(flatten)]
    token: Token,
    /// For `Authorization: Bearer …`.
    #[schema(example = "baal_wAuYq0uU3mYV2eY6k7o6y0o0k8mJk8mJk8mJk8mJk8")]
    secret: String,
}

fn missing(id: i64) -> ApiError {
    ApiError::NotFound(format!("There is no token {id}."))
}

/// List tokens
///
/// All that were ever made, newest first.
#[utoipa::path(get, path = "/tokens", tag = "system", operation_id = "list_tokens", params(Page),
    security(("bearer" = ["admin"])), responses((status = 200, body = List<Token>)))]
async fn list(State(server): State<Server>, Query(page): Query<Page>) -> Result<axum::Json<List<Token>>, ApiError> {
    let fetch = Page::fetch(page.limit)?;
    let rows = tokens::list(&mut *server.app.db.acquire().await?, page.before, fetch).await?;
    Ok(axum::Json(List::new(rows, fetch, |token| token.id.to_string(), Token::from)))
}

/// Make a token
///
/// Its text is in this answer and nowhere else.
#[utoipa::path(post, path = "/tokens", tag = "system", operation_id = "create_token", request_body = NewToken,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions harmless", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    security(("bearer" = ["admin"])),
    responses((status = 201, body = Created, headers(("Location" = String, description = "Where it is read")),
        links(("read" = (operation_id = "read_token", parameters(("id" = "$response.body#/id")))),
               ("revoke" = (operation_id = "revoke_token", parameters(("id" = "$response.body#/id"))))))))]
async fn create(
    State(server): State<Server>,
    caller: Caller,
    key: Key,
    Json(new): Json<NewToken>,
) -> Result<Response, ApiError> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let creation = match key.claim(&mut tx, &app.config.vault, &caller, "create_token", &new).await? {
        Once::Before(answer) => return Ok(answer),
        Once::Now(creation) => creation,
    };
    let made = tokens::create(&mut tx, &caller, &new.label, new.scope, new.days).await;
    let (token, secret) = made.map_err(|error| match error {
        NewTokenError::Invalid { field, message } => ApiError::invalid(field, message),
        NewTokenError::Database(error) => error.into(),
    })?;
    let location = format!("/api/v1/tokens/{}", token.id);
    let created = Created { token, secret: secret.expose_secret().to_owned() };
    let answer = creation.answer(&mut tx, &app.config.vault, StatusCode::CREATED, Some(&location), &created).await?;
    tx.commit().await?;
    Ok(answer)
}

/// Read a token
///
/// What it allows and when it was used; never its text.
#[utoipa::path(get, path = "/tokens/{id}", tag = "system", operation_id = "read_token",
    params(("id" = i64, Path, description = "The token's number", example = 3)), security(("bearer" = ["admin"])), responses((status = 200, body = Token)))]
async fn read(State(server): State<Server>, Path(id): Path<i64>) -> Result<axum::Json<Token>, ApiError> {
    let token = tokens::get(&mut *server.app.db.acquire().await?, id).await?.ok_or_else(|| missing(id))?;
    Ok(axum::Json(token))
}

/// Revoke a token
///
/// It is not good any more from now on. One that was revoked stays as it was.
#[utoipa::path(post, path = "/tokens/{id}/revoke", tag = "system", operation_id = "revoke_token",
    params(("id" = i64, Path, description = "The token's number", example = 3)), security(("bearer" = ["admin"])), responses((status = 200, body = Token)))]
async fn revoke(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<axum::Json<Token>, ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let token = tokens::revoke(&mut tx, &caller, id).await?.ok_or_else(|| missing(id))?;
    tx.commit().await?;
    Ok(axum::Json(token))
}
