//! The places of a queue's worker: what it has claimed and not yet let go of.
//!
//! A claim whose answer is lost (a connection that breaks, a database that fails over) may have been committed: its rows
//! would be claimed by a living replica that does not know of them, for ever. So a worker knows the rows it has in hand,
//! and after a failed claim, and every minute, gives back whatever else is claimed in its name.

use std::collections::HashSet;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

const CHECK: Duration = Duration::from_secs(60);

/// After a failed claim the look is repeated this often, for this long: a database that stalls may make the claim
/// after it was given up.
const CHECK_SOON: Duration = Duration::from_secs(2);
const CHECK_FOR: Duration = Duration::from_secs(30);

/// Between two statements of a kind, such as the claims of a worker. Where much comes, each then finds more of it, for half the
/// statements; where little comes, nobody waits, for the last one was longer ago.
pub const GATHER: Duration = Duration::from_millis(3);

/// How long a worker waits for the database before it does something else.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bounds a statement in time: a connection that has gone dead without a word must not hold up a worker.
pub async fn bounded<T>(statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(PATIENCE, statement).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// The rows of keys that are (row, attempt). The attempt is in the key because the same replica may claim a row again
/// before the task that handed it back has let go of it.
pub fn ids<I>(keys: Vec<(I, i32)>) -> Vec<I> {
    keys.into_iter().map(|(id, _)| id).collect()
}

/// Tasks, each with the key of the row that it holds.
pub struct Slots<K> {
    tasks: JoinSet<()>,
    held: Held<K>,
    most: usize,
    checked: Instant,
    failed: Option<Instant>,
    /// When the last claim was answered.
    claimed: Instant,
}

/// The keys in hand; a handle for those who let go of a row later than its task ends, or take one up before.
#[derive(Debug, Clone)]
pub struct Held<K>(Arc<Hands<K>>);

#[derive(Debug)]
struct Hands<K> {
    keys: Mutex<HashSet<K>>,
    /// Whether a row may have been taken up that nobody has in hand.
    unsure: AtomicBool,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self(Arc::new(Hands { keys: Mutex::default(), unsure: AtomicBool::new(false) }))
    }
}

impl<K: Eq + Hash + Clone> Held<K> {
    /// A row that is being taken up. To be called before it is, so that it is never found claimed and not in hand; it is let go of when
    /// the guard is dropped.
    pub fn hold(&self, key: K) -> Hold<K> {
        self.lock().insert(key.clone());
        Hold { held: self.clone(), key: Some(key) }
    }

    /// This row is done with.
    pub fn let_go(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Whether this row is in hand.
    pub fn has(&self, key: &K) -> bool {
        self.lock().contains(key)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Taking rows up failed, and they may have been taken up nevertheless.
    pub fn unsure(&self) {
        self.0.unsure.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<K>> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row in hand: let go of at the end of its task, also by a panic.
#[derive(Debug)]
pub struct Hold<K: Eq + Hash + Clone> {
    held: Held<K>,
    /// Until it is kept.
    key: Option<K>,
}

impl<K: Eq + Hash + Clone> Hold<K> {
    /// The row stays in hand until somebody [lets it go](Held::let_go).
    pub fn keep(mut self) {
        self.key = None;
    }
}

impl<K: Eq + Hash + Clone> Drop for Hold<K> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.held.let_go(key);
        }
    }
}

impl<K: Eq + Hash + Clone + Send + 'static> Slots<K> {
    /// Places for `most` tasks.
    pub fn new(most: usize) -> Self {
        Self::holding(most, Held::default())
    }

    /// Places for `most` rows, where others hold rows of these, too (see [`Slots::room`]).
    pub fn holding(most: usize, held: Held<K>) -> Self {
        let now = Instant::now();
        Self { tasks: JoinSet::new(), held, most, checked: now, failed: None, claimed: now }
    }

    /// Places that are free now.
    pub fn free(&mut self) -> usize {
        self.clear();
        self.most - self.tasks.len()
    }

    /// Places that are free now, where every row in hand takes one, whoever works at it.
    pub fn room(&mut self) -> usize {
        self.clear();
        self.most.saturating_sub(self.held.count())
    }

    /// Forgets the tasks that have ended.
    fn clear(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    /// Works at a row; its key stays in hand until the task ends.
    pub fn spawn(&mut self, key: K, work: impl Future<Output = ()> + Send + 'static) {
        let hold = self.held.hold(key);
        self.tasks.spawn(async move {
            work.await;
            drop(hold);
        });
    }

    /// Works at a row; its key stays in hand until somebody [lets it go](Held::let_go).
    pub fn spawn_holding(&mut self, key: K, work: impl Future<Output = ()> + Send + 'static) {
        self.held.hold(key).keep();
        self.tasks.spawn(work);
    }

    /// Waits until a task ends, or for ever if there is none.
    pub async fn one_ends(&mut self) {
        match self.tasks.join_next().await {
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// Waits until all tasks have ended.
    pub async fn all_end(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// Makes a claim, bounded in time. `None`: it failed, and may have been made nevertheless.
    pub async fn claim<T>(
        &mut self,
        what: &'static str,
        claim: impl Future<Output = sqlx::Result<Vec<T>>>,
    ) -> Option<Vec<T>> {
        tokio::time::sleep_until(self.claimed + GATHER).await;
        let claimed = bounded(claim).await;
        self.claimed = Instant::now();
        let error = match claimed {
            Ok(rows) => return Some(rows),
            Err(error) => error,
        };
        warn!(%error, "{what} could not be claimed; trying again");
        self.failed = Some(Instant::now());
        tokio::time::sleep(Duration::from_millis(500)).await;
        None
    }

    /// After a failed claim, and now and then: what is in hand, so that whatever else is claimed in this replica's name
    /// can be given back. To be followed by [`Slots::looked`].
    pub fn due(&mut self) -> Option<Vec<K>> {
        if self.held.0.unsure.swap(false, Ordering::Relaxed) {
            self.failed = Some(Instant::now());
        }
        let every = if self.failed.is_some() { CHECK_SOON } else { CHECK };
        (self.checked.elapsed() >= every).then(|| self.held.lock().iter().cloned().collect())
    }

    /// What came of looking: how many rows were given back.
    pub fn looked(&mut self, what: &'static str, found: sqlx::Result<u64>) {
        self.checked = Instant::now();
        match found {
            Ok(strays) => {
                if strays > 0 {
                    warn!(strays, "{what} that a failed claim had taken are free again");
                }
                self.failed = self.failed.filter(|at| at.elapsed() < CHECK_FOR);
            }
            Err(error) => warn!(%error, "stray claims of {what} could not be looked for; trying again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_claim_is_looked_into_with_what_is_in_hand() {
        let mut slots = Slots::new(2);
        assert_eq!(slots.due(), None, "there is no reason to look");
        slots.spawn((1, 1), async {});
        slots.spawn_holding((2, 1), async {});
        slots.all_end().await;
        assert_eq!(slots.free(), 2);
        assert!(slots.claim("rows", async { Err::<Vec<()>, _>(sqlx::Error::PoolClosed) }).await.is_none());
        slots.checked -= CHECK_SOON;
        assert_eq!(slots.due().map(ids), Some(vec![2]), "what ended is let go of, what is held is not");
        slots.looked("rows", Ok(1));
        slots.checked -= CHECK_SOON;
        assert!(slots.due().is_some(), "the claim may yet be made");
        slots.failed = slots.failed.map(|at| at - CHECK_FOR);
        slots.looked("rows", Ok(0));
        slots.checked -= CHECK_SOON;
        assert_eq!(slots.due(), None, "it has been looked into for long enough");
    }

    #[test]
    fn a_row_claimed_again_is_in_hand_though_its_old_task_lets_go() {
        let held = Held::default();
        held.lock().extend([(7, 1), (7, 2)]);
        held.let_go(&(7, 1));
        assert_eq!(ids(held.lock().iter().copied().collect()), [7]);
        held.let_go(&(7, 2));
        assert_eq!(held.count(), 0);
    }
}
