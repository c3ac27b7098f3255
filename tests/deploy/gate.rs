//! A worker that is killed around every save of a job.
//!
//! Every save of jobs of one kind has to pass a gate that the test holds, and so goes through one at a time. The gate is an
//! advisory lock, taken by a trigger: such locks are given in the order in which they were asked for, which rows are not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use baal::config::Config;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use crate::harness::Baal;

/// How long a job may take from one save to the next.
const PATIENCE: Duration = Duration::from_secs(120);

/// When a worker is killed, seen from the moment at which what a step did is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    Before,
    After,
}

/// A step, and when the worker was killed at it.
pub type Death = (String, Moment);

/// The saves of jobs of one kind.
pub struct Gate<'a> {
    kind: &'static str,
    db: &'a PgPool,
    holder: PgConnection,
    next: PgConnection,
    worker: &'a Baal,
}

impl<'a> Gate<'a> {
    /// Closes the gate. The worker must not be running; [`Gate::pass`] starts it.
    pub async fn close(kind: &'static str, db: &'a PgPool, config: &Config, worker: &'a Baal) -> Self {
        let url = config.database_url.expose_secret();
        let mut holder = PgConnection::connect(url).await.unwrap();
        let next = PgConnection::connect(url).await.unwrap();
        // Saves name these columns; claims and their returns do not.
        let gate = format!(
            "create or replace function pass_the_gate() returns trigger language plpgsql as
               $$ begin perform pg_advisory_xact_lock(4711); return new; end $$;
             create or replace trigger gate before update of step, state, done on jobs
               for each row when (new.kind = '{kind}') execute function pass_the_gate();"
        );
        sqlx::raw_sql(AssertSqlSafe(gate)).execute(&mut holder).await.unwrap();
        hold(&mut holder).await;
        Self { kind, db, holder, next, worker }
    }

    /// Lets the kind's one job go to its end, and kills the worker at each step, and each moment, that `chosen` wants, once.
    /// Gives the deaths.
    pub async fn pass(mut self, chosen: impl Fn(&Death) -> bool) -> BTreeSet<Death> {
        let mut deaths = BTreeSet::new();
        self.worker.launch();
        // Where nobody asks for the job, it begins when the pool is looked at.
        let deadline = Instant::now() + PATIENCE;
        while self.step().await.is_none() {
            assert!(Instant::now() < deadline, "there is no {} job", self.kind);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while let Some(step) = self.next_save().await {
            let death = (step.clone(), Moment::Before);
            if chosen(&death) && deaths.insert(death) {
                self.kill().await;
                continue;
            }
            self.let_one_pass().await;
            let death = (step, Moment::After);
            if chosen(&death) && deaths.insert(death) {
                self.kill().await;
            }
        }
        sqlx::raw_sql("drop trigger gate on jobs").execute(&mut self.next).await.unwrap();
        self.holder.close().await.unwrap();
        self.next.close().await.unwrap();
        deaths
    }

    /// The step whose end waits to be saved; none when the job is done.
    async fn next_save(&mut self) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let step = self.step().await?;
            if self.waiters().await > 0 {
                return Some(step);
            }
            assert!(Instant::now() < deadline, "the {} job came to no end of its step {step}", self.kind);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The step of the job that is not done.
    async fn step(&self) -> Option<String> {
        let step = "select step from jobs where kind = $1 and not done";
        sqlx::query_scalar(step).bind(self.kind).fetch_optional(self.db).await.unwrap()
    }

    async fn let_one_pass(&mut self) {
        // First to the worker, then to us again: its next save comes behind us.
        let (db, holder) = (self.db, &mut self.holder);
        let release = async {
            while waiters(db).await < 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            sqlx::query("rollback").execute(holder).await.unwrap();
        };
        tokio::join!(hold(&mut self.next), release);
        std::mem::swap(&mut self.holder, &mut self.next);
    }

    /// SIGKILL, and another worker that needn't wait until the first counts as dead.
    async fn kill(&mut self) {
        self.worker.kill9();
        // Its sessions would notice only when they had passed the gate.
        let end = "select count(pg_terminate_backend(l.pid)) from pg_locks l join pg_database d on d.oid = l.database
                    where d.datname = current_database() and l.locktype = 'advisory' and l.objid = 4711 and not l.granted";
        sqlx::query(end).execute(self.db).await.unwrap();
        while self.waiters().await > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Nor do many deaths here mean that the job is what kills workers.
        for hurry in [
            "update replicas set expires_at = now() - interval '1 s' where worker",
            "update jobs set reclaims = 0, run_at = least(run_at, now()) where not done",
        ] {
            sqlx::query(hurry).execute(self.db).await.unwrap();
        }
        self.worker.launch();
    }

    async fn waiters(&self) -> i64 {
        waiters(self.db).await
    }
}

async fn hold(conn: &mut PgConnection) {
    sqlx::query("begin").execute(&mut *conn).await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(4711)").execute(conn).await.unwrap();
}

/// Sessions, ours too, that wait at the gate.
async fn waiters(db: &PgPool) -> i64 {
    let waiters = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                    where d.datname = current_database() and l.locktype = 'advisory' and l.objid = 4711 and not l.granted";
    sqlx::query_scalar(waiters).fetch_one(db).await.unwrap()
}
