//! Wake-ups for the queues' workers: in this process at once, in other replicas by a coalesced `notify`.
//!
//! A `notify` inside a writing transaction takes a global lock until that transaction's flush and halves the commit rate;
//! so writers only set a flag here, after their commit, and one task per replica sends what has gathered every 10 ms.
//! Wake-ups may be lost (a kill, a broken connection): every worker also polls.

use std::io;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::database;

/// A queue whose workers can be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The inbox.
    Updates,
    /// Users' words on their way to agents.
    Turns,
    /// Calls to Telegram.
    Outbox,
    /// Provisioning and other long work.
    Jobs,
    /// Errands of users that need a far side.
    Errands,
    /// What agents say unasked.
    Pending,
    /// Turns that are to be stopped.
    Stops,
}

const QUEUES: [Queue; 7] =
    [Queue::Updates, Queue::Turns, Queue::Outbox, Queue::Jobs, Queue::Errands, Queue::Pending, Queue::Stops];
const CHANNEL: &str = "baal_wake";
const COALESCE: Duration = Duration::from_millis(10);

/// After how much silence the listening connection is asked whether it is there, and how long it may take to say so.
const SILENCE: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Inner {
    local: [Notify; QUEUES.len()],
    /// How often each was woken.
    rung: [AtomicU64; QUEUES.len()],
    pending: AtomicU8,
    flush: Notify,
    /// Whether another replica could be waiting for what this one writes.
    others: AtomicBool,
}

/// Handle to the wake-ups; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Inner>);

impl Wake {
    /// To be called after the commit that put something into `queue`.
    pub fn wake(&self, queue: Queue) {
        self.ring(queue);
        if self.0.others.load(Ordering::Relaxed) {
            self.0.pending.fetch_or(1 << queue as u8, Ordering::Relaxed);
            self.0.flush.notify_one();
        }
    }

    /// Wakes only this process' worker: for what another replica has no part in, such as a freed slot.
    pub fn wake_here(&self, queue: Queue) {
        self.ring(queue);
    }

    fn ring(&self, queue: Queue) {
        self.0.rung[queue as usize].fetch_add(1, Ordering::Release);
        self.0.local[queue as usize].notify_one();
    }

    /// How often `queue` was woken. Whoever ends a row by a statement that tells whether others wait for that, asks before and after it:
    /// if this is not the same, what came meanwhile was not seen by the statement, and may have been claimed in vain before.
    pub fn rung(&self, queue: Queue) -> u64 {
        self.0.rung[queue as usize].load(Ordering::Acquire)
    }

    /// Says whether other replicas work, so that a lone one spares the database its notifications.
    pub fn set_others(&self, others: bool) {
        self.0.others.store(others, Ordering::Relaxed);
    }

    /// Waits for a wake-up of `queue`, but no longer than `poll` and a random bit, so that replicas do not poll in step.
    pub async fn wait(&self, queue: Queue, poll: Duration) {
        let poll = poll.mul_f64(rand::random_range(0.75..1.25));
        // silent-ok: the time-out is the poll.
        let _ = tokio::time::timeout(poll, self.0.local[queue as usize].notified()).await;
    }

    /// Carries wake-ups to and from other replicas until `stop`.
    pub async fn relay(&self, pool: &PgPool, config: &Config, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send(pool) => {}
            () = self.listen(config) => {}
        }
    }

    async fn send(&self, pool: &PgPool) {
        loop {
            self.0.flush.notified().await;
            tokio::time::sleep(COALESCE).await;
            let pending = self.0.pending.swap(0, Ordering::Relaxed);
            if pending == 0 {
                continue;
            }
            let sent = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(pending.to_string()).execute(pool);
            if let Err(error) = sent.await {
                warn!(%error, "other replicas could not be woken; their poll will find the work");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn listen(&self, config: &Config) {
        loop {
            if let Err(error) = self.listen_once(config).await {
                warn!(%error, "not listening for other replicas; polling until the database answers again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn listen_once(&self, config: &Config) -> sqlx::Result<()> {
        let mut listener = database::listener(config).await?;
        listener.listen(CHANNEL).await?;
        loop {
            // Who only listens never learns that the other side is gone without a word, so a silent connection is asked.
            let Ok(heard) = tokio::time::timeout(SILENCE, listener.recv()).await else {
                let answer = tokio::time::timeout(ANSWER_WITHIN, sqlx::query("select").execute(&mut listener)).await;
                answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                continue;
            };
            let bits: u8 = heard?.payload().parse().unwrap_or(u8::MAX);
            for queue in QUEUES {
                if bits & (1 << queue as u8) != 0 {
                    self.ring(queue);
                }
            }
        }
    }
}
