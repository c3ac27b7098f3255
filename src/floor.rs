//! Where the free rows of a queue begin.
//!
//! A claim reads its queue from the oldest open row on. Rows that ended leave entries in that index, which Postgres skips once they are
//! known to be dead; but as long as anybody holds an old snapshot (a dump, a forgotten session), nothing is known to be dead, and
//! each claim would look at every row that ended since: after minutes it takes longer than all the rest of a message. So a
//! claim begins at a floor, below which no row was free when that was last looked at.
//!
//! Invariant: **a free row below the floor is found at the next look from the bottom**, a second later where looking is quick. There are
//! few such: updates delivered late, and what was handed back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, timeout};
use tracing::debug;

/// How often the floor is raised while rows are being claimed.
const RAISE_EVERY: Duration = Duration::from_millis(250);

/// How often it is looked from the bottom, and for which part of the time at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_SHARE: u32 = 50;

/// How long a look may take: from the bottom, with an old snapshot held, longer than any other statement.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bottom.
pub const NONE: i64 = i64::MIN;

/// What [`lowest_free`] asks of a queue.
macro_rules! lowest_free {
    ($queue:literal, $key:literal) => {
        concat!(
            "select ",
            $key,
            " from ",
            $queue,
            " where not done and claimed_by is null and bot_id = $1 and ",
            $key,
            // What is put off for long would keep the floor low; it is seen when its time comes near.
            " >= $2 and run_at < now() + interval '1 min' order by ",
            $key,
            " limit 1"
        )
    };
}

/// The inbox, by Telegram's numbers of updates.
pub const UPDATES: &str = lowest_free!("updates", "update_id");
/// Turns, by their positions.
pub const TURNS: &str = lowest_free!("turns", "position");
/// Calls to Telegram, by their numbers.
pub const OUTBOX: &str = lowest_free!("outbox", "id");

/// The lowest key of a free row of a bot's `queue` that is not below `floor`.
pub async fn lowest_free(db: &PgPool, queue: &'static str, bot_id: i64, floor: i64) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(queue).bind(bot_id).bind(floor).fetch_optional(db).await
}

/// The floor of one queue in this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Floor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    floor: AtomicI64,
    /// The highest key of the last claim that found something.
    claimed: AtomicI64,
}

impl Default for Floor {
    fn default() -> Self {
        Self(Arc::new(Inner { floor: AtomicI64::new(NONE), claimed: AtomicI64::new(NONE) }))
    }
}

impl Floor {
    /// The key from which on to claim.
    pub fn get(&self) -> i64 {
        self.0.floor.load(Ordering::Relaxed)
    }

    /// Notes the keys of claimed rows.
    pub fn claimed(&self, keys: impl IntoIterator<Item = i64>) {
        if let Some(highest) = keys.into_iter().max() {
            // Not the highest ever: Telegram's numbers begin anew, lower, after a week without updates.
            self.0.claimed.store(highest, Ordering::Relaxed);
        }
    }

    /// Keeps the floor, for ever. `lowest` reads the lowest key of a free row that is not below the given one.
    pub async fn keep<F>(&self, lowest: impl Fn(i64) -> F)
    where
        F: Future<Output = sqlx::Result<Option<i64>>>,
    {
        let (mut before, mut seen) = (NONE, NONE);
        let (mut looked, mut next_look) = (Instant::now(), Duration::ZERO);
        loop {
            tokio::time::sleep(RAISE_EVERY).await;
            let claimed = self.0.claimed.load(Ordering::Relaxed);
            let whole = looked.elapsed() >= next_look;
            if !whole && claimed == seen {
                continue;
            }
            let begun = Instant::now();
            let answer = timeout(PATIENCE, lowest(if whole { NONE } else { self.get() })).await;
            if whole {
                (looked, next_look) = (Instant::now(), LOOK_EVERY.max(begun.elapsed() * LOOK_SHARE));
            }
            // The floor stays where it is until it is known better.
            let now = match answer.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                // With nothing free, what comes is above what was there.
                Ok(lowest) => lowest.unwrap_or(claimed),
                Err(error) => {
                    debug!(%error, "it is not known where a queue begins");
                    continue;
                }
            };
            // Not above what was seen the last time: a row that was just being written may get below a newer one.
            self.0.floor.store(now.min(before), Ordering::Relaxed);
            (before, seen) = (now, claimed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Asks as often as `answers` has answers, then never again; the floors in between.
    async fn floors(floor: &Floor, answers: &[Option<i64>]) -> Vec<i64> {
        let (asked, seen) = (Cell::new(0), std::cell::RefCell::new(Vec::new()));
        let lowest = |_| {
            seen.borrow_mut().push(floor.get());
            floor.claimed(std::iter::once(1000 + asked.get() as i64));
            let answer = answers.get(asked.get()).copied();
            asked.set(asked.get() + 1);
            async move {
                match answer {
                    Some(answer) => Ok(answer),
                    None => std::future::pending().await,
                }
            }
        };
        let all_asked = async {
            while seen.borrow().len() <= answers.len() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = floor.keep(lowest) => {}
            () = all_asked => {}
        }
        seen.into_inner()
    }

    #[tokio::test]
    async fn the_floor_follows_one_look_behind_and_falls_at_once() {
        let floor = Floor::default();
        let seen = floors(&floor, &[Some(10), Some(20), Some(30), Some(5), Some(40), Some(50)]).await;
        assert_eq!(seen, [NONE, NONE, 10, 20, 5, 5, 40]);
    }

    #[tokio::test]
    async fn with_nothing_free_it_is_what_was_claimed_last() {
        let floor = Floor::default();
        let seen = floors(&floor, &[None, None, None, Some(3)]).await;
        // Nothing was claimed before the first look.
        assert_eq!(seen, [NONE, NONE, NONE, 1000, 3]);
    }
}
