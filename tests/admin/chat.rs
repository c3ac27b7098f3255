//! Talking to an agent as an administrator.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{Answer, Api};
use crate::harness::Stack;

/// The events of an answer, and what its last `id` was.
async fn events(api: &Api, agent: i64, body: Value, after: Option<i64>) -> (Vec<Value>, Option<i64>) {
    let mut request = api.request(Method::POST, &format!("/agents/{agent}/chat")).json(&body);
    if let Some(after) = after {
        request = request.header("Last-Event-ID", after);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let lines = |field: &'static str| text.lines().filter_map(move |line| line.strip_prefix(field));
    let events = lines("data: ").map(|data| serde_json::from_str(data).unwrap()).collect();
    (events, lines("id: ").next_back().map(|id| id.parse().unwrap()))
}

/// The answer's text.
fn text(events: &[Value]) -> String {
    assert_eq!(events.last().unwrap()["type"], "done");
    events.iter().filter(|event| event["type"] == "text").map(|event| event["content"].as_str().unwrap()).collect()
}

async fn told(api: &Api, agent: i64, message: &str) -> String {
    text(&events(api, agent, json!({ "message": message }), None).await.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_has_a_conversation_of_its_own_that_is_in_no_table() {
    let stack = Stack::start().await;
    let owner = stack.user(42);
    let ada = owner.creates_agent("Ada", "You count.").await;
    owner.asks("hello", "message 1 of our conversation").await;
    let turns: i64 = stack.sql("select count(*) from turns").await;
    let api = Api::of(&stack);
    let secret = api.post("/tokens", json!({"label": "other", "scope": "write"})).await.is(201)["secret"].clone();
    let other = api.with(secret.as_str().unwrap());

    assert!(told(&api, ada, "What is hush-hush?").await.contains("message 1 of our conversation"));
    assert!(told(&api, ada, "And now?").await.contains("message 2 of our conversation"));
    assert!(told(&other, ada, "hello").await.contains("message 1 of our conversation"));
    api.delete(&format!("/agents/{ada}/chat")).await.is(204);
    assert!(told(&api, ada, "hello").await.contains("message 1 of our conversation"));
    assert!(told(&other, ada, "hello").await.contains("message 2 of our conversation"));
    owner.asks("hello", "message 2 of our conversation").await;

    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, turns + 1);
    let audit = api.get("/audit").await.is(200);
    assert!(audit.to_string().contains("agent.chat") && audit.to_string().contains("agent.forget_chat"));
    assert!(!audit.to_string().contains("hush-hush"), "{audit}");
    assert_eq!(stack.errors(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_broke_off_goes_on_and_a_message_is_said_once() {
    let stack = Stack::start().await;
    let owner = stack.user(42);
    let ada = owner.creates_agent("Ada", "You count.").await;
    let api = Api::of(&stack);
    let (turn, path) = (Uuid::new_v4(), format!("/agents/{ada}/chat"));
    let said = json!({"message": "hello", "turn_id": turn});
    let (first, last) = events(&api, ada, said.clone(), None).await;
    assert!(text(&first).contains("message 1 of our conversation"));
    let again = events(&api, ada, said.clone(), None).await.0;
    assert_eq!(text(&first), text(&again));
    let (rest, _) = events(&api, ada, said.clone(), Some(last.unwrap() - 1)).await;
    assert_eq!(
        rest,
        [json!({"seq": last.unwrap(), "type": "done", "pending": first.last().unwrap()["pending"]})].map(
            |mut event| {
                if event["pending"].is_null() {
                    event.as_object_mut().unwrap().remove("pending");
                }
                event
            }
        )
    );
    let another = json!({"message": "something else", "turn_id": turn});
    assert!(api.post(&path, another).await.problem(409, "conflict").contains("This turn_id was used"));

    let resumed = async |api: &Api, body: Value| {
        Answer::of(api.request(Method::POST, &path).header("Last-Event-ID", "0").json(&body)).await
    };
    let without = resumed(&api, json!({"message": "hello"})).await;
    assert!(without.problem(409, "conflict").contains("turn_id"));
    // Turns of others have ids too; knowing one is of no use.
    let secret = api.post("/tokens", json!({"label": "other", "scope": "write"})).await.is(201)["secret"].clone();
    let other = api.with(secret.as_str().unwrap());
    let theirs = resumed(&other, said).await;
    assert!(theirs.problem(404, "not-found").contains("knows no such turn of yours"));
    let owners: Uuid = stack.sql("select id from turns order by position desc limit 1").await;
    resumed(&api, json!({"message": "hello", "turn_id": owners})).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_said_is_refused_before_anybody_is_asked() {
    let stack = Stack::start().await;
    let owner = stack.user(42);
    let ada = owner.creates_agent("Ada", "You count.").await;
    let api = Api::of(&stack);
    let path = format!("/agents/{ada}/chat");
    for message in ["", " \n", "a\0b", &"x".repeat(16_385)] {
        let refused = api.post(&path, json!({ "message": message })).await;
        assert_eq!(refused.body["errors"][0]["field"], "message");
        refused.problem(422, "invalid");
    }
    api.post(&path, json!({"message": "hi", "chat_id": "7"})).await.problem(422, "invalid");
    assert_eq!(
        api.post("/agents/999/chat", json!({"message": "hi"})).await.problem(404, "not-found"),
        "There is no agent 999."
    );
    let secret = api.post("/tokens", json!({"label": "eyes", "scope": "read"})).await.is(201)["secret"].clone();
    api.with(secret.as_str().unwrap()).post(&path, json!({"message": "hi"})).await.problem(403, "forbidden");

    sqlx::query("update agents set status = 'failed'").execute(&stack.db).await.unwrap();
    let said = api.post(&path, json!({"message": "hi"})).await.problem(409, "conflict");
    assert_eq!(said, "Ada is failed, so it can't be talked to.");
    api.delete(&path).await.problem(409, "conflict");
    sqlx::query("update agents set status = 'running', url = 'http://127.0.0.1:1'").execute(&stack.db).await.unwrap();
    let said = api.post(&path, json!({"message": "hi"})).await.problem(502, "far-side");
    assert!(said.contains("Ada did not answer") && !said.contains("127.0.0.1"), "{said}");
    assert_eq!(stack.errors(), [""; 0]);
}
