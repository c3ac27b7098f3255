//! What arrives at the webhook, and in which order it is handled.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Baal, Stack};

/// What Telegram presents in the tests.
pub const SECRET: &str = "test-webhook-secret";

/// An update with a text of this user.
pub fn update(id: i64, user: i64, text: &str) -> Value {
    json!({"update_id": id, "message": {"message_id": id, "date": 1_700_000_000, "text": text,
        "from": {"id": user, "is_bot": false, "first_name": "Ann"}, "chat": {"id": user, "type": "private"}}})
}

async fn post(stack: &Stack, secret: Option<&str>, body: impl Into<reqwest::Body>) -> StatusCode {
    deliver(stack.baal(0), secret, body).await
}

/// Calls a replica's webhook.
pub async fn deliver(baal: &Baal, secret: Option<&str>, body: impl Into<reqwest::Body>) -> StatusCode {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = http.post(format!("{}/telegram/webhook", baal.url())).body(body);
    if let Some(secret) = secret {
        request = request.header("x-telegram-bot-api-secret-token", secret);
    }
    request.send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_takes_what_telegram_sends_and_nothing_else() {
    let stack = Stack::start().await;
    let good = update(900_000_001, 1, "/help").to_string();
    let cases: [(&str, Option<&str>, Vec<u8>, u16); 9] = [
        ("no secret", None, good.clone().into(), 401),
        ("a wrong secret", Some("guess"), good.clone().into(), 401),
        ("a longer secret", Some("test-webhook-secret-"), good.clone().into(), 401),
        ("no body", Some(SECRET), vec![], 400),
        ("2 MiB", Some(SECRET), vec![b' '; 2 << 20], 413),
        ("2 MiB of a stranger", None, vec![b' '; 2 << 20], 401),
        ("invalid JSON", Some(SECRET), b"{\"update_id\":".to_vec(), 200),
        ("an unknown kind", Some(SECRET), json!({"update_id": 900_000_002, "chat_boost": {}}).to_string().into(), 200),
        (
            "a message of another shape",
            Some(SECRET),
            json!({"update_id": 900_000_003, "message": "?"}).to_string().into(),
            200,
        ),
    ];
    for (what, secret, body, status) in cases {
        assert_eq!(post(&stack, secret, body).await.as_u16(), status, "{what}");
    }
    stack.wait_for_sql("select count(*) from updates where done and error is not null", 3i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from updates").await, 3, "refused bodies are not kept");
    // A dead letter is there to be looked at, and nobody but the operator can.
    assert_eq!(stack.sql::<i64>("select count(*) from updates where body like 'gAAAA%'").await, 3);
    // The same bytes again are the same dead letter.
    assert_eq!(post(&stack, Some(SECRET), "{\"update_id\":").await, StatusCode::OK);
    assert_eq!(stack.sql::<i64>("select count(*) from updates").await, 3);
    assert_eq!(post(&stack, Some(SECRET), good).await, StatusCode::OK);
    stack.wait_for_sql("select count(*) from updates where done and error is null and body = ''", 1i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nul_characters_and_invalid_utf8_change_nothing() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    ann.creates_agent("Ada", "You listen.").await;
    ann.says("nul\u{0}character").await;
    ann.wait_for(|m| m.text.contains("message 1 of our conversation")).await;
    let mut body = update(900_000_001, 1, "broken ~ bytes").to_string().into_bytes();
    let tilde = body.iter().position(|b| *b == b'~').unwrap();
    body[tilde] = 0xff;
    assert_eq!(post(&stack, Some(SECRET), body).await, StatusCode::OK);
    ann.wait_for(|m| m.text.contains("message 2 of our conversation")).await;
    let asked = stack.simulator.ask_model("/sim/requests").await;
    assert_eq!(asked["by_message"]["broken \u{fffd} bytes"], 1);
    assert_eq!(stack.sql::<i64>("select count(*) from updates where error is not null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicate_and_reordered_deliveries_change_nothing() {
    let stack = Stack::start().await;
    stack.user(1).creates_agent("Ada", "You count.").await;
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 20, "piece_ms": 0})).await;
    let order = [3, 0, 7, 1, 9, 2, 8, 4, 6, 5, 5, 9, 0, 3, 1, 2, 8, 6, 7, 4];
    let deliveries =
        order.map(|n| post(&stack, Some(SECRET), update(900_000_000 + n, 1, &format!("text {n}")).to_string()));
    for status in futures_util::future::join_all(deliveries).await {
        assert_eq!(status, StatusCode::OK);
    }
    const COVERED: &str =
        "select sum(cardinality(message_ids))::int8 from turns where status = 'completed' and kind = 'message'";
    stack.wait_for_sql(COVERED, Some(10i64)).await;
    for n in order {
        assert_eq!(post(&stack, Some(SECRET), update(900_000_000 + n, 1, "changed").to_string()).await, StatusCode::OK);
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(
        stack.sql::<i64>("select sum(cardinality(message_ids))::int8 from turns where kind = 'message'").await,
        10
    );
    let asked = stack.simulator.ask_model("/sim/requests").await;
    let asked = asked["by_message"].as_object().unwrap();
    for n in 0..10 {
        let words = format!("text {n}");
        let times = asked.iter().filter(|(question, _)| question.split("\n\n").any(|said| said == words));
        assert_eq!(times.map(|(_, times)| times.as_i64().unwrap()).sum::<i64>(), 1, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_text_of_a_burst_reaches_the_agent_that_was_being_talked_to() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let first = ann.creates_agent("Ada", "You are the first.").await;
    let second = ann.creates_agent("Bea", "You are the second.").await;
    ann.says(&format!("/start agent_{first}")).await;
    ann.wait_for(|m| m.text.contains("You are talking to Ada")).await;
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 400, "piece_ms": 20})).await;
    for n in 0..10 {
        ann.says(&format!("for the first {n}")).await;
    }
    ann.says("/manage").await;
    ann.says(&format!("/start agent_{second}")).await;
    for n in 0..10 {
        ann.says(&format!("for the second {n}")).await;
    }
    // Commands are not stuck behind slow answers.
    ann.wait_for(|m| m.text.contains("You are talking to Bea")).await;
    assert!(stack.sql::<i64>("select count(*) from turns where not done").await > 1);
    const COVERED: &str =
        "select sum(cardinality(message_ids))::int8 from turns where status = 'completed' and kind = 'message'";
    stack.wait_for_sql_within(Duration::from_secs(60), COVERED, Some(20i64)).await;
    let asked = stack.simulator.ask_model("/sim/requests").await;
    let requests = asked["requests"].as_array().unwrap();
    for (name, whose) in [("Ada", "first"), ("Bea", "second")] {
        let heard: Vec<String> = requests
            .iter()
            .map(|request| request["messages"].as_array().unwrap())
            .filter(|messages| messages[0]["content"].as_str().unwrap().contains(&format!("You are {name}")))
            .flat_map(|messages| messages.last().unwrap()["content"].as_str().unwrap().split("\n\n"))
            .filter(|said| said.starts_with("for the "))
            .map(str::to_owned)
            .collect();
        let wanted: Vec<String> = (0..10).map(|n| format!("for the {whose} {n}")).collect();
        assert_eq!(heard, wanted, "what {name} heard");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_fills_the_same_inbox_on_one_replica_at_a_time() {
    let stack = Stack::builder().replicas(2).env("TELEGRAM_MODE", "polling").env("LEASE_SECONDS", 2).start().await;
    let ann = stack.user(1);
    ann.says("/start").await;
    ann.wait_for(|m| m.text.contains("Hello")).await;
    let holder: String = stack
        .sql("select r.name from leases l join replicas r on r.id = l.replica_id where l.name like 'telegram polling%'")
        .await;
    // The other takes over from whichever polls now.
    let log = std::fs::read_to_string(stack.dir().join("baal-0.log")).unwrap();
    let polls = if log.contains(&holder) { 0 } else { 1 };
    stack.baal(polls).kill9();
    ann.says("/help").await;
    ann.wait_for(|m| m.text.contains("What you can do here")).await;
    stack.wait_for_sql("select count(*) from updates where done and error is null", 2i64).await;
    let conflicts = stack.simulator.get("/sim/calls?method=getUpdates").await;
    let refused = conflicts.as_array().unwrap().iter().filter(|call| call["status"] == 409).count();
    // The killed one's long poll may still be open when the other begins.
    assert!(refused <= 2, "{refused} polls were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_told_once_that_the_bot_talks_in_private() {
    let stack = Stack::start().await;
    let group = stack.simulator.post("/sim/groups", json!({"title": "Friends", "members": [1, 2]})).await;
    let chat = group["chat_id"].as_i64().unwrap();
    for text in ["/start", "hello", "/help"] {
        stack.simulator.post(&format!("/sim/groups/{chat}/messages"), json!({"from": 1, "text": text})).await;
    }
    stack.wait_for_sql("select count(*) >= 4 from updates where done and chat_id < 0 and error is null", true).await;
    stack.wait_for_sql("select count(*) from updates where not done", 0i64).await;
    stack.wait_for_sql("select count(*) from outbox where done and error is null", 1i64).await;
    let messages = stack.simulator.get(&format!("/sim/chats/{chat}/messages")).await;
    let said = messages.as_array().unwrap().iter().filter(|m| m["from"]["is_bot"] == true).count();
    assert_eq!(said, 1);
}
