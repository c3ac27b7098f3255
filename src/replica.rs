//! A running process as the database knows it.
//!
//! Invariant: **a claim is valid while its claimant is registered.** A replica beats; whoever finds another's beat too old
//! deletes its registration, and rows claimed by unregistered replicas are [taken back](crate::take_back). A replica that was stopped and
//! wakes again finds itself unregistered: its writes name claimant and attempt, touch no row, and it lets go. Before that
//! it must not reach out either: it sends only while its last beat is younger than half of the expiry
//! ([`Replica::may_send`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{PgPool, Row};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::App;
use crate::eyes::metrics;

#[derive(Debug)]
struct Inner {
    id: i64,
    worker: bool,
    expiry: Duration,
    born: Instant,
    /// Milliseconds after `born` at which the last successful beat began.
    beat: AtomicU64,
    /// Registered workers, this one included.
    workers: AtomicI64,
    lost: CancellationToken,
}

/// This process' registration; cheap to clone.
#[derive(Debug, Clone)]
pub struct Replica(Arc<Inner>);

impl Replica {
    /// Registers this process. `worker` is false where it only serves HTTP.
    pub async fn register(app: &App, worker: bool) -> sqlx::Result<Self> {
        let expiry = app.config.lease;
        let born = Instant::now();
        let name = format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id());
        let id = sqlx::query_scalar(
            "insert into replicas (name, worker, expires_at) values ($1, $2, now() + make_interval(secs => $3)) returning id",
        )
        .bind(&name)
        .bind(worker)
        .bind(expiry.as_secs_f64())
        .fetch_one(&app.db)
        .await?;
        info!(replica.id = id, replica.name = name, worker, "registered");
        Ok(Self(Arc::new(Inner {
            id,
            worker,
            expiry,
            born,
            beat: AtomicU64::new(0),
            workers: AtomicI64::new(1),
            lost: CancellationToken::new(),
        })))
    }

    /// The claimant's name in `claimed_by`.
    pub fn id(&self) -> i64 {
        self.0.id
    }

    /// Whether calls may still go out: nobody can have taken our claims back yet, nor will before the call ends, for calls
    /// are bounded by the other half ([`Replica::call_timeout`]).
    pub fn may_send(&self) -> bool {
        let beat = Duration::from_millis(self.0.beat.load(Ordering::Relaxed));
        !self.0.lost.is_cancelled() && self.0.born.elapsed().saturating_sub(beat) < self.0.expiry / 2
    }

    /// How long a call that others must not see twice may take.
    pub fn call_timeout(&self) -> Duration {
        self.0.expiry / 2
    }

    /// Seconds without a beat after which a registration is worth nothing.
    pub fn expiry(&self) -> Duration {
        self.0.expiry
    }

    /// Registered workers, at least 1.
    pub fn workers(&self) -> i64 {
        self.0.workers.load(Ordering::Relaxed).max(1)
    }

    /// Fires when the registration is gone: all work must be let go.
    pub fn lost(&self) -> &CancellationToken {
        &self.0.lost
    }

    /// Beats until the registration is found gone.
    pub async fn keep_beating(&self, app: &App) {
        loop {
            match tokio::time::timeout(self.0.expiry / 3, self.beat(&app.db)).await {
                Ok(Ok(true)) => {
                    // A process that only listens wakes others always, for they may come any moment.
                    app.wake.set_others(!self.0.worker || self.workers() > 1);
                }
                Ok(Ok(false)) => {
                    warn!(replica.id = self.0.id, "this replica was given up for dead; letting go of all work");
                    metrics::lease_lost();
                    self.0.lost.cancel();
                    return;
                }
                Ok(Err(error)) => warn!(%error, "the replica could not beat"),
                Err(_) => warn!("the replica could not beat in time"),
            }
            tokio::time::sleep(self.0.expiry / 6).await;
        }
    }

    async fn beat(&self, db: &PgPool) -> sqlx::Result<bool> {
        let began = self.0.born.elapsed();
        let row = sqlx::query(
            "update replicas set expires_at = now() + make_interval(secs => $2) where id = $1 \
             returning (select count(*) from replicas where worker and expires_at > now()) as workers",
        )
        .bind(self.0.id)
        .bind(self.0.expiry.as_secs_f64())
        .fetch_optional(db)
        .await?;
        let Some(row) = row else { return Ok(false) };
        self.0.beat.store(began.as_millis() as u64, Ordering::Relaxed);
        self.0.workers.store(row.get("workers"), Ordering::Relaxed);
        Ok(true)
    }

    /// Ends the registration, so that others need not wait for its expiry.
    pub async fn leave(&self, db: &PgPool) {
        match sqlx::query("delete from replicas where id = $1").bind(self.0.id).execute(db).await {
            Ok(_) => info!(replica.id = self.0.id, "left"),
            Err(error) => warn!(%error, "could not leave; the registration will expire"),
        }
    }

    /// Whether this replica holds the named lease, which it takes if nobody does. It is lost with the registration.
    pub async fn holds(&self, db: &PgPool, lease: &str) -> sqlx::Result<bool> {
        // The registration is checked in the same statement: a lease of an unregistered replica would violate the key.
        let holder: Option<i64> = sqlx::query_scalar(
            "with taken as (insert into leases (name, replica_id) select $1, id from replicas where id = $2 \
             on conflict (name) do nothing returning replica_id) \
             select replica_id from taken union all select replica_id from leases where name = $1 limit 1",
        )
        .bind(lease)
        .bind(self.0.id)
        .fetch_optional(db)
        .await?;
        Ok(holder == Some(self.0.id))
    }
}
