//! Chats to which nothing can be sent any more.

use serde_json::{Value, json};

use crate::bot::insert_agent;
use crate::files::{greet, queue, says, sent, wait_for_sent};
use crate::harness::Stack;

async fn calls(stack: &Stack, chat: i64) -> Vec<Value> {
    let calls = stack.simulator.get(&format!("/sim/calls?method=sendMessage&chat_id={chat}")).await;
    calls.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_ends_all_that_waits_for_a_chat_that_is_gone() {
    let stack = Stack::start().await;
    let rows: Vec<_> = (0..20).map(|n| says(4_000, &format!("no. {n}"))).collect();
    queue(&stack, &rows).await;
    stack.wait_for_sql("select count(*) from outbox where done and error like '%chat not found'", 20i64).await;
    assert_eq!(calls(&stack, 4_000).await.len(), 1, "Telegram was asked once");
    stack
        .wait_for_sql("select count(*) from conversations where chat_id = 4000 and unreachable_at is not null", 1i64)
        .await;

    // Whoever writes can be written to again.
    greet(&stack, &[4_000]).await;
    stack
        .wait_for_sql("select count(*) from conversations where chat_id = 4000 and unreachable_at is not null", 0i64)
        .await;
    queue(&stack, &[says(4_000, "welcome back")]).await;
    assert_eq!(wait_for_sent(&stack, 4_000, 1).await[0]["text"], "welcome back");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_blocks_the_bot_gets_nothing_that_waited_and_unblocking_it_begins_afresh() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = insert_agent(&stack, 1, "Ada", "public", "running").await;
    ann.asks(&format!("/start agent_{ada}"), "Ada").await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    // Telegram wants the chat to be left alone, and meanwhile its user goes.
    let flood = json!({"method": "sendMessage", "chat_id": 1, "times": 1, "kind": "429", "retry_after": 60});
    stack.simulator.post("/sim/faults", flood).await;
    queue(&stack, &[says(1, "one"), says(1, "two")]).await;
    stack.wait_for_sql("select count(*) from outbox where not done and error like '%wait%'", 1i64).await;
    sqlx::query(
        "with used as (insert into usage (user_id, day, messages) values (1, (now() at time zone 'utc')::date, 5))
         insert into turns (id, bot_id, chat_id, agent_id, user_id, role, kind, request, run_at, counted, attempt)
         select gen_random_uuid(), 1000000001, 1, $1, 1, 'owner', kind, '', now() + interval '1 hour', counted, attempt
           from (values ('message', 2, 0), ('message', 1, 0), ('message', 1, 1), ('forget', 0, 0), ('reset', 0, 0))
                t (kind, counted, attempt)",
    )
    .bind(ada)
    .execute(&stack.db)
    .await
    .unwrap();
    stack.simulator.post("/sim/users/1/block", json!({})).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    stack
        .wait_for_sql("select count(*) from turns where done and kind = 'message' and status = 'cancelled'", 2i64)
        .await;
    // What an agent may have begun is its to be told of, and what it is to forget it forgets.
    assert_eq!(stack.sql::<i64>("select count(*) from turns where not done").await, 3);
    assert_eq!(stack.sql::<i32>("select messages from usage").await, 2, "what waited is given back");
    let before = calls(&stack, 1).await.len();
    stack.simulator.post("/sim/users/1/unblock", json!({})).await;
    stack.wait_for_sql("select count(*) from conversations where unreachable_at is not null", 0i64).await;
    assert_eq!(calls(&stack, 1).await.len(), before);
    assert!(sent(&stack, 1).await.iter().all(|m| m["text"] != "one" && m["text"] != "two"));
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_group_that_moved_follows_it() {
    let stack = Stack::start().await;
    let group = stack.simulator.post("/sim/groups", json!({"title": "Friends", "members": [1]})).await;
    let group = group["chat_id"].as_i64().unwrap();
    stack.wait_for_sql("select count(*) from outbox where done", 1i64).await;
    let moved =
        stack.simulator.post(&format!("/sim/groups/{group}/migrate"), json!({})).await["chat_id"].as_i64().unwrap();
    stack.wait_for_sql("select count(*) from updates where done", 3i64).await;
    let before = calls(&stack, group).await.len();
    queue(&stack, &[says(group, "one"), says(group, "two \u{1f642}"), says(group, "three")]).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let messages = stack.simulator.get(&format!("/sim/chats/{moved}/messages")).await;
    let texts: Vec<&Value> = messages.as_array().unwrap().iter().map(|m| &m["text"]).collect();
    assert_eq!(texts, ["one", "two \u{1f642}", "three"]);
    assert_eq!(calls(&stack, group).await.len() - before, 1, "the others were not sent to where nobody is");
    let chats: Vec<i64> = sqlx::query_scalar("select chat_id from conversations").fetch_all(&stack.db).await.unwrap();
    assert_eq!(chats, [moved]);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_refusal_says_nothing_of_a_chat_that_is_back() {
    let stack = Stack::start().await;
    greet(&stack, &[1]).await;
    stack.simulator.post("/sim/users/1/block", json!({})).await;
    stack
        .wait_for_sql("select count(*) from conversations where chat_id = 1 and unreachable_at is not null", 1i64)
        .await;
    sqlx::query("update conversations set unreachable_at = null").execute(&stack.db).await.unwrap();
    // Telegram is slow to say that nobody is there; meanwhile somebody is.
    let slow = json!({"method": "sendMessage", "chat_id": 1, "times": 1, "kind": "delay", "ms": 1_500});
    stack.simulator.post("/sim/faults", slow).await;
    queue(&stack, &[says(1, "into the void"), says(1, "waits behind it")]).await;
    while stack.simulator.get("/sim/faults").await != json!([]) {
        tokio::time::sleep(crate::harness::POLL).await;
    }
    sqlx::query("insert into updates (bot_id, update_id, chat_id, body, done) values (1000000001, 1, 1, '', true)")
        .execute(&stack.db)
        .await
        .unwrap();
    let marked = "select count(*) from conversations where chat_id = 1 and unreachable_at is not null";
    // The next one is tried by itself, and its refusal counts.
    stack.wait_for_sql(marked, 1i64).await;
    assert_eq!(calls(&stack, 1).await.iter().filter(|call| call["status"] == 403).count(), 2);
}
