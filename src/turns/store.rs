//! Turns as rows.

use sqlx::PgConnection;

/// Frees the turns that unregistered replicas had claimed; whoever claims one next attaches to it at the agent.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        "update turns set claimed_by = null, reclaims = reclaims + 1
          where not done and claimed_by is not null and not exists (select from replicas r where r.id = claimed_by)",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
