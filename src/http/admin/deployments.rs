//! `/agents/{id}/deployments`: what was done to make an agent run.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::Server;
use super::agents::find;
use super::extract::{List, Page, Path, Query};
use super::problem::ApiError;
use crate::jobs::history::{self, Past};

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    #[param(example = "0199c0de-5f2a-7c7e-8f2b-6f1f7b2d9a10")]
    before: Option<Uuid>,
}

/// List an agent's deployments
///
/// Every job that set it up, updated or repaired it, with every try of every step: newest first, tries oldest first.
#[utoipa::path(get, path = "/agents/{id}/deployments", tag = "agents", operation_id = "list_deployments",
    params(("id" = i64, Path, description = "The agent", example = 42), Part), security(("bearer" = ["read"])),
    responses((status = 200, description = "Part of the list", body = List<Past>)))]
async fn list(
    State(server): State<Server>,
    Path(id): Path<i64>,
    Query(part): Query<Part>,
) -> Result<axum::Json<List<Past>>, ApiError> {
    let fetch = Page::fetch(part.limit)?;
    let mut conn = server.app.db.acquire().await?;
    find(&mut conn, id).await?;
    let jobs = history::older(&mut conn, id, part.before, fetch).await?;
    Ok(axum::Json(List::new(jobs, fetch, |job| job.id.to_string(), |job| job)))
}
