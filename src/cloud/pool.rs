//! The pool: machines that are ready before anybody wants them, so that creating an agent takes seconds.
//!
//! One replica at a time looks after it, and the decision is made and carried out under the lock on the installation's row:
//! even two that both believe they hold the lease never make more machines than are allowed.

mod size;

use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::size::Size;
use super::{hosts, store};
use crate::app::App;
use crate::config::{CloudKind, Config};
use crate::database;
use crate::jobs;
use crate::replica::Replica;
use crate::wake::Queue;

const LEASE: &str = "pool";
/// The longest pause after machines could not be made.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// How the pool stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Machines that wait in the pool.
    pub warm: i64,
    /// Those of them that have waited for longer than they should.
    pub stale: i64,
    /// Jobs that are making machines for the pool.
    pub preparing: i64,
    /// Machines that may be made besides those that exist and those that such jobs have yet to write down.
    pub room: i64,
    /// Agents that wait for a place.
    pub waiting: i64,
    /// Jobs of the pool that failed since the last that succeeded.
    pub failures: u32,
    /// Time since the last of these failures.
    pub since_failure: Duration,
}

/// What is wanted of the pool: see [`Size`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Machines that are to be ready.
    pub min: i64,
    /// Machines that are ready or being made, at most.
    pub max: i64,
    /// The pause after a failure; it doubles with each further one.
    pub pause: Duration,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions {
    /// Machines to make.
    pub prepare: i64,
    /// Machines to retire, the oldest first.
    pub retire: i64,
}

/// Keeps `min` machines that are not stale, of which those being made are counted as ready.
///
/// Stale ones stay until others have taken their place, unless there is no room for these. While agents wait for a place,
/// nothing is made: the place is theirs. After failures one machine at a time is tried, with growing pauses, so that an
/// account without credits does not fill the table of jobs.
pub fn plan(counts: &Counts, wanted: &Wanted) -> Actions {
    let fresh = counts.warm - counts.stale;
    let missing = (wanted.min - fresh - counts.preparing).max(0);
    let space = (wanted.max - counts.warm - counts.preparing).min(counts.room).max(0);
    let may = match counts.failures {
        _ if counts.waiting > 0 => 0,
        0 => i64::MAX,
        failures => {
            let pause = wanted.pause.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE.max(wanted.pause));
            i64::from(counts.since_failure >= pause && counts.preparing == 0)
        }
    };
    let prepare = missing.min(space).min(may);
    // Stale ones that still stand in for fresh ones.
    let needed = (wanted.min - fresh).max(0);
    let stale = (counts.stale - needed).max(0);
    // One makes room for the first of those that replace them.
    let for_room = i64::from(missing > 0 && space == 0 && counts.preparing == 0 && counts.stale > 0);
    let excess = counts.warm - wanted.max;
    Actions { prepare, retire: stale.max(for_room).max(excess).clamp(0, counts.warm) }
}

/// Looks after the pool every POOL_REPLENISH_INTERVAL, on one replica at a time, until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    loop {
        if replica.may_send()
            && replica.holds(&app.db, LEASE).await.unwrap_or(false)
            && let Err(error) = round(app).await
        {
            warn!(%error, "the pool could not be looked after; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = replica.lost().cancelled() => return,
            () = tokio::time::sleep(app.config.pool_interval.mul_f64(rand::random_range(0.9..1.1))) => {}
        }
    }
}

/// Looks at the pool once and does what is to be done.
///
/// Machines that were made ready under another CLOUD are of no use to anybody and are retired.
pub async fn round(app: &App) -> sqlx::Result<Actions> {
    retire_others(app).await?;
    // Agents of the local cloud start within a second.
    if app.config.cloud == CloudKind::Local {
        return Ok(Actions::default());
    }
    // Counted before the lock, under which agents get their machines: a failure more or less makes no machine too many.
    let failed = failures(&mut *app.db.acquire().await?).await?;
    let mut tx = database::begin(&app.db).await?;
    let counts = count(&mut tx, &app.config, failed).await?;
    let wanted = Size::read(&mut tx).await?.wanted(&app.config);
    let actions = plan(&counts, &wanted);
    let mut retired = 0;
    for id in oldest(&mut tx, app.config.cloud, actions.retire).await? {
        store::retire(&mut tx, id).await?;
        retired += 1;
    }
    for _ in 0..actions.prepare {
        jobs::store::enqueue_prepare(&mut tx).await?;
    }
    tx.commit().await?;
    if actions.prepare > 0 || retired > 0 {
        info!(
            pool.warm = counts.warm,
            pool.preparing = counts.preparing,
            prepare = actions.prepare,
            retire = retired,
            "the pool is changed"
        );
        app.wake.wake(Queue::Jobs);
    }
    Ok(Actions { retire: retired, ..actions })
}

/// Counts under the installation's lock, which lasts until the transaction ends.
async fn count(conn: &mut PgConnection, config: &Config, failed: (u32, Duration)) -> sqlx::Result<Counts> {
    let unended = store::count_unended(conn).await?;
    let row = sqlx::query(
        "select
           (select count(*) from vms where cloud = $1 and state = 'warm' and ended_at is null) as warm,
           (select count(*) from vms where cloud = $1 and state = 'warm' and ended_at is null
               and warm_since < now() - make_interval(secs => $2)) as stale,
           count(*) filter (where j.step not in ('stop', 'remove', 'end')) as preparing,
           count(*) filter (where j.step not in ('stop', 'remove', 'end') and not exists (
               select from vms v where v.id = (j.state ->> 'vm')::uuid and v.ended_at is null)) as unplaced,
           (select count(*) from jobs w where not w.done and w.waiting_since is not null and w.kind <> 'prepare') as waiting
         from jobs j where j.kind = 'prepare' and not j.done",
    )
    .bind(config.cloud.as_str())
    .bind(config.pool_max_age.as_secs_f64())
    .fetch_one(&mut *conn)
    .await?;
    let unplaced: i64 = row.try_get("unplaced")?;
    let mut room = config.max_vms - unended;
    if config.cloud == CloudKind::Hosts {
        room = room.min(hosts::count_free(conn).await?);
    }
    Ok(Counts {
        warm: row.try_get("warm")?,
        stale: row.try_get("stale")?,
        preparing: row.try_get("preparing")?,
        room: room - unplaced,
        waiting: row.try_get("waiting")?,
        failures: failed.0,
        since_failure: failed.1,
    })
}

/// How many of the pool's jobs failed since the last that did not, and how long ago the last of them did.
async fn failures(conn: &mut PgConnection) -> sqlx::Result<(u32, Duration)> {
    let row = sqlx::query(
        "select count(*) as failures, coalesce(extract(epoch from now() - max(ended_at)), 0)::float8 as since
           from jobs where kind = 'prepare' and done and outcome = 'failed' and ended_at > coalesce(
                (select max(ended_at) from jobs where kind = 'prepare' and done and outcome = 'succeeded'), '-infinity')",
    )
    .fetch_one(conn)
    .await?;
    let failures: i64 = row.try_get("failures")?;
    let since: f64 = row.try_get("since")?;
    Ok((failures.try_into().unwrap_or(u32::MAX), Duration::from_secs_f64(since.max(0.0))))
}

/// Retires what waits in the pool of another cloud.
async fn retire_others(app: &App) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    let others: Vec<Uuid> = sqlx::query_scalar(
        "select id from vms where cloud <> $1 and state = 'warm' and ended_at is null order by id for update skip locked",
    )
    .bind(app.config.cloud.as_str())
    .fetch_all(&mut *tx)
    .await?;
    for id in &others {
        store::retire(&mut tx, *id).await?;
    }
    tx.commit().await?;
    if !others.is_empty() {
        info!(retire = others.len(), "the pool's machines of another cloud are removed, as CLOUD was changed");
        app.wake.wake(Queue::Jobs);
    }
    Ok(())
}

/// Locks the machines that have waited longest; whoever is claiming one keeps it.
async fn oldest(conn: &mut PgConnection, cloud: CloudKind, limit: i64) -> sqlx::Result<Vec<Uuid>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "select id from vms where cloud = $1 and state = 'warm' and ended_at is null
          order by warm_since limit $2 for update skip locked",
    )
    .bind(cloud.as_str())
    .bind(limit)
    .fetch_all(conn)
    .await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: Wanted = Wanted { min: 3, max: 5, pause: Duration::from_secs(30) };

    fn counts() -> Counts {
        Counts { room: 20, ..Counts::default() }
    }

    fn actions(counts: Counts) -> (i64, i64) {
        let Actions { prepare, retire } = plan(&counts, &WANTED);
        (prepare, retire)
    }

    #[test]
    fn an_empty_pool_is_filled_and_a_full_one_left_alone() {
        assert_eq!(actions(counts()), (3, 0));
        assert_eq!(actions(Counts { warm: 1, preparing: 1, ..counts() }), (1, 0));
        assert_eq!(actions(Counts { warm: 3, ..counts() }), (0, 0));
        assert_eq!(actions(Counts { warm: 5, ..counts() }), (0, 0));
    }

    #[test]
    fn nothing_is_made_beyond_what_may_exist() {
        assert_eq!(actions(Counts { room: 2, ..counts() }), (2, 0));
        assert_eq!(actions(Counts { room: 0, ..counts() }), (0, 0));
        assert_eq!(actions(Counts { room: -4, ..counts() }), (0, 0));
    }

    #[test]
    fn a_place_goes_to_those_who_wait_for_one() {
        assert_eq!(actions(Counts { waiting: 1, ..counts() }), (0, 0));
    }

    #[test]
    fn stale_machines_stay_until_others_are_ready() {
        assert_eq!(actions(Counts { warm: 3, stale: 3, ..counts() }), (2, 0));
        assert_eq!(actions(Counts { warm: 3, stale: 3, preparing: 2, ..counts() }), (0, 0));
        assert_eq!(actions(Counts { warm: 5, stale: 3, ..counts() }), (0, 2));
        assert_eq!(actions(Counts { warm: 5, stale: 2, ..counts() }), (0, 2));
    }

    #[test]
    fn without_room_a_stale_machine_goes_first() {
        assert_eq!(actions(Counts { warm: 3, stale: 3, room: 0, ..counts() }), (0, 1));
        assert_eq!(actions(Counts { warm: 2, stale: 2, room: 0, preparing: 1, ..counts() }), (0, 0));
    }

    #[test]
    fn a_pool_that_is_switched_off_or_made_smaller_is_emptied() {
        let off = Wanted { min: 0, max: 0, ..WANTED };
        assert_eq!(plan(&Counts { warm: 4, stale: 1, ..counts() }, &off), Actions { prepare: 0, retire: 4 });
        let smaller = Wanted { min: 1, max: 2, ..WANTED };
        assert_eq!(plan(&Counts { warm: 4, ..counts() }, &smaller), Actions { prepare: 0, retire: 2 });
    }

    #[test]
    fn after_failures_one_is_tried_at_a_time_with_growing_pauses() {
        let failed = |failures, seconds, preparing| {
            actions(Counts { failures, since_failure: Duration::from_secs(seconds), preparing, ..counts() })
        };
        assert_eq!(failed(1, 59, 0), (0, 0));
        assert_eq!(failed(1, 60, 0), (1, 0));
        assert_eq!(failed(1, 60, 1), (0, 0));
        assert_eq!(failed(3, 239, 0), (0, 0));
        assert_eq!(failed(3, 240, 0), (1, 0));
        assert_eq!(failed(u32::MAX, 600, 0), (1, 0));
    }

    proptest! {
        #[test]
        fn no_plan_exceeds_a_limit_or_takes_what_is_not_there(
            warm in 0..20_i64, stale in 0..20_i64, preparing in 0..20_i64, room in -5..20_i64, waiting in 0..2_i64,
            failures in 0..3_u32, since in 0..1_000_u64, min in 0..10_i64, more in 0..10_i64,
        ) {
            let counts = Counts {
                warm, stale: stale.min(warm), preparing, room, waiting, failures, since_failure: Duration::from_secs(since),
            };
            let wanted = Wanted { min, max: min + more, pause: Duration::from_secs(30) };
            let actions = plan(&counts, &wanted);
            prop_assert!(actions.prepare >= 0 && (0..=warm).contains(&actions.retire));
            if actions.prepare > 0 {
                prop_assert!(warm + preparing + actions.prepare <= wanted.max);
                prop_assert!(actions.prepare <= room && waiting == 0);
            }
        }

        #[test]
        fn a_pool_comes_to_rest(warm in 0..12_i64, stale in 0..12_i64, room in 0..12_i64, min in 0..6_i64, more in 0..6_i64) {
            let wanted = Wanted { min, max: min + more, pause: Duration::from_secs(30) };
            let mut counts = Counts { warm, stale: stale.min(warm), room, ..Counts::default() };
            let mut rounds = 0;
            loop {
                let actions = plan(&counts, &wanted);
                if actions == Actions::default() { break; }
                rounds += 1;
                prop_assert!(rounds < 100, "{counts:?} {wanted:?} {actions:?}");
                let stale_gone = actions.retire.min(counts.stale);
                counts.warm += actions.prepare - actions.retire;
                counts.stale -= stale_gone;
                counts.room += actions.retire - actions.prepare;
            }
            prop_assert!(counts.warm <= wanted.max);
            prop_assert!(counts.warm - counts.stale >= min || counts.room == 0);
        }
    }
}
