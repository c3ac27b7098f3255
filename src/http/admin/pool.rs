//! `/pool`: machines that are kept ready.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::etag;
use super::extract::{IfMatch, Json, nullable};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::cloud::overview;
use crate::cloud::pool::Size;
use crate::config::{CloudKind, Config};
use crate::database;

/// The largest pool.
const MOST: i32 = 1_000;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(read, change))
}

/// The pool: machines that are ready before anybody wants them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pool {
    /// Whether machines are kept ready at all: POOL_ENABLED, and CLOUD is not `local`.
    enabled: bool,
    /// Machines that are to be ready.
    #[schema(example = 5)]
    min: i64,
    /// Machines that are ready or in the making, at most.
    #[schema(example = 10)]
    max: i64,
    /// Instead of POOL_MIN_SIZE; null: that.
    min_size: Option<i32>,
    /// Instead of POOL_MAX_SIZE; null: that.
    max_size: Option<i32>,
    /// Machines that wait in the pool.
    #[schema(example = 5)]
    warm: i64,
    /// Machines that are being made ready for it.
    #[schema(example = 0)]
    preparing: i64,
    /// Machines that agents have.
    #[schema(example = 7)]
    assigned: i64,
    /// Machines that are being removed.
    #[schema(example = 0)]
    retiring: i64,
    /// All machines that are not certainly gone.
    #[schema(example = 12)]
    machines: i64,
    /// How many there may be: MAX_VMS.
    #[schema(example = 20)]
    max_vms: i64,
    /// Agents that wait for a machine.
    #[schema(example = 0)]
    waiting: i64,
}

/// What is to be different; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolChange {
    /// Machines that are to be ready; null: POOL_MIN_SIZE.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 1000, example = 3)]
    min_size: Option<Option<i32>>,
    /// Machines that are ready or in the making, at most; null: POOL_MAX_SIZE.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i32>, minimum = 0, maximum = 1000, example = 6)]
    max_size: Option<Option<i32>>,
}

async fn pool(conn: &mut PgConnection, config: &Config) -> sqlx::Result<Pool> {
    let overview = overview::now(conn).await?;
    let (min, max) = overview.size.of(config);
    Ok(Pool {
        enabled: config.pool_enabled && config.cloud != CloudKind::Local,
        min,
        max,
        min_size: overview.size.min_size,
        max_size: overview.size.max_size,
        warm: overview.warm,
        preparing: overview.preparing,
        assigned: overview.assigned,
        retiring: overview.retiring,
        machines: overview.unended,
        max_vms: config.max_vms,
        waiting: overview.waiting,
    })
}

fn answer(pool: Pool) -> Response {
    let size = Size { min_size: pool.min_size, max_size: pool.max_size };
    (etag::tagged(etag::of(&size)), axum::Json(pool)).into_response()
}

/// See the pool
///
/// How large it is to be, and how it stands.
#[utoipa::path(get, path = "/pool", tag = "machines", operation_id = "read_pool", security(("bearer" = ["read"])),
    responses((status = 200, body = Pool, headers(("ETag" = String, description = "Of its size, for `If-Match`")))))]
async fn read(State(server): State<Server>) -> Result<Response, ApiError> {
    let app = &server.app;
    Ok(answer(pool(&mut *app.db.acquire().await?, &app.config).await?))
}

/// Change the pool's size
///
/// For all replicas, until it is changed again; null goes back to the configuration. Machines are made or removed within
/// POOL_REPLENISH_INTERVAL, and paid for while they wait; never more than MAX_VMS allows.
#[utoipa::path(patch, path = "/pool", tag = "machines", operation_id = "change_pool", request_body = PoolChange,
    params(("If-Match" = String, Header, description = "The ETag that you read, or `*`", example = "*")),
    security(("bearer" = ["admin"])),
    responses((status = 200, body = Pool, headers(("ETag" = String, description = "Of its size, for `If-Match`")))))]
async fn change(
    State(server): State<Server>,
    caller: Caller,
    seen: IfMatch,
    Json(change): Json<PoolChange>,
) -> Result<Response, ApiError> {
    let app = &server.app;
    for (field, size) in [("min_size", change.min_size), ("max_size", change.max_size)] {
        if size.flatten().is_some_and(|size| !(0..=MOST).contains(&size)) {
            return Err(ApiError::invalid(field, format!("A pool has 0 to {MOST} machines.")));
        }
    }
    let mut tx = database::begin(&app.db).await?;
    let before = Size::lock(&mut tx).await?;
    seen.check(&etag::of(&before))?;
    let size = Size {
        min_size: change.min_size.unwrap_or(before.min_size),
        max_size: change.max_size.unwrap_or(before.max_size),
    };
    let min = size.min_size.map_or(app.config.pool_min_size, i64::from);
    let max = size.max_size.map_or(app.config.pool_max_size, i64::from);
    // A word of the configuration alone may be cut; one of the operator's would be ignored.
    if min > max {
        return Err(ApiError::Conflict(format!(
            "The pool would keep {min} machines ready and have at most {max}. Change both sizes, or another of them."
        )));
    }
    if size != before {
        size.write(&mut tx).await?;
        let change = Change {
            action: "pool.change",
            kind: "pool",
            id: "pool".into(),
            user_id: None,
            before: serde_json::to_value(before).map_err(|error| ApiError::Internal(error.into()))?,
            after: serde_json::to_value(size).map_err(|error| ApiError::Internal(error.into()))?,
        };
        audit::record(&mut tx, &caller, change).await?;
    }
    let pool = pool(&mut tx, &app.config).await?;
    tx.commit().await?;
    Ok(answer(pool))
}
