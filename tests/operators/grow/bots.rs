//! Two bots on one database: each answers its own people, and they share users, agents and machines.

use crate::harness::{Simulator, Stack};

const OTHER_TOKEN: &str = "1000000002:test-token-test-token-test-token-2";

#[tokio::test(flavor = "multi_thread")]
async fn two_bots_share_a_database_and_each_answers_its_own_people() {
    let first = Stack::start().await;
    let url = first.baal(0).env()["DATABASE_URL"].clone();
    let second = Stack::builder()
        .database(&url)
        .env("TELEGRAM_BOT_TOKEN", OTHER_TOKEN)
        // Machines are shared, so both must know where they are.
        .env("LOCAL_DIR", first.dir().join("agents").display())
        .env("LIBERTAI_API_BASE_URL", format!("{}/v1", first.simulator.libertai));
    let dir = tempfile::tempdir().unwrap();
    let telegram = Simulator::of_bot(dir.path(), OTHER_TOKEN).await;
    let second = second.env("TELEGRAM_API_URL", &telegram.telegram).start().await;

    // The same person, in a chat with each: chats have the same number there.
    let (here, there) = (first.user(1), telegram.user(1));
    for round in 0..3 {
        here.says("/help").await;
        there.says("/list").await;
        here.wait_until(|all| {
            (all.iter().filter(|m| m.text.contains("What you can do here")).count() > round).then_some(())
        })
        .await;
        there
            .wait_until(|all| (all.iter().filter(|m| m.text.contains("no agents yet")).count() > round).then_some(()))
            .await;
    }
    assert!(!here.messages().await.iter().any(|m| m.is_reply() && m.text.contains("no agents yet")));
    assert!(!there.messages().await.iter().any(|m| m.is_reply() && m.text.contains("What you can do here")));

    // An agent made with one bot is told of there, and both bots lead to it.
    let ada = there.creates_agent("Ada", "You are a pirate.").await;
    let bot: i64 = first.sql("select bot_id from agents").await;
    assert_eq!(bot, 1_000_000_002);
    for (user, name) in [(&here, "first"), (&there, "second")] {
        user.says(&format!("/start agent_{ada}")).await;
        user.wait_for(|m| m.text.contains("You are talking to Ada")).await;
        user.says(&format!("Hello to the {name} bot")).await;
        user.wait_for(|m| m.is_reply() && m.text.contains("of our conversation")).await;
    }
    // A guest of the first bot may talk to it as well.
    let guest = first.user(2);
    guest.says(&format!("/start agent_{ada}")).await;
    guest.wait_for(|m| m.text.contains("You are talking to Ada")).await;
    guest.says("Hello from a guest").await;
    guest.wait_for(|m| m.is_reply() && m.text.contains("message 1 of our conversation")).await;

    first.wait_for_sql("select count(*) from updates where not done", 0i64).await;
    first.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    first.wait_for_sql("select count(*) from replicas where worker", 2i64).await;
    let wrong: i64 = first.sql("select count(*) from outbox where error is not null or uncertain").await;
    assert_eq!(wrong, 0);
    for stack in [&first, &second] {
        assert_eq!(stack.errors(), Vec::<String>::new());
    }
    for simulator in [&first.simulator, &telegram] {
        assert_eq!(simulator.get("/sim/violations").await, serde_json::json!([]));
    }
}
