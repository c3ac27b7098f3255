//! A user's way through the bot, by the simulator's control interface.

use serde_json::json;

use crate::harness::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_created_answers_and_survives_restarts_of_the_program() {
    let stack = Stack::start().await;
    let alice = stack.user(1);
    alice.says("/start").await;
    alice.wait_for(|m| m.text.contains("Hello")).await;
    let ada = alice.creates_agent("Ada", "You are a pirate who loves mathematics.").await;
    alice.says(&format!("/start agent_{ada}")).await;
    alice.wait_for(|m| m.text.contains("You are talking to Ada")).await;

    alice.says("What is one and one?").await;
    alice.wait_for(|m| m.text.contains("message 1 of our conversation")).await;
    stack.baal(0).restart().await;
    alice.says("And two and two?").await;
    alice.wait_for(|m| m.text.contains("message 2 of our conversation")).await;
    stack.baal(0).kill9();
    // Telegram keeps what it can't deliver.
    alice.says("And three and three?").await;
    stack.baal(0).start().await;
    alice.wait_for(|m| m.text.contains("message 3 of our conversation")).await;
    stack.wait_for_sql("select count(*) from turns where status = 'completed' and kind = 'message'", 3i64).await;
    assert_eq!(stack.simulator.get("/sim/violations").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_share_one_database() {
    let stack = Stack::builder().replicas(2).env("LEASE_SECONDS", 2).start().await;
    let bob = stack.user(2);
    bob.says("/help").await;
    bob.wait_for(|m| m.text.contains("What you can do here")).await;
    // A frozen replica doesn't hold up the other.
    stack.baal(1).sigstop();
    bob.says("/list").await;
    bob.wait_for(|m| m.text.contains("no agents yet")).await;
    stack.baal(1).sigcont();
    bob.presses("Create an agent").await;
    bob.wait_for(|m| m.text.contains("1 of 3")).await;
    let once = bob.messages().await.iter().filter(|m| m.is_reply() && m.text.contains("no agents yet")).count();
    assert!(once <= 1, "the list was sent {once} times");
}
