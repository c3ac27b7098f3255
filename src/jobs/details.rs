//! What operators want to know of a failed job.

use sqlx::PgConnection;
use uuid::Uuid;

use super::model::Step;

/// What operators want to know of a failed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The job.
    pub job_id: Uuid,
    /// The step that failed, in the database's word.
    pub step: String,
    /// How often it was tried.
    pub tries: i64,
    /// Where: the compute node's hash, or the name of the host; none on this server.
    pub node: Option<String>,
}

/// Of this job, which failed at `step`.
pub async fn of(conn: &mut PgConnection, job_id: Uuid, step: Step) -> sqlx::Result<Details> {
    let (tries, node) = sqlx::query_as(
        "select count(*),
                (select coalesce(v.crn_hash, v.name) from job_steps l join vms v on v.id = l.vm_id
                  where l.job_id = $1 and l.step = $2 order by l.position desc limit 1)
           from job_steps s where s.job_id = $1 and s.step = $2 and s.error is not null",
    )
    .bind(job_id)
    .bind(step.as_str())
    .fetch_one(conn)
    .await?;
    Ok(Details { job_id, step: step.as_str().to_owned(), tries, node })
}
