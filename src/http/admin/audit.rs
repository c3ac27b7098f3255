//! `/audit`: who changed what.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::FromRow;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::{List, Page, Query, sought};
use super::problem::ApiError;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A change that somebody made.
#[derive(Debug, Serialize, FromRow, ToSchema)]
#[schema(as = AuditEntry)]
pub(super) struct Entry {
    #[schema(example = 17)]
    id: i64,
    at: DateTime<Utc>,
    /// Who.
    #[schema(example = "token 3 (deploys)")]
    actor: String,
    /// From where.
    #[schema(example = "192.0.2.7")]
    address: Option<String>,
    /// Of the request, as it is in the logs.
    request_id: Option<String>,
    /// What.
    #[schema(example = "agent.create")]
    action: String,
    /// Of what kind the subject is.
    #[schema(example = "agent")]
    subject_kind: String,
    /// Which one.
    #[schema(example = "42")]
    subject_id: String,
    /// What changed of it, as it was. Of prompts only length and hash; secrets never.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// The same as it is since.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

/// Which changes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    #[param(example = 17)]
    before: Option<i64>,
    /// Of what kind the subject is.
    #[param(example = "agent", max_length = 100, pattern = r"^[^\x00]*$")]
    subject_kind: Option<String>,
    /// Which subject: its number, id or name. Without a kind, of all kinds.
    #[param(example = "42", max_length = 100, pattern = r"^[^\x00]*$")]
    subject_id: Option<String>,
}

/// List changes
///
/// Who changed what through this API and the command line, newest first.
#[utoipa::path(get, path = "/audit", tag = "system", operation_id = "list_audit", params(Filter),
    security(("bearer" = ["admin"])), responses((status = 200, body = List<Entry>)))]
async fn list(State(server): State<Server>, Query(filter): Query<Filter>) -> Result<axum::Json<List<Entry>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let subject_kind = sought("subject_kind", filter.subject_kind)?;
    let subject_id = sought("subject_id", filter.subject_id)?;
    let rows = sqlx::query_as(
        "select id, at, actor, host(address) as address, request_id, action, subject_kind, subject_id, before, after
           from audit where id < $1 and ($2::text is null or subject_kind = $2) and ($3::text is null or subject_id = $3)
          order by id desc limit $4",
    )
    .bind(filter.before.unwrap_or(i64::MAX))
    .bind(subject_kind)
    .bind(subject_id)
    .bind(fetch)
    .fetch_all(&server.app.db)
    .await?;
    Ok(axum::Json(List::new(rows, fetch, |entry: &Entry| entry.id.to_string(), |entry| entry)))
}
