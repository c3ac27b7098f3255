//! How the installation's machines stand, for operators. Only looked at: nothing is locked.

use std::time::Duration;

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::pool::Size;

/// Failed jobs that are told of.
const FAILURES: i64 = 3;

/// Machines and jobs at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// Machines that wait in the pool.
    pub warm: i64,
    /// Jobs that make machines for the pool.
    pub preparing: i64,
    /// Machines that agents have.
    pub assigned: i64,
    /// Machines that are being removed.
    pub retiring: i64,
    /// All machines that are not certainly gone: MAX_VMS is about these.
    pub unended: i64,
    /// Agents that wait for a place.
    pub waiting: i64,
    /// Hosts that the operator brought.
    pub hosts: i64,
    /// Since the cloud was last compared with the rows; none where it never was.
    pub reconciled: Option<Duration>,
    /// Whether that only reports, until `baal reconcile --confirm`.
    pub report_only: bool,
    /// How large the pool is to be, where an operator has set that.
    pub size: Size,
    /// The last jobs that failed within a day, newest first.
    pub failures: Vec<FailedJob>,
}

/// A job that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedJob {
    /// The job.
    pub id: Uuid,
    /// Its kind, in the database's word.
    pub kind: String,
    /// Whose machine it was about.
    pub agent_id: Option<i64>,
    /// The last step of which a try failed.
    pub step: Option<String>,
    /// Failed tries, of all steps.
    pub tries: i64,
    /// Where: the compute node's hash, or the name of the host.
    pub node: Option<String>,
    /// Why, in words.
    pub error: Option<String>,
    /// When.
    pub ago: Duration,
}

/// How it stands now.
pub async fn now(conn: &mut PgConnection) -> sqlx::Result<Overview> {
    let row = sqlx::query(
        "select count(*) filter (where state = 'warm') as warm, count(*) filter (where state = 'assigned') as assigned,
                count(*) filter (where state = 'retiring') as retiring, count(*) as unended,
                (select count(*) from jobs where kind = 'prepare' and not done and step not in ('stop', 'remove', 'end')) as preparing,
                (select count(*) from jobs where not done and waiting_since is not null and kind <> 'prepare') as waiting,
                (select count(*) from hosts where removed_at is null) as hosts,
                (select extract(epoch from now() - reconciled_at)::float8 from installation) as reconciled,
                (select report_only from installation) as report_only
           from vms where ended_at is null",
    )
    .fetch_one(&mut *conn)
    .await?;
    Ok(Overview {
        warm: row.try_get("warm")?,
        preparing: row.try_get("preparing")?,
        assigned: row.try_get("assigned")?,
        retiring: row.try_get("retiring")?,
        unended: row.try_get("unended")?,
        waiting: row.try_get("waiting")?,
        hosts: row.try_get("hosts")?,
        reconciled: row.try_get::<Option<f64>, _>("reconciled")?.map(age),
        report_only: row.try_get("report_only")?,
        size: Size::read(&mut *conn).await?,
        failures: failures(conn).await?,
    })
}

async fn failures(conn: &mut PgConnection) -> sqlx::Result<Vec<FailedJob>> {
    let rows = sqlx::query(
        "with last as materialized (
           select id, kind, agent_id, error, ended_at from jobs where done and outcome = 'failed' and ended_at > now() - interval '1 day'
            order by ended_at desc limit $1)
         select j.id, j.kind, j.agent_id, j.error, extract(epoch from now() - j.ended_at)::float8 as ago,
                coalesce(trouble.tries, 0) as tries, trouble.step, trouble.node
           from last j
           left join lateral (
             select s.step, count(*) over () as tries, coalesce(v.crn_hash, v.name) as node
               from job_steps s left join vms v on v.id = s.vm_id where s.job_id = j.id and s.error is not null
              order by s.position desc limit 1) trouble on true
          order by j.ended_at desc",
    )
    .bind(FAILURES)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(FailedJob {
                id: row.try_get("id")?,
                kind: row.try_get("kind")?,
                agent_id: row.try_get("agent_id")?,
                step: row.try_get("step")?,
                tries: row.try_get("tries")?,
                node: row.try_get("node")?,
                error: row.try_get("error")?,
                ago: age(row.try_get("ago")?),
            })
        })
        .collect()
}

fn age(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}
