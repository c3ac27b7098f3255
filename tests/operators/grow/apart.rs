//! `baal serve --no-worker` and `baal worker`: two processes that share the work.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use baal::config::Config;
use baal::database;
use baal::demo::supervised::{Spec, Supervised};
use baal::wake::{Queue, Wake};
use tokio_util::sync::CancellationToken;

use super::config;
use crate::harness::{DEADLINE, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_takes_in_another_answers() {
    let stack = Stack::builder().http_apart().start().await;
    let alice = stack.user(1);
    // It is the worker that tells Telegram where updates go.
    let mut worker = worker(&stack);
    alice.says("/help").await;
    alice.wait_for(|m| m.text.contains("What you can do here")).await;
    let ada = alice.creates_agent("Ada", "You are a pirate.").await;
    alice.says(&format!("/start agent_{ada}")).await;
    alice.wait_for(|m| m.text.contains("You are talking to Ada")).await;
    alice.says("What is one and one?").await;
    alice.wait_for(|m| m.text.contains("message 1 of our conversation")).await;
    stack.wait_for_sql("select count(*) from replicas where worker", 1i64).await;
    stack.wait_for_sql("select count(*) from replicas where not worker", 1i64).await;
    stack.wait_for_sql("select count(*) from pg_stat_activity where application_name = 'baal listen' and datname = current_database()", 2i64).await;
    assert!(worker.ended().unwrap().is_none());
    worker.stop().await.unwrap();
    stack.wait_for_sql("select count(*) from replicas where worker", 0i64).await;
    assert_eq!(stack.errors(), Vec::<String>::new());
}

/// A `baal worker` with the environment of the stack's first program.
fn worker(stack: &Stack) -> Supervised {
    let environment = stack.baal(0).env();
    let environment: Vec<(&str, &OsStr)> =
        environment.iter().map(|(name, value)| (name.as_str(), OsStr::new(value))).collect();
    let log = stack.dir().join("baal-worker.log");
    let worker = Supervised::spawn(&Spec {
        name: "baal worker",
        program: Path::new(env!("CARGO_BIN_EXE_baal")).as_os_str(),
        args: &["worker", "--no-migrate", "--no-env-file"].map(OsStr::new),
        env: &environment,
        log: &log,
        speaks: false,
        signal: "TERM",
        grace: Duration::from_secs(20),
    });
    worker.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_woken_by_another_process_and_not_only_by_its_poll() {
    let config = config(&[("DATABASE_URL", &crate::harness::database().await)]);
    assert_wakes(&config).await;
}

/// With a poll of an hour, only the wake-up can be what ends the wait.
pub async fn assert_wakes(config: &Config) {
    let (here, there, stop) = (Wake::default(), Wake::default(), CancellationToken::new());
    here.set_others(true);
    let pool = database::connect_lazily(config).unwrap();
    let relays = [here.clone(), there.clone()].map(|wake| {
        let (config, pool, stop) = (config.clone(), pool.clone(), stop.clone());
        tokio::spawn(async move { wake.relay(&pool, &config, &stop).await })
    });
    let woken = tokio::spawn(async move { there.wait(Queue::Updates, Duration::from_secs(3_600)).await });
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !woken.is_finished() {
        assert!(tokio::time::Instant::now() < deadline, "nobody was woken");
        // Again, because the other may not listen yet.
        here.wake(Queue::Updates);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    for relay in relays {
        relay.await.unwrap();
    }
}
