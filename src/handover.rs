//! Rows on their way from the statement that makes them to the worker of the same process. They come into being claimed, which spares
//! nearly every message three claims.
//!
//! Invariant: **what comes into being claimed is never taken for a stray** (see [`crate::slots`]). Its key is not known before, so whoever
//! looks for strays reads the rows first, and waits until every statement that was under way has ended: what it made is in hand by then.
//! Where nobody knows what a statement made, strays are looked for soon. Killed in between, its replica is dead, and its rows are taken
//! back as any others.

use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::slots::{Held, Hold};

/// A row's key, and the row as claimed.
type Row<K, T> = (Hold<K>, T);

/// Where rows come from; cheap to clone.
#[derive(Debug)]
pub struct Giving<K: Eq + Hash + Clone, T> {
    rows: mpsc::UnboundedSender<Row<K, T>>,
    hand: Hand<K>,
    most: usize,
}

impl<K: Eq + Hash + Clone, T> Clone for Giving<K, T> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), hand: self.hand.clone(), most: self.most }
    }
}

/// Where they go to.
#[derive(Debug)]
pub struct Taking<K: Eq + Hash + Clone, T> {
    rows: mpsc::UnboundedReceiver<Row<K, T>>,
    /// All that is in hand, what comes among it.
    pub hand: Hand<K>,
}

/// The two ends. With `most` rows in hand no more come; a few statements at once may exceed that.
pub fn handover<K: Eq + Hash + Clone, T>(most: usize) -> (Giving<K, T>, Taking<K, T>) {
    let (giving, rows) = mpsc::unbounded_channel();
    let hand = Hand { held: Held::default(), gate: Arc::default() };
    (Giving { rows: giving, hand: hand.clone(), most }, Taking { rows, hand })
}

impl<K: Eq + Hash + Clone, T> Giving<K, T> {
    /// Prepares for up to `wanted` rows that may come into being claimed, before the statement that makes them.
    pub fn prepare(&self, wanted: usize) -> Prepared<K, T> {
        let places = wanted.min(self.most.saturating_sub(self.hand.held.count()));
        // silent-ok: closed, so nothing is to come into being claimed
        let open = self.hand.gate.clone().try_read_owned().ok().filter(|_| places > 0 && !self.rows.is_closed());
        Prepared { open: open.map(|open| (self.clone(), open)), places }
    }
}

impl<K: Eq + Hash + Clone, T> Taking<K, T> {
    /// Works at each row that comes, until `stop` and until all that came is done.
    pub async fn work<F>(mut self, stop: &CancellationToken, mut work: impl FnMut(Hold<K>, T) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                Some((hold, row)) = self.rows.recv() => drop(tasks.spawn(work(hold, row))),
                Some(_) = tasks.join_next() => {}
                () = stop.cancelled() => break,
            }
        }
        // What statements make that are under way still comes, and nothing after that.
        let closed = self.hand.close().await;
        self.rows.close();
        drop(closed);
        while let Some((hold, row)) = self.rows.recv().await {
            tasks.spawn(work(hold, row));
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// Places for rows. Dropped before it is [settled](Prepared::settle), nobody knows which rows there are.
#[derive(Debug)]
pub struct Prepared<K: Eq + Hash + Clone, T> {
    /// Until it is settled.
    open: Option<(Giving<K, T>, OwnedRwLockReadGuard<()>)>,
    places: usize,
}

impl<K: Eq + Hash + Clone, T> Prepared<K, T> {
    /// How many rows may come into being claimed.
    pub fn places(&self) -> usize {
        if self.open.is_some() { self.places } else { 0 }
    }

    /// These did.
    pub fn settle(mut self, rows: impl IntoIterator<Item = (K, T)>) {
        let Some((giving, open)) = self.open.take() else { return };
        for (key, row) in rows {
            if giving.rows.send((giving.hand.held.hold(key), row)).is_err() {
                // Its worker has ended; so will its replica.
                giving.hand.held.unsure();
            }
        }
        drop(open);
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Prepared<K, T> {
    fn drop(&mut self) {
        if let Some((giving, _)) = &self.open {
            giving.hand.held.unsure();
        }
    }
}

/// What a worker has in hand, and the gate through which it comes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hand<K> {
    /// The rows.
    pub held: Held<K>,
    gate: Arc<RwLock<()>>,
}

impl<K: Eq + Hash + Clone> Hand<K> {
    /// Waits until the statements that are under way have ended. As long as the guard lives, nothing comes into being claimed.
    pub async fn close(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    /// Gives back what `claimed` reads as claimed in this replica's name and nobody has in hand. How many rows there were.
    pub async fn release_strays<F>(
        &self,
        claimed: impl Future<Output = sqlx::Result<Vec<K>>>,
        release: impl FnOnce(Vec<K>) -> F,
    ) -> sqlx::Result<u64>
    where
        F: Future<Output = sqlx::Result<u64>>,
    {
        let claimed = claimed.await?;
        drop(self.close().await);
        let strays: Vec<K> = claimed.into_iter().filter(|key| !self.held.has(key)).collect();
        if strays.is_empty() { Ok(0) } else { release(strays).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_statement_under_way_makes_is_no_stray() {
        let (giving, mut taking) = handover::<i64, &str>(8);
        let prepared = giving.prepare(1);
        // The row is committed and read as claimed; the statement's answer is still on its way.
        let hand = taking.hand.clone();
        let looking = tokio::spawn(async move {
            let mut released = Vec::new();
            let release = |strays| {
                released = strays;
                std::future::ready(Ok(1))
            };
            hand.release_strays(async { Ok(vec![7, 8]) }, release).await.unwrap();
            released
        });
        tokio::task::yield_now().await;
        assert_eq!(giving.prepare(1).places(), 0, "closed while somebody looks");
        prepared.settle([(7, "a row")]);
        assert_eq!(looking.await.unwrap(), [8]);
        let (hold, row) = taking.rows.recv().await.unwrap();
        assert!(row == "a row" && taking.hand.held.has(&7));
        drop(hold);
        assert!(!taking.hand.held.has(&7));
    }

    #[tokio::test]
    async fn no_more_come_than_there_are_places_for() {
        let (giving, taking) = handover::<i64, ()>(2);
        assert_eq!(giving.prepare(3).places(), 2);
        giving.prepare(1).settle([(1, ())]);
        assert_eq!(giving.prepare(3).places(), 1);
        let closed = taking.hand.close().await;
        assert_eq!(giving.prepare(1).places(), 0);
        drop(closed);
        giving.prepare(1).settle([(2, ())]);
        assert_eq!(giving.prepare(1).places(), 0);
    }
}
