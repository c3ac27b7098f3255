//! The one clock that all replicas agree on.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Postgres' time: within a transaction, that of its beginning.
pub async fn now(conn: &mut PgConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("select now()").fetch_one(conn).await
}
