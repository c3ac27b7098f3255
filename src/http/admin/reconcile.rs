//! `/reconcile`: the cloud compared with the rows.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tracing::warn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::Json;
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::backup::held::{self, Held};
use crate::cloud::reconcile::{self, ReconcileError, Released, Report};

/// How long an answer waits for a comparison, which goes on without it.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(run))
}

/// What the reconciler found last.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reconciliation {
    /// Whether this installation only reports, until `confirm`: so it is after a restore.
    report_only: bool,
    /// That nothing is worked at until `confirm`: so it is after a restore.
    held: Option<Held>,
    /// What this request let go on, where it was held.
    released: Option<Released>,
    /// Seconds since the last comparison; null: there was none.
    #[schema(example = 312.5)]
    age_seconds: Option<f64>,
    /// What it found and did; null: there was none, or another version wrote it.
    report: Option<Report>,
}

/// How to compare. At most one of these is true.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Comparison {
    /// Change nothing at all; the report says what would be done.
    #[serde(default)]
    #[schema(default = false)]
    dry_run: bool,
    /// From now on act on what is found, also if the installation only reported; one that is held goes on with what is unfinished.
    #[serde(default)]
    #[schema(default = false)]
    confirm: bool,
    /// From now on only report, until that is confirmed.
    #[serde(default)]
    #[schema(default = false)]
    report_only: bool,
}

async fn last(conn: &mut PgConnection) -> sqlx::Result<Reconciliation> {
    let (_, report_only) = reconcile::installation(conn).await?;
    let (age, report) = reconcile::last_report(conn).await?.unzip();
    let report = report.and_then(|report: Value| {
        let read = serde_json::from_value(report);
        read.inspect_err(|error| warn!(%error, "the last report cannot be read by this version")).ok()
    });
    let held = held::state(conn).await?;
    Ok(Reconciliation { report_only, held, released: None, age_seconds: age.map(|age| age.as_secs_f64()), report })
}

/// See the last comparison
///
/// What the cloud had and the database did not know, and the other way round.
#[utoipa::path(get, path = "/reconcile", tag = "machines", operation_id = "read_reconcile",
    security(("bearer" = ["read"])), responses((status = 200, body = Reconciliation)))]
async fn read(State(server): State<Server>) -> Result<axum::Json<Reconciliation>, ApiError> {
    Ok(axum::Json(last(&mut *server.app.db.acquire().await?).await?))
}

/// Compare cloud and database
///
/// As `baal reconcile` does: what nobody knows is removed after several comparisons and a grace period, unless the
/// installation only reports. With CLOUD other than `aleph` no instances are compared. One that takes long goes on after the
/// answer (202).
#[utoipa::path(post, path = "/reconcile/run", tag = "machines", operation_id = "run_reconcile", request_body = Comparison,
    security(("bearer" = ["admin"])),
    responses((status = 200, body = Reconciliation),
        (status = 202, body = Reconciliation, description = "It goes on; this is what was found last before it"),
        (status = 502, body = super::problem::Problem, content_type = "application/problem+json",
         description = "Not all core channel nodes answer; nothing was removed")))]
async fn run(
    State(server): State<Server>,
    caller: Caller,
    Json(how): Json<Comparison>,
) -> Result<(StatusCode, axum::Json<Reconciliation>), ApiError> {
    let app = &server.app;
    if [how.dry_run, how.confirm, how.report_only].into_iter().filter(|chosen| *chosen).count() > 1 {
        return Err(ApiError::Conflict("Choose one of dry_run, confirm and report_only.".into()));
    }
    let mut released = None;
    if how.confirm {
        released = reconcile::confirm(app, &caller).await?;
    } else if how.report_only {
        reconcile::only_report(app, &caller).await?;
    }
    if !how.dry_run {
        let mut conn = app.db.acquire().await?;
        let (installation, _) = reconcile::installation(&mut conn).await?;
        let change = Change {
            action: "reconcile.run",
            kind: "installation",
            id: installation.to_string(),
            user_id: None,
            before: Value::Null,
            after: json!({"confirm": how.confirm, "report_only": how.report_only}),
        };
        audit::record(&mut conn, &caller, change).await?;
    }
    // A task of its own: who waits for it may go away.
    let sweeping = tokio::spawn({
        let app = app.clone();
        async move { reconcile::sweep(&app, how.dry_run).await }
    });
    let report = match tokio::time::timeout(PATIENCE, sweeping).await {
        Ok(Ok(swept)) => swept.map_err(|error| match error {
            ReconcileError::Aleph(error) => ApiError::FarSide(format!("Nothing was compared or removed: {error}.")),
            ReconcileError::Database(error) => error.into(),
        })?,
        Ok(Err(panicked)) => return Err(ApiError::Internal(panicked.into())),
        Err(_) => {
            let last = last(&mut *app.db.acquire().await?).await?;
            return Ok((StatusCode::ACCEPTED, axum::Json(Reconciliation { released, ..last })));
        }
    };
    let held = held::state(&mut *app.db.acquire().await?).await?;
    let report_only = report.report_only;
    let answer = Reconciliation { report_only, held, released, age_seconds: Some(0.0), report: Some(report) };
    Ok((StatusCode::OK, axum::Json(answer)))
}
