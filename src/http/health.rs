//! `GET /readyz`: whether this process can do its work. (`GET /healthz` says only that it lives.)

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;

use super::Server;
use crate::app::App;
use crate::database::MIGRATIONS;

/// 200 once the database answers and has this program's schema; else 503 with the reason.
pub(super) async fn ready(State(server): State<Server>) -> (StatusCode, String) {
    match tokio::time::timeout(Duration::from_secs(3), missing_migrations(&server.app)).await {
        Ok(Ok(0)) => (StatusCode::OK, "ready\n".into()),
        Ok(Ok(missing)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{missing} migrations are missing: run `baal migrate`\n"))
        }
        // The driver's words may name hosts and users, which are nobody's business here.
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n".into()),
    }
}

async fn missing_migrations(app: &App) -> sqlx::Result<usize> {
    let there: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&app.db).await?;
    if !there {
        return Ok(MIGRATIONS.iter().count());
    }
    let applied: Vec<i64> =
        sqlx::query_scalar("select version from _sqlx_migrations where success").fetch_all(&app.db).await?;
    Ok(MIGRATIONS.iter().filter(|m| !applied.contains(&m.version)).count())
}
