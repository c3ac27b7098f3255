//! Statements that are shared: what waits while one is under way is done by the next one, all of it together.
//!
//! A statement of many parts costs Postgres more to begin and to end than to do, and each has a commit of its own. So those who want
//! the same thing done at the same moment share one. Nobody who comes alone waits for others: only after several came together is it
//! waited a moment for more.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::database::{self, LOCK_TIMEOUT};
use crate::slots::GATHER;

/// What shares a statement at most.
const MOST: usize = 64;

/// After this long the next statement begins beside one that has not ended: it may wait for a lock that is nothing to the others.
const SLOW: Duration = Duration::from_millis(50);

/// Statements at once, where the order of what they do is of no account.
const LANES: usize = 4;

/// For how long a shared statement may wait for a lock: one row that somebody holds must not hold up all the others. Then each is done
/// alone, which waits as long as any statement.
const SHORT_WAIT: &str = "1s";

/// The `lock_timeout` of a statement that does so many things.
pub fn lock_timeout(things: usize) -> &'static str {
    if things > 1 { SHORT_WAIT } else { LOCK_TIMEOUT }
}

/// How to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// In the order in which it came: one statement at once.
    InOrder,
    /// In any order: a slow statement holds up only what it does itself. Where several came together, it is waited for more.
    Gathering,
}

/// A way to have something done together with what others want done; cheap to clone. The task behind it ends with its last handle.
#[derive(Debug)]
pub struct Together<T, R>(mpsc::Sender<Waiting<T, R>>);

/// What is to be done, and who is told what came of it.
type Waiting<T, R> = (T, oneshot::Sender<sqlx::Result<R>>);

impl<T, R> Clone for Together<T, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, R> Together<T, R>
where
    T: Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    /// Has `work` done, which answers for each thing in the order given.
    pub fn start<W, F>(sharing: Sharing, work: W) -> Self
    where
        W: Fn(Arc<[T]>) -> F + Send + Sync + 'static,
        F: Future<Output = sqlx::Result<Vec<R>>> + Send + 'static,
    {
        let (waiting, mut queue) = mpsc::channel(4 * MOST);
        let (lanes, gather) = match sharing {
            Sharing::InOrder => (1, Duration::ZERO),
            Sharing::Gathering => (LANES, GATHER),
        };
        let (work, lanes) = (Arc::new(work), Arc::new(Semaphore::new(lanes)));
        tokio::spawn(async move {
            // Never closed, so it never fails. The lane comes first: until there is one, more gathers.
            while let Ok(lane) = lanes.clone().acquire_owned().await {
                let mut batch = Vec::with_capacity(MOST);
                if queue.recv_many(&mut batch, MOST).await == 0 {
                    return;
                }
                let crowded = batch.len() > 1;
                let work = work.clone();
                let sharing = tokio::spawn(async move {
                    share(&*work, batch).await;
                    drop(lane);
                });
                // silent-ok: a slow one goes on; of one that panicked, those who wait for it are told.
                let _ = tokio::time::timeout(SLOW, sharing).await;
                if crowded {
                    tokio::time::sleep(gather).await;
                }
            }
        });
        Self(waiting)
    }

    /// Does one thing; on return it is committed, or was refused. Dropped before, it may be done all the same.
    pub async fn run(&self, thing: T) -> sqlx::Result<R> {
        let (tell, told) = oneshot::channel();
        self.0.send((thing, tell)).await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        told.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }
}

/// Does a batch. If it is refused, each thing is done alone, so that one that cannot be done harms no other.
async fn share<T, R, W, F>(work: &W, batch: Vec<Waiting<T, R>>)
where
    T: Clone,
    W: Fn(Arc<[T]>) -> F,
    F: Future<Output = sqlx::Result<Vec<R>>>,
{
    let (things, waiting): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
    let things: Arc<[T]> = things.into();
    let whole = attempt(work, things.clone()).await;
    match whole {
        Ok(answers) => waiting.into_iter().zip(answers).for_each(|(tell, answer)| give(tell, Ok(answer))),
        Err(error) if database::may_pass(&error) || things.len() == 1 => {
            // An outage is one for all; errors cannot be cloned.
            let words = error.to_string();
            let mut first = Some(error);
            for tell in waiting {
                give(tell, Err(first.take().unwrap_or_else(|| io::Error::other(words.clone()).into())));
            }
        }
        Err(_) => {
            let alone = things.iter().cloned().zip(waiting).map(|(thing, tell)| async move {
                let answer = attempt(work, Arc::from([thing])).await;
                give(tell, answer.and_then(|mut answers| answers.pop().ok_or(sqlx::Error::RowNotFound)));
            });
            // Side by side: the one that was refused may wait for a lock again.
            stream::iter(alone).buffer_unordered(LANES).collect::<()>().await;
        }
    }
}

/// Should the work panic, that is like a refusal: the next try is with less.
async fn attempt<T, R, W, F>(work: &W, things: Arc<[T]>) -> sqlx::Result<Vec<R>>
where
    W: Fn(Arc<[T]>) -> F,
    F: Future<Output = sqlx::Result<Vec<R>>>,
{
    AssertUnwindSafe(work(things)).catch_unwind().await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

fn give<R>(tell: oneshot::Sender<sqlx::Result<R>>, answer: sqlx::Result<R>) {
    // silent-ok: whoever wanted it has given up; what was done is done.
    let _ = tell.send(answer);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use futures_util::future::join_all;

    use super::*;

    /// The batches that there were.
    type Batches = Arc<Mutex<Vec<Vec<i64>>>>;

    /// Doubles numbers; batches with a 13 are refused. With the batches there were.
    fn doubling(sharing: Sharing) -> (Together<i64, i64>, Batches) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let together = Together::start(sharing, move |numbers: Arc<[i64]>| {
            noted.lock().expect("not poisoned").push(numbers.to_vec());
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                match numbers.contains(&13) {
                    true => Err(sqlx::Error::Protocol("unlucky".into())),
                    false => Ok(numbers.iter().map(|number| number * 2).collect()),
                }
            }
        });
        (together, seen)
    }

    #[tokio::test]
    async fn what_waits_while_one_is_under_way_is_done_by_the_next() {
        let (together, seen) = doubling(Sharing::InOrder);
        let answers = join_all((0..10).map(|number| together.run(number))).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..20).step_by(2).collect::<Vec<_>>());
        let batches = seen.lock().unwrap().clone();
        assert_eq!(batches.concat(), (0..10).collect::<Vec<_>>(), "in the order in which it came");
        assert!(batches.len() <= 2, "{batches:?}");
    }

    #[tokio::test]
    async fn one_that_is_refused_harms_no_other() {
        let (together, _) = doubling(Sharing::InOrder);
        let answers = join_all((10..15).map(|number| together.run(number))).await;
        let answers: Vec<Option<i64>> = answers.into_iter().map(Result::ok).collect();
        assert_eq!(answers, [Some(20), Some(22), Some(24), None, Some(28)]);
    }

    #[tokio::test]
    async fn a_statement_that_waits_holds_up_no_other() {
        let together = Together::start(Sharing::Gathering, |numbers: Arc<[i64]>| async move {
            if numbers.contains(&13) {
                std::future::pending::<()>().await;
            }
            Ok(numbers.to_vec())
        });
        let stuck = tokio::spawn({
            let together = together.clone();
            async move { together.run(13).await }
        });
        // The first is taken at once, so the second does not share its statement.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(together.run(1).await.unwrap(), 1);
        stuck.abort();
    }

    #[tokio::test]
    async fn an_outage_is_told_to_everybody_as_such() {
        let together = Together::<i64, i64>::start(Sharing::InOrder, |_| async { Err(sqlx::Error::PoolTimedOut) });
        let answers = join_all((0..3).map(|number| together.run(number))).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(database::may_pass)), "{answers:?}");
    }
}
