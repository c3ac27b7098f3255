//! The waiting list: jobs that wait for MAX_VMS, or for a host, to allow another machine. Who waits longest goes first.
//!
//! To be asked under the lock on the installation's row ([`count_unended`](crate::cloud::store::count_unended)), so that two
//! never see the same place free.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::model::State;
use super::store::Claim;

/// How often a job looks whether its turn has come, if nobody wakes it.
const EVERY: Duration = Duration::from_secs(5);

/// How many jobs wait that came before this one.
pub async fn ahead(conn: &mut PgConnection, job_id: Uuid) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from jobs o, (select waiting_since from jobs where id = $1) me
          where not o.done and o.waiting_since is not null and not o.cancel_requested and o.id <> $1
            and (me.waiting_since is null or (o.waiting_since, o.id) < (me.waiting_since, $1))",
    )
    .bind(job_id)
    .fetch_one(conn)
    .await
}

/// Puts the job into the list, where it keeps its place, and gives it back until its next look.
pub async fn wait(conn: &mut PgConnection, claim: &Claim, state: &State) -> sqlx::Result<Option<()>> {
    let result = sqlx::query(
        "update jobs set claimed_by = null, failures = 0, error = null, state = $4,
                waiting_since = coalesce(waiting_since, clock_timestamp()),
                run_at = case when cancel_requested then now() else now() + make_interval(secs => $5) end
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(claim.job_id)
    .bind(claim.replica_id)
    .bind(claim.attempt)
    .bind(Json(state))
    .bind(EVERY.as_secs_f64())
    .execute(conn)
    .await?;
    Ok((result.rows_affected() == 1).then_some(()))
}

/// A machine is gone, or who waited longest has one: who waits longest now looks at once. Wake [`Queue::Jobs`](crate::wake::Queue) after the commit.
pub async fn hurry(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query(
        "with first as materialized (
           select id from jobs where not done and waiting_since is not null and not cancel_requested and claimed_by is null
            order by waiting_since, id limit 1 for update skip locked)
         update jobs j set run_at = least(j.run_at, now()) from first where j.id = first.id",
    )
    .execute(conn)
    .await?;
    Ok(())
}
