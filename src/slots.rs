//! The places of a queue's worker: what it has claimed and not yet let go of.
//!
//! A claim whose answer is lost (a connection that breaks, a database that fails over) may have been committed: its rows
//! would be claimed by a living replica that does not know of them, for ever. So a worker knows the rows it has in hand,
//! and after a failed claim, and every minute, gives back whatever else is claimed in its name.

use std::collections::HashSet;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

const CHECK: Duration = Duration::from_secs(60);

/// How long a claim may take; one that takes longer has failed.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// Tasks, each with the key of the row that it holds.
pub struct Slots<K> {
    tasks: JoinSet<()>,
    held: Held<K>,
    most: usize,
    checked: Instant,
    failed: bool,
}

/// The keys in hand; a handle for those who let go of a row later than its task ends.
#[derive(Debug, Clone)]
pub struct Held<K>(Arc<Mutex<HashSet<K>>>);

impl<K: Eq + Hash + Clone> Held<K> {
    /// This row is done with.
    pub fn let_go(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of a row at the end of its task, also by a panic.
struct LetGo<K: Eq + Hash + Clone> {
    held: Held<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Drop for LetGo<K> {
    fn drop(&mut self) {
        self.held.let_go(&self.key);
    }
}

impl<K: Eq + Hash + Clone + Send + 'static> Slots<K> {
    /// Places for `most` tasks.
    pub fn new(most: usize) -> Self {
        Self { tasks: JoinSet::new(), held: Held(Arc::default()), most, checked: Instant::now(), failed: false }
    }

    /// Places that are free now.
    pub fn free(&mut self) -> usize {
        while self.tasks.try_join_next().is_some() {}
        self.most - self.tasks.len()
    }

    /// The keys in hand.
    pub fn held(&self) -> Held<K> {
        self.held.clone()
    }

    /// Works at a row; its key stays in hand until the task ends.
    pub fn spawn(&mut self, key: K, work: impl Future<Output = ()> + Send + 'static) {
        let guard = LetGo { held: self.held(), key: key.clone() };
        self.spawn_holding(key, async move {
            work.await;
            drop(guard);
        });
    }

    /// Works at a row; its key stays in hand until somebody [lets it go](Held::let_go).
    pub fn spawn_holding(&mut self, key: K, work: impl Future<Output = ()> + Send + 'static) {
        self.held.lock().insert(key);
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
        let error = match tokio::time::timeout(CLAIM_TIMEOUT, claim).await {
            Ok(Ok(rows)) => return Some(rows),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database did not answer in time".to_owned(),
        };
        warn!(error, "{what} could not be claimed; trying again");
        self.failed = true;
        tokio::time::sleep(Duration::from_millis(500)).await;
        None
    }

    /// After a failed claim, and now and then, gives back what is claimed in this replica's name but not in hand:
    /// `release` is told what is.
    pub async fn check<F>(&mut self, what: &'static str, release: impl FnOnce(Vec<K>) -> F)
    where
        F: Future<Output = sqlx::Result<u64>>,
    {
        if !self.failed && self.checked.elapsed() < CHECK {
            return;
        }
        let held = self.held.lock().iter().cloned().collect();
        match release(held).await {
            Ok(strays) => {
                if strays > 0 {
                    warn!(strays, "{what} that a failed claim had taken are free again");
                }
                self.failed = false;
                self.checked = Instant::now();
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
        slots.check("rows", async |_| panic!("there is no reason to look")).await;
        slots.spawn(1, async {});
        slots.spawn_holding(2, async {});
        slots.all_end().await;
        assert_eq!(slots.free(), 2);
        assert!(slots.claim("rows", async { Err::<Vec<()>, _>(sqlx::Error::PoolClosed) }).await.is_none());
        let mut held = Vec::new();
        slots
            .check("rows", |keys| {
                std::future::ready({
                    held = keys;
                    Ok(1)
                })
            })
            .await;
        assert_eq!(held, [2], "what ended is let go of, what is held is not");
        slots.check("rows", async |_| panic!("it has been looked into")).await;
    }
}
