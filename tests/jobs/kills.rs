//! `baal worker` killed at every step: before its end is saved, and right after.
//!
//! Every save has to pass a gate that the test holds, and so lets the worker go on one save at a time. The gate is an
//! advisory lock, taken by a trigger: such locks are given in the order in which they were asked for, which rows are not.

use std::time::{Duration, Instant};

use baal::agents::Status;
use baal::cloud::supervisor::{self, Memory};
use rustix::process::Signal;
use sqlx::{Connection as _, PgConnection};

use crate::world::{Process, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    BeforeSave,
    AfterSave,
}

/// Saves of a provision, of a deprovision, of a stop and of a start.
const PROVISION: usize = 6;
const DEPROVISION: usize = 3;
const STOP: usize = 2;
const START: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_before_any_save_leaves_a_job_that_ends_well() {
    kill_at_every_save(Moment::BeforeSave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_after_any_save_leaves_a_job_that_ends_well() {
    kill_at_every_save(Moment::AfterSave).await;
}

async fn kill_at_every_save(moment: Moment) {
    let world = World::new().await;
    for save in 0..PROVISION {
        let agent = world.create().await.expect("created");
        kill_at(&world, save, moment).await;
        let process = world.process();
        let agent = world.wait_for(agent.id, Status::Running).await;
        assert!(world.answers(&agent).await, "{save} {moment:?}");
        assert_eq!((world.processes().len(), world.directories()), (1, 1), "{save} {moment:?}");
        assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 1);
        drop(process);

        world.delete(&agent).await.expect("deleted");
        if save < DEPROVISION {
            kill_at(&world, save, moment).await;
        }
        let process = world.process();
        world.wait_for(agent.id, Status::Deleted).await;
        assert_eq!((world.processes().len(), world.directories()), (0, 0), "{save} {moment:?}");
        assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 0);
        drop(process);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_before_any_save_leaves_an_agent_that_is_stopped_and_started_all_the_same() {
    stop_and_start_with_kills(Moment::BeforeSave).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_after_any_save_leaves_an_agent_that_is_stopped_and_started_all_the_same() {
    stop_and_start_with_kills(Moment::AfterSave).await;
}

async fn stop_and_start_with_kills(moment: Moment) {
    let (world, worker, agent) = World::with_agent().await;
    worker.stop().await;
    for save in 0..START {
        world.stop(&agent).await.expect("asked for");
        if save < STOP {
            kill_at(&world, save, moment).await;
        }
        let process = world.process();
        let stopped = world.wait_for(agent.id, Status::Stopped).await;
        assert_eq!(stopped.url, None);
        drop(process);
        // Whoever looks after agents that died does not look after these.
        supervisor::round(&world.app, &mut Memory::default()).await.expect("looked at");
        assert_eq!((world.processes().len(), world.directories()), (0, 1), "{save} {moment:?}");

        world.start(&agent).await.expect("asked for");
        kill_at(&world, save, moment).await;
        let process = world.process();
        let started = world.wait_for(agent.id, Status::Running).await;
        assert!(world.answers(&started).await, "{save} {moment:?}");
        assert_eq!((world.processes().len(), world.directories()), (1, 1), "{save} {moment:?}");
        assert_eq!(world.count("select count(*) from vms where ended_at is null").await, 1);
        drop(process);
    }
    assert_eq!(world.count("select count(*) from jobs where not done or outcome <> 'succeeded'").await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_past_its_lease_does_nothing_when_it_wakes() {
    let world = World::new().await;
    let agent = world.create().await.expect("created");
    let mut stepping = Stepping::start(&world).await;
    stepping.let_one_pass(&world).await;
    stepping.let_one_pass(&world).await;
    wait_for_waiters(&world, 1).await;
    stepping.process.signal(Signal::STOP);
    let Stepping { process: frozen, holder, next, .. } = stepping;
    holder.close().await.expect("closed");
    next.close().await.expect("closed");

    let other = world.process();
    let agent = world.wait_for(agent.id, Status::Running).await;
    world.delete(&agent).await.expect("deleted");
    world.wait_for(agent.id, Status::Deleted).await;
    let attempts = world.count("select sum(attempt) from jobs").await;
    frozen.signal(Signal::CONT);
    // Longer than anything that it could have been about to do.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((world.processes().len(), world.directories()), (0, 0));
    assert_eq!(world.agent(agent.id).await.status, Status::Deleted);
    assert_eq!(world.count("select sum(attempt) from jobs").await, attempts);
    drop((frozen, other));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_listens_elsewhere_than_its_row_says_is_asked_there() {
    let world = World::new().await;
    let agent = world.create().await.expect("created");
    // The fourth save is that of its start.
    kill_at(&world, 3, Moment::AfterSave).await;
    assert_eq!(world.processes().len(), 1);
    sqlx::query("update vms set data = data || '{\"port\": 9}'").execute(&world.app.db).await.expect("changed");
    let process = world.process();
    let agent = world.wait_for(agent.id, Status::Running).await;
    assert!(world.answers(&agent).await);
    assert_eq!(world.processes().len(), 1);
    drop(process);
    world.end().await;
}

/// Starts a worker and kills it at the job's `save`th save.
async fn kill_at(world: &World, save: usize, moment: Moment) {
    let mut stepping = Stepping::start(world).await;
    for _ in 0..save {
        stepping.let_one_pass(world).await;
    }
    wait_for_waiters(world, 1).await;
    if moment == Moment::AfterSave {
        stepping.let_one_pass(world).await;
    }
    let Stepping { process, holder, next, .. } = stepping;
    drop(process);
    holder.close().await.expect("closed");
    next.close().await.expect("closed");
}

/// A worker that waits before each of its saves.
struct Stepping {
    process: Process,
    holder: PgConnection,
    next: PgConnection,
}

impl Stepping {
    async fn start(world: &World) -> Self {
        let (mut holder, next) = (world.conn().await, world.conn().await);
        sqlx::raw_sql(GATE).execute(&mut holder).await.expect("there is a gate");
        hold(&mut holder).await;
        Self { process: world.process(), holder, next }
    }

    async fn let_one_pass(&mut self, world: &World) {
        wait_for_waiters(world, 1).await;
        // First to the worker, then to us again: its next save comes behind us.
        let release = async {
            wait_for_waiters(world, 2).await;
            sqlx::query("rollback").execute(&mut self.holder).await.expect("released");
        };
        tokio::join!(hold(&mut self.next), release);
        std::mem::swap(&mut self.holder, &mut self.next);
    }
}

/// Saves name these columns; claims and their returns do not.
const GATE: &str = "
    create or replace function pass_the_gate() returns trigger language plpgsql as
      $$ begin perform pg_advisory_xact_lock(4711); return new; end $$;
    create or replace trigger gate before update of step, state, done on jobs
      for each row execute function pass_the_gate();";

async fn hold(conn: &mut PgConnection) {
    sqlx::query("begin").execute(&mut *conn).await.expect("begun");
    sqlx::query("select pg_advisory_xact_lock(4711)").execute(conn).await.expect("held");
}

/// Waits until so many sessions (workers and we) wait at the gate.
async fn wait_for_waiters(world: &World, count: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let waiters = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                    where d.datname = current_database() and l.locktype = 'advisory' and l.objid = 4711 and not l.granted";
    while world.count(waiters).await < count {
        let jobs = "select string_agg(format('%s %s %s', step, claimed_by, outcome), ', ') from jobs";
        let jobs: Option<String> = sqlx::query_scalar(jobs).fetch_one(&world.app.db).await.expect("reads");
        assert!(Instant::now() < deadline, "nobody waits at the gate: {jobs:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
