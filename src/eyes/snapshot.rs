//! What the database knows of how the system is doing, in two round trips. Only looked at: nothing is locked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use crate::cloud::aleph::Funds;
use crate::cloud::pool::Size;
use crate::config::{CloudKind, Config};
use crate::telegram::outbox::desk::DROPPED;

/// How many there are, by two words of the database's own: kind and state, or the like.
pub type Counts = BTreeMap<String, BTreeMap<String, i64>>;

/// The figures at one moment. Times are seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Updates from Telegram.
    pub updates: Queue,
    /// Calls to Telegram.
    pub outbox: Queue,
    /// What users asked for that needs a far side.
    pub errands: Queue,
    /// Words to agents that wait for their turn, and how long the first of them has.
    pub turns: Queue,
    /// Turns that a replica works at.
    pub turns_running: i64,
    /// Live jobs by kind and by `ready`, `running`, `backing_off` (it failed, or waits for something), `in_line` (for a
    /// machine).
    pub jobs: Counts,
    /// Jobs that ended within an hour, by kind and outcome.
    pub jobs_ended: Counts,
    /// Machines that are not certainly gone, by cloud and state.
    pub vms: Counts,
    /// MAX_VMS.
    pub vms_max: i64,
    /// The pool.
    pub pool: Pool,
    /// Agents by status; those that were deleted left out.
    pub agents: BTreeMap<String, i64>,
    /// Running agents that do not answer, of which their owners were told.
    pub agents_unwell: i64,
    /// Agents that no message reaches until their owner does something.
    pub agents_paused: i64,
    /// Live processes that work.
    pub workers: i64,
    /// Live processes that only listen.
    pub listeners: i64,
    /// Since the cloud was last compared with the rows; none where it never was, or there is nothing to compare.
    pub reconciled: Option<f64>,
    /// RECONCILE_INTERVAL.
    pub reconcile_interval: f64,
    /// Instances with this installation's id that no row knows.
    pub strays: i64,
    /// Since this installation, restored from a backup, is held; none where it works.
    pub held: Option<f64>,
    /// The account at the cloud; none where CLOUD has none.
    pub account: Option<Account>,
}

/// A queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Queue {
    /// Rows that are not done.
    pub open: i64,
    /// The age of the oldest of them; 0 where there is none.
    pub oldest: f64,
    /// Rows that were given up and are kept for somebody to look at.
    pub dead: i64,
}

/// The pool of warm machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Machines that are ready.
    pub warm: i64,
    /// Machines that are being made ready.
    pub preparing: i64,
    /// Machines that are to be ready; 0 where there is no pool.
    pub min: i64,
    /// Machines that may be ready or in the making.
    pub max: i64,
    /// Agents that wait for a place.
    pub waiting: i64,
}

/// The account at the cloud, as far as it is known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account {
    /// Its credits.
    pub credits: Option<u64>,
    /// Hours they last for the machines that there are; none where there are none.
    pub hours: Option<f64>,
    /// Since that was learnt; none where it is not known.
    pub age: Option<f64>,
}

#[derive(FromRow)]
struct Figures {
    updates_open: i64,
    updates_oldest: f64,
    updates_dead: i64,
    outbox_open: i64,
    outbox_oldest: f64,
    outbox_dead: i64,
    errands_open: i64,
    errands_oldest: f64,
    turns_waiting: i64,
    turns_oldest: f64,
    turns_running: i64,
    preparing: i64,
    waiting: i64,
    workers: i64,
    listeners: i64,
    strays: i64,
    reconciled: Option<f64>,
    held: Option<f64>,
    #[sqlx(flatten)]
    pool: Size,
}

/// Reads all but the account.
pub async fn read(conn: &mut PgConnection, config: &Config) -> sqlx::Result<Snapshot> {
    let figures: Figures = sqlx::query_as(
        "select u.open as updates_open, u.oldest as updates_oldest,
                (select count(*) from updates where done and error is not null) as updates_dead,
                o.open as outbox_open, o.oldest as outbox_oldest,
                (select count(*) from outbox where done and error is not null and error <> $1) as outbox_dead,
                e.open as errands_open, e.oldest as errands_oldest,
                t.waiting as turns_waiting, t.oldest as turns_oldest, t.running as turns_running,
                j.preparing, j.waiting, r.workers, r.listeners,
                (select count(*) from stray_instances) as strays,
                extract(epoch from now() - i.reconciled_at)::float8 as reconciled,
                extract(epoch from now() - i.held_since)::float8 as held,
                i.pool_min_size as min_size, i.pool_max_size as max_size
           from installation i,
                (select count(*) as open, coalesce(extract(epoch from now() - min(received_at)), 0)::float8 as oldest
                   from updates where not done) u,
                (select count(*) as open, coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as oldest
                   from outbox where not done) o,
                (select count(*) as open, coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as oldest
                   from errands where not done) e,
                (select count(*) filter (where claimed_by is null) as waiting,
                        count(*) filter (where claimed_by is not null) as running,
                        -- What agents are to forget may wait for days.
                        coalesce(extract(epoch from now() - min(created_at)
                          filter (where claimed_by is null and kind in ('message', 'hello'))), 0)::float8 as oldest
                   from turns where not done) t,
                (select count(*) filter (where kind = 'prepare' and step not in ('stop', 'remove', 'end')) as preparing,
                        count(*) filter (where waiting_since is not null and kind <> 'prepare') as waiting
                   from jobs where not done) j,
                (select count(*) filter (where worker) as workers, count(*) filter (where not worker) as listeners
                   from replicas where expires_at > now()) r",
    )
    .bind(DROPPED)
    .fetch_one(&mut *conn)
    .await?;
    let counts: Vec<(String, String, String, i64)> = sqlx::query_as(
        "select 'jobs' as what, kind as a,
                case when claimed_by is not null then 'running' when waiting_since is not null then 'in_line'
                     when run_at > now() then 'backing_off' else 'ready' end as b, count(*) as n
           from jobs where not done group by 2, 3
         union all
         select 'ended', kind, outcome, count(*) from jobs
          where done and ended_at > now() - interval '1 hour' and outcome is not null group by 2, 3
         union all
         select 'vms', cloud, state, count(*) from vms where ended_at is null group by 2, 3
         union all
         select 'agents', status, case when status <> 'running' then '' when unwell_since is not null then 'unwell'
                when paused is not null then 'paused' else '' end, count(*) from agents where deleted_at is null group by 2, 3",
    )
    .fetch_all(conn)
    .await?;
    Ok(Snapshot::of(&figures, counts, config))
}

/// What became of the messages to agents that came within the last hour. Not in [`Snapshot`], which is read for each scrape: there
/// each process counts its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LastHour {
    /// Those that ended, by outcome.
    pub turns: BTreeMap<String, i64>,
    /// Seconds within which half of those that were answered were; none where none was.
    pub half_within: Option<f64>,
}

impl LastHour {
    /// Reads it. Only looked at: nothing is locked.
    pub async fn read(conn: &mut PgConnection) -> sqlx::Result<Self> {
        let rows: Vec<(String, i64, Option<f64>)> = sqlx::query_as(
            "select status, count(*), percentile_cont(0.5) within group (order by extract(epoch from ended_at - created_at)::float8)
               from turns where created_at > now() - interval '1 hour' and done and kind = 'message' and status is not null
              group by status",
        )
        .fetch_all(conn)
        .await?;
        let half_within = rows.iter().find(|(status, ..)| status == "completed").and_then(|(_, _, half)| *half);
        Ok(Self { turns: rows.into_iter().map(|(status, count, _)| (status, count)).collect(), half_within })
    }
}

impl Snapshot {
    fn of(figures: &Figures, counts: Vec<(String, String, String, i64)>, config: &Config) -> Self {
        let mut by: BTreeMap<String, Counts> = BTreeMap::new();
        for (what, a, b, n) in counts {
            by.entry(what).or_default().entry(a).or_default().insert(b, n);
        }
        let mut take = |what| by.remove(what).unwrap_or_default();
        let (jobs, jobs_ended, vms, agents) = (take("jobs"), take("ended"), take("vms"), take("agents"));
        let standing = |word| agents.get("running").and_then(|all| all.get(word)).copied().unwrap_or(0);
        let has_pool = config.pool_enabled && config.cloud != CloudKind::Local;
        let (min, max) = if has_pool { figures.pool.of(config) } else { (0, 0) };
        let of_cloud = vms.get(config.cloud.as_str());
        Self {
            updates: Queue {
                open: figures.updates_open,
                oldest: figures.updates_oldest.max(0.0),
                dead: figures.updates_dead,
            },
            outbox: Queue {
                open: figures.outbox_open,
                oldest: figures.outbox_oldest.max(0.0),
                dead: figures.outbox_dead,
            },
            errands: Queue { open: figures.errands_open, oldest: figures.errands_oldest.max(0.0), dead: 0 },
            turns: Queue { open: figures.turns_waiting, oldest: figures.turns_oldest.max(0.0), dead: 0 },
            turns_running: figures.turns_running,
            vms_max: config.max_vms,
            pool: Pool {
                warm: of_cloud.and_then(|states| states.get("warm")).copied().unwrap_or(0),
                preparing: figures.preparing,
                min,
                max,
                waiting: figures.waiting,
            },
            agents_unwell: standing("unwell"),
            agents_paused: standing("paused"),
            agents: agents.into_iter().map(|(status, all)| (status, all.values().sum())).collect(),
            workers: figures.workers,
            listeners: figures.listeners,
            // Only there is something to compare with.
            reconciled: figures.reconciled.filter(|_| config.cloud == CloudKind::Aleph).map(|age| age.max(0.0)),
            reconcile_interval: config.reconcile_interval.as_secs_f64(),
            strays: figures.strays,
            held: figures.held.map(|age| age.max(0.0)),
            account: None,
            jobs,
            jobs_ended,
            vms,
        }
    }

    /// Machines that the account pays for.
    pub fn paid_machines(&self) -> i64 {
        self.vms.get(CloudKind::Aleph.as_str()).map_or(0, |states| states.values().sum())
    }

    /// All machines that are not certainly gone.
    pub fn machines(&self) -> i64 {
        self.vms.values().flat_map(BTreeMap::values).sum()
    }

    /// Jobs that failed within an hour.
    pub fn jobs_failed(&self) -> i64 {
        self.jobs_ended.values().filter_map(|outcomes| outcomes.get("failed")).sum()
    }

    /// The account with these funds, learnt so long ago.
    pub fn account_of(&self, funds: Option<(Duration, Funds)>) -> Account {
        let Some((age, funds)) = funds else { return Account { credits: None, hours: None, age: None } };
        let hourly = funds.hourly.saturating_mul(u64::try_from(self.paid_machines()).unwrap_or(0));
        let hours = (hourly > 0).then(|| funds.credits as f64 / hourly as f64);
        Account { credits: Some(funds.credits), hours, age: Some(age.as_secs_f64()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_last_for_the_machines_that_are_paid_for() {
        let states = BTreeMap::from([("assigned".to_owned(), 3), ("warm".to_owned(), 1)]);
        let mut snapshot = Snapshot { vms: [("aleph".to_owned(), states)].into(), ..Snapshot::default() };
        let funds = Funds { address: "0xabc".into(), credits: 4_000, hourly: 10 };
        let account = snapshot.account_of(Some((Duration::from_secs(7), funds.clone())));
        assert_eq!(account, Account { credits: Some(4_000), hours: Some(100.0), age: Some(7.0) });
        snapshot.vms.clear();
        assert_eq!(snapshot.account_of(Some((Duration::ZERO, funds))).hours, None, "there is nothing to pay");
        assert_eq!(snapshot.account_of(None).credits, None);
    }
}
