//! One replica's turn at one step of one job: what it may use, and how it waits.
//!
//! Nothing here holds a connection or a lock while it waits, and whoever waits notices within a second or so that the job is
//! no longer wanted, no longer ours, or that this process ends.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::JobError;
use super::store::{self, Job};
use crate::app::{App, Remote};
use crate::config::CloudKind;
use crate::replica::Replica;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the database may take to say whether the job is still wanted.
const PATIENCE: Duration = Duration::from_secs(10);

/// A claimed job's step in the hands of this replica.
pub struct Turn<'a> {
    /// What every part of the program shares.
    pub app: &'a App,
    /// In whose name.
    pub replica: &'a Replica,
    /// Fires when this process ends.
    pub stop: &'a CancellationToken,
    /// As it stands.
    pub job: &'a Job,
    /// Since when.
    pub began: Instant,
}

impl Turn<'_> {
    /// Waits until this replica may act on the world: until its registration is certainly good.
    pub async fn permitted(&self) -> Result<(), JobError> {
        loop {
            if self.stop.is_cancelled() {
                return Err(JobError::Stopping);
            }
            if self.replica.lost().is_cancelled() {
                return Err(JobError::LeaseLost);
            }
            if self.replica.may_send() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether the job is still ours and still wanted. What removes is always wanted.
    async fn still_wanted(&self) -> Result<(), JobError> {
        let asked = async { store::cancel_requested(&mut *self.app.db.acquire().await?, &self.job.claim).await };
        match timeout(PATIENCE, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))? {
            None => Err(JobError::LeaseLost),
            Some(true) if !self.job.step.removes() => Err(JobError::Cancelled),
            Some(_) => self.permitted().await,
        }
    }

    /// Does this until it ends, or until it is no longer wanted; then it is dropped where it stands.
    pub async fn while_wanted<T>(&self, work: impl Future<Output = T>) -> Result<T, JobError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.stop.cancelled() => return Err(JobError::Stopping),
                () = self.replica.lost().cancelled() => return Err(JobError::LeaseLost),
                () = sleep(LOOK_EVERY) => {}
            }
            // Asked beside the work, which goes on meanwhile.
            tokio::select! {
                done = &mut work => return Ok(done),
                wanted = self.still_wanted() => wanted?,
            }
        }
    }

    /// The time, by the one clock that all replicas go by.
    pub async fn now(&self) -> sqlx::Result<DateTime<Utc>> {
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.app.db).await
    }

    /// Ways and keys to machines, if this process has any.
    pub fn remote(&self, cloud: CloudKind) -> Result<&Remote, JobError> {
        self.app.remote.as_ref().ok_or_else(|| JobError::not_ours(cloud))
    }

    /// A wait of this length, which began with the step or at `since`, whoever was at work then. But what makes something gets
    /// half of it at least: nothing is judged by time in which nobody may have worked.
    pub async fn wait(&self, since: Option<DateTime<Utc>>, limit: Duration) -> Result<Wait<'_>, JobError> {
        let passed = match since.or(self.job.state.since) {
            // By the database's clock, which wrote it.
            Some(since) => {
                let seconds: f64 = sqlx::query_scalar("select extract(epoch from clock_timestamp() - $1)::float8")
                    .bind(since)
                    .fetch_one(&self.app.db)
                    .await?;
                Duration::try_from_secs_f64(seconds).unwrap_or_default()
            }
            None => Duration::ZERO,
        };
        let excused = if self.job.step.removes() { Duration::ZERO } else { passed.saturating_sub(limit / 2) };
        Ok(Wait { turn: self, passed, excused, began: Instant::now(), limit, looked: Instant::now() })
    }
}

/// A wait whose deadline survives whoever waits.
pub struct Wait<'a> {
    turn: &'a Turn<'a>,
    /// What had passed when this turn began to wait.
    passed: Duration,
    /// Of that, what does not count.
    excused: Duration,
    began: Instant,
    limit: Duration,
    looked: Instant,
}

impl Wait<'_> {
    fn waited(&self) -> Duration {
        self.passed + self.began.elapsed()
    }

    /// What is left of the time.
    pub fn left(&self) -> Duration {
        (self.limit + self.excused).saturating_sub(self.waited())
    }

    /// Whether the time is over.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// Whether half of the time is over.
    pub fn is_half_over(&self) -> bool {
        self.left() <= self.limit / 2
    }

    /// Waits a moment, unless the job is no longer wanted or no longer ours.
    pub async fn pause(&mut self, moment: Duration) -> Result<(), JobError> {
        tokio::select! {
            () = self.turn.stop.cancelled() => return Err(JobError::Stopping),
            () = self.turn.replica.lost().cancelled() => return Err(JobError::LeaseLost),
            () = sleep(moment) => {}
        }
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.turn.still_wanted().await?;
        }
        Ok(())
    }
}
