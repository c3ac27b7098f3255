//! Jobs as rows.

use sqlx::PgConnection;

/// Frees the jobs that unregistered replicas had claimed; the next claimant goes on at the saved step.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        "update jobs set claimed_by = null, reclaims = reclaims + 1
          where not done and claimed_by is not null and not exists (select from replicas r where r.id = claimed_by)",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
