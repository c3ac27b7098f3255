//! How far a job is, and how long it may still take: learnt from those that succeeded before.

use std::time::Duration;

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::model::{Kind, Step};
use crate::config::CloudKind;

/// Jobs from which is learnt: the last that succeeded.
const LEARNT_FROM: i64 = 20;

/// A job's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Since it was asked for.
    pub elapsed: Duration,
    /// What is expected to be left of it; none where nothing is known.
    pub left: Option<Duration>,
}

/// How long the steps of jobs of one kind took on machines of one cloud.
#[derive(Debug, Clone, Default, PartialEq)]
struct History {
    jobs: i64,
    steps: Vec<Past>,
}

/// A step as it went before.
#[derive(Debug, Clone, PartialEq)]
struct Past {
    step: String,
    /// Seconds: the median of the jobs that had it.
    median: f64,
    /// How many jobs had it: one that gets a warm machine needs not wait for it.
    jobs: i64,
}

impl History {
    /// What is left on this way for a job that has been at `step` for `spent`.
    fn left(&self, way: &[Step], step: Step, spent: Duration) -> Option<Duration> {
        let current = way.iter().position(|s| *s == step).filter(|_| self.jobs > 0)?;
        let past = |step: Step| self.steps.iter().find(|past| past.step == step.as_str());
        let now = past(step).map_or(0.0, |past| past.median - spent.as_secs_f64()).max(0.0);
        // Before a machine is found it is not known whether it has to be made: what most jobs went through is expected.
        let expected = |past: &&Past| current > 0 || 2 * past.jobs >= self.jobs;
        let ahead =
            way.iter().skip(current + 1).filter_map(|step| past(*step)).filter(expected).map(|past| past.median);
        Duration::try_from_secs_f64(now + ahead.sum::<f64>()).ok()
    }
}

/// The clock of a job that is at `step` of this way, or begins it.
pub async fn clock(
    conn: &mut PgConnection,
    job_id: Uuid,
    (kind, cloud): (Kind, CloudKind),
    way: &[Step],
    step: Step,
) -> sqlx::Result<Clock> {
    let times = sqlx::query(
        "select extract(epoch from clock_timestamp() - created_at)::float8 as elapsed,
                case when step = $2 then extract(epoch from clock_timestamp() - (state ->> 'since')::timestamptz)::float8 end as spent
           from jobs where id = $1",
    )
    .bind(job_id)
    .bind(step.as_str())
    .fetch_one(&mut *conn)
    .await?;
    let duration =
        |seconds: Option<f64>| Duration::try_from_secs_f64(seconds.unwrap_or(0.0).max(0.0)).unwrap_or_default();
    let history = history(conn, kind, cloud).await?;
    let spent = duration(times.try_get("spent")?);
    Ok(Clock { elapsed: duration(times.try_get("elapsed")?), left: history.left(way, step, spent) })
}

async fn history(conn: &mut PgConnection, kind: Kind, cloud: CloudKind) -> sqlx::Result<History> {
    let rows = sqlx::query(
        "with recent as materialized (
           select j.id from jobs j
            where j.kind = $1 and j.done and j.outcome = 'succeeded'
              and exists (select from vms v where v.id = (j.state ->> 'vm')::uuid and v.cloud = $2)
            order by j.ended_at desc limit $3),
         took as (
           select s.job_id, s.step, sum(extract(epoch from s.ended_at - s.started_at)) as seconds
             from job_steps s join recent r on r.id = s.job_id where s.error is null group by s.job_id, s.step)
         select step, percentile_cont(0.5) within group (order by seconds)::float8 as median, count(*) as jobs,
                (select count(*) from recent) as all_jobs
           from took group by step",
    )
    .bind(kind.as_str())
    .bind(cloud.as_str())
    .bind(LEARNT_FROM)
    .fetch_all(conn)
    .await?;
    let mut history = History::default();
    for row in rows {
        history.jobs = row.try_get("all_jobs")?;
        let (step, median, jobs) = (row.try_get("step")?, row.try_get("median")?, row.try_get("jobs")?);
        history.steps.push(Past { step, median, jobs });
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::model::way;

    #[test]
    fn what_is_left_is_learnt_from_what_most_jobs_went_through() {
        let past = |step: Step, median, jobs| Past { step: step.as_str().into(), median, jobs };
        let steps = vec![
            past(Step::Place, 2.0, 10),
            past(Step::Reach, 60.0, 3),
            past(Step::Install, 10.0, 10),
            past(Step::Health, 5.0, 10),
        ];
        let history = History { jobs: 10, steps };
        let way = way(Kind::Provision, CloudKind::Aleph);
        let left = |step, spent| history.left(way, step, Duration::from_secs(spent)).map(|left| left.as_secs());
        assert_eq!(left(Step::Place, 0), Some(17), "most had a warm machine");
        assert_eq!(left(Step::Create, 0), Some(75), "this one has none");
        assert_eq!(left(Step::Reach, 20), Some(55));
        assert_eq!(left(Step::Install, 99), Some(5), "what takes longer than usual is expected to end now");
        assert_eq!(left(Step::Stop, 0), None);
        assert_eq!(History::default().left(way, Step::Place, Duration::ZERO), None);
    }
}
