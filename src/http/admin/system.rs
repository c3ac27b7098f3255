//! `/system`: what runs, and with which settings.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::problem::ApiError;
use crate::backup::held::{self, Held};
use crate::config::Shown;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(read))
}

/// What runs, and with which settings.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct System {
    /// Of the program that answers.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// This installation's id, which its machines carry.
    installation: uuid::Uuid,
    /// That it was restored from a backup and nothing is worked at until the reconciler is told `confirm`; null: it works.
    held: Option<Held>,
    /// The newest migration that was applied.
    #[schema(example = 4)]
    schema_version: i64,
    /// Processes that work or listen.
    replicas: Vec<Replica>,
    /// The settings of the process that answers.
    configuration: Vec<Shown>,
}

/// A process that works or listens.
#[derive(Debug, Serialize, FromRow, ToSchema)]
pub(super) struct Replica {
    #[schema(example = 2)]
    id: i64,
    /// Host and process.
    name: String,
    /// Whether it works, or only listens.
    worker: bool,
    started_at: DateTime<Utc>,
    /// Seconds since its last sign of life.
    #[schema(example = 1.5)]
    last_beat_seconds: f64,
    /// Whether that was too long ago: others take over what it was doing.
    expired: bool,
}

/// See what runs
///
/// Version, replicas with their last sign of life, and the configuration with its secrets masked.
#[utoipa::path(get, path = "/system", tag = "system", operation_id = "read_system",
    security(("bearer" = ["admin"])), responses((status = 200, body = System)))]
async fn read(State(server): State<Server>) -> Result<axum::Json<System>, ApiError> {
    let app = &server.app;
    let mut conn = app.db.acquire().await?;
    let (installation, schema_version) =
        sqlx::query_as("select id, (select max(version) from _sqlx_migrations where success) from installation")
            .fetch_one(&mut *conn)
            .await?;
    let replicas = sqlx::query_as(
        "select id, name, worker, started_at, expires_at < now() as expired,
                greatest(0, extract(epoch from now() - (expires_at - make_interval(secs => $1))))::float8 as last_beat_seconds
           from replicas order by id",
    )
    .bind(app.config.lease.as_secs_f64())
    .fetch_all(&mut *conn)
    .await?;
    Ok(axum::Json(System {
        version: env!("CARGO_PKG_VERSION"),
        installation,
        held: held::state(&mut conn).await?,
        schema_version,
        replicas,
        configuration: app.config.shown(),
    }))
}
