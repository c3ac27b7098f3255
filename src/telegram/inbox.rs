//! The inbox: updates as Telegram sent them, kept until they are handled.

use sqlx::PgConnection;

/// Reclaims after which an update is given up: each time, the replica that handled it died.
const MAX_RECLAIMS: i32 = 5;

/// Frees the updates that unregistered replicas had claimed.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        "update updates set claimed_by = null, reclaims = reclaims + 1, done = reclaims + 1 >= $1,
                error = case when reclaims + 1 >= $1 then 'every replica that handled it died' else error end
          where not done and claimed_by is not null and not exists (select from replicas r where r.id = claimed_by)",
    )
    .bind(MAX_RECLAIMS)
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
