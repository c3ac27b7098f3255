//! Replicas that are killed, frozen and doubled: nothing is lost, nothing is done twice.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::count::{self, counts, words};
use crate::harness::{Message, Stack};
use crate::updates::{SECRET, deliver, update};

const USERS: i64 = 20;
const MESSAGES: usize = 10;

/// An agent of user 1 that all users are talking to.
async fn with_agent(stack: &Stack, pace: Value) -> i64 {
    stack.simulator.post("/sim/webhook", json!({"retry_base_ms": 20})).await;
    let agent = stack.user(1).creates_agent("Ada", "You count.").await;
    stack.simulator.tell_model("/sim/pace", pace).await;
    for id in 1..=USERS {
        stack.user(id).says(&format!("/start agent_{agent}")).await;
    }
    for id in 1..=USERS {
        stack.user(id).wait_for(|m| m.text.contains("You are talking to Ada")).await;
    }
    agent
}

async fn assert_nothing_lost_nothing_twice(stack: &Stack, users: i64, per_user: usize) {
    count::assert_nothing_lost_nothing_twice(&stack.simulator, &stack.db, users, per_user).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_while_twenty_users_talk_lose_and_double_nothing() {
    let stack = Stack::builder().env("LEASE_SECONDS", 2).start().await;
    with_agent(&stack, json!({"first_ms": 60, "piece_ms": 15})).await;
    let talking = async {
        for number in 1..=MESSAGES {
            for user in 1..=USERS {
                stack.user(user).says(&words(user, number)).await;
                tokio::time::sleep(Duration::from_millis(75)).await;
            }
        }
    };
    let killing = async {
        for round in 0..20u64 {
            // Spread over the program's start, its work and its rest.
            tokio::time::sleep(Duration::from_millis(150 + 97 * round % 1_000)).await;
            stack.baal(0).kill9();
            stack.baal(0).launch();
        }
    };
    tokio::join!(talking, killing);
    assert_nothing_lost_nothing_twice(&stack, USERS, MESSAGES).await;
    stack.wait_for_sql("select count(*) from replicas", 1i64).await;
    let reclaimed: i64 = stack.sql("select count(*) from turns where reclaims > 0").await;
    let uncertain: i64 = stack.sql("select count(*) from outbox where uncertain").await;
    println!("{reclaimed} turns went on after a kill, {uncertain} sends were in flight at one");
    assert!(reclaimed > 0, "the kills hit nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_frozen_past_its_lease_does_nothing_twice_when_it_wakes() {
    let stack = Stack::builder().replicas(2).env("LEASE_SECONDS", 2).start().await;
    with_agent(&stack, json!({"first_ms": 300, "piece_ms": 60})).await;
    for round in 0..3usize {
        for user in 1..=USERS {
            stack.user(user).says(&words(user, round + 1)).await;
        }
        tokio::time::sleep(Duration::from_millis(200 + 300 * round as u64)).await;
        stack.baal(0).sigstop();
        tokio::time::sleep(Duration::from_secs(5)).await;
        stack.baal(0).sigcont();
    }
    assert_nothing_lost_nothing_twice(&stack, USERS, 3).await;
    // What the frozen one would still do, it would do now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_nothing_lost_nothing_twice(&stack, USERS, 3).await;
    stack.wait_for_sql("select count(*) from replicas", 2i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_work_and_do_nothing_twice() {
    let stack = Stack::builder().replicas(2).start().await;
    with_agent(&stack, json!({"first_ms": 0, "piece_ms": 0})).await;
    // As behind a load balancer: each user's updates arrive at either replica.
    for number in 1..=MESSAGES {
        let deliveries = (1..=USERS).map(|user| {
            let id = 900_000_000 + number as i64 * 1_000 + user;
            deliver(stack.baal((user % 2) as usize), Some(SECRET), update(id, user, &words(user, number)).to_string())
        });
        for status in join_all(deliveries).await {
            assert_eq!(status, 200);
        }
    }
    assert_nothing_lost_nothing_twice(&stack, USERS, MESSAGES).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where attempt <> 1").await, 0, "turns claimed twice");
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where attempt <> 1").await, 0, "calls claimed twice");
    assert_eq!(stack.sql::<i64>("select count(*) from updates where attempt <> 1").await, 0, "updates claimed twice");
    for index in 0..2 {
        let log = std::fs::read_to_string(stack.dir().join(format!("baal-{index}.log"))).unwrap();
        assert!(log.contains("update handled"), "replica {index} had no share of the updates");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_telegram_is_recorded_as_uncertain_and_the_message_sent_again() {
    let stack = Stack::start().await;
    let alice = stack.user(1);
    alice.says("/start").await;
    alice.wait_for(|m| m.text.contains("Hello")).await;
    stack.simulator.post("/sim/faults", json!([{"method": "sendMessage", "times": 1, "kind": "drop_after"}])).await;
    alice.says("/help").await;
    let helps = |messages: &[Message]| messages.iter().filter(|m| m.text.contains("What you can do here")).count();
    alice.wait_until(|messages| (helps(messages) == 2).then_some(())).await;
    stack.wait_for_sql("select count(*) from outbox where uncertain and done and error is null", 1i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telegrams_refusals_delay_a_chat_and_lose_nothing() {
    let stack = Stack::start().await;
    let (alice, bob) = (stack.user(1), stack.user(2));
    for user in [alice, bob] {
        user.says("/start").await;
        user.wait_for(|m| m.text.contains("Hello")).await;
    }
    let faults = json!([
        {"method": "sendMessage", "chat_id": 1, "times": 1, "kind": "429", "retry_after": 2},
        {"method": "sendMessage", "chat_id": 1, "times": 1, "kind": "drop_before"},
    ]);
    stack.simulator.post("/sim/faults", faults).await;
    let began = std::time::Instant::now();
    alice.says("/help").await;
    alice.says("/list").await;
    bob.says("/help").await;
    bob.wait_for(|m| m.text.contains("What you can do here")).await;
    let messages = alice
        .wait_until(|messages| messages.last().filter(|m| m.text.contains("no agents yet")).map(|_| messages.to_vec()))
        .await;
    assert!(began.elapsed() >= Duration::from_secs(2), "retry_after was not waited for");
    let replies: Vec<_> =
        messages.iter().filter(|m| m.is_reply()).map(|m| m.text.lines().next().unwrap_or_default()).collect();
    assert_eq!(replies, ["👋 Hello Alice!", "What you can do here", "You have no agents yet."], "in order, each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_program_hands_back_its_turns_and_the_next_one_goes_on() {
    let stack = Stack::start().await;
    with_agent(&stack, json!({"first_ms": 500, "piece_ms": 80})).await;
    stack.user(1).says(&words(1, 1)).await;
    stack.wait_for_sql("select count(*) from turns where first_piece is not null and not done", 1i64).await;
    stack.baal(0).stop().await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where claimed_by is not null").await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from replicas").await, 0);
    stack.baal(0).start().await;
    stack.user(1).wait_for(|m| m.text.contains("This is message 1 of our conversation")).await;
    let asked = stack.simulator.ask_model("/sim/requests").await;
    assert_eq!(asked["by_message"][&words(1, 1)], 1);
    let answers = counts(&stack.user(1).messages().await);
    assert_eq!(answers, [1], "one message that grew, not two");
}
