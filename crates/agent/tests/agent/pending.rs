//! What is said unasked: kept until it is acknowledged, and waited for.

use super::support::*;
use baal_protocol::{PendingMessage, PendingMessages, PendingSource};
use reqwest::StatusCode;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

pub async fn pending(agent: &Agent, query: &str) -> PendingMessages {
    let response = agent.get(&format!("/pending{query}")).send().await.expect("answer");
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.expect("pending messages")
}

pub async fn acknowledge(agent: &Agent, body: Value) -> (StatusCode, Value) {
    let response = agent.post("/pending/ack").json(&body).send().await.expect("answer");
    (response.status(), response.json().await.expect("json"))
}

/// Puts messages where an agent that doesn't run will find them.
fn put(agent: &Agent, contents: impl IntoIterator<Item = String>) {
    let db = Connection::open(agent.directory.path().join("agent.db")).expect("opens");
    let mut insert =
        db.prepare("insert into pending (chat_id, source, content) values ('1', 'subagent', ?)").expect("a statement");
    for content in contents {
        insert.execute([content]).expect("inserts");
    }
}

async fn agent_with(contents: impl IntoIterator<Item = String>) -> (Model, Agent) {
    let model = Model::start().await;
    let mut agent = Agent::start(&model).await;
    agent.kill().await;
    put(&agent, contents);
    agent.restart().await;
    (model, agent)
}

fn contents(messages: &[PendingMessage]) -> Vec<&str> {
    messages.iter().map(|message| message.content.as_str()).collect()
}

#[tokio::test]
async fn what_was_not_acknowledged_is_there_again_also_after_a_kill() {
    let (_model, mut agent) = agent_with(["a", "b", "c"].map(String::from)).await;
    let first = pending(&agent, "?after=0").await;
    assert_eq!(contents(&first.messages), ["a", "b", "c"]);
    let PendingMessage { chat_id, source, created_at, .. } = &first.messages[0];
    assert_eq!((chat_id.as_str(), *source), ("1", PendingSource::Subagent));
    assert!(created_at.len() == "2026-11-23T10:00:00Z".len() && created_at.ends_with('Z'), "{created_at}");
    agent.kill().await;
    agent.restart().await;
    assert_eq!(pending(&agent, "?after=0").await, first);

    let second = first.messages[1].id;
    let (status, answer) = acknowledge(&agent, json!({"up_to": second})).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"status": "ok", "deleted": 2})));
    agent.kill().await;
    agent.restart().await;
    assert_eq!(contents(&pending(&agent, "?after=0").await.messages), ["c"]);
    assert_eq!(contents(&pending(&agent, &format!("?after={second}")).await.messages), ["c"]);
    assert_eq!(contents(&pending(&agent, &format!("?after={}", second + 1)).await.messages), [""; 0]);
}

#[tokio::test]
async fn a_caller_of_the_base_protocol_empties_what_it_reads() {
    let (_model, agent) = agent_with((0..150).map(|n| n.to_string())).await;
    let [first, second, third] = [pending(&agent, "").await, pending(&agent, "").await, pending(&agent, "").await];
    assert_eq!([first.messages.len(), second.messages.len(), third.messages.len()], [100, 50, 0]);
    assert_eq!(second.messages[0].content, "100");
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_never_empty_because_of_it() {
    let (_model, agent) = agent_with((0..3).map(|_| "x".repeat(800_000))).await;
    assert_eq!(pending(&agent, "?after=0").await.messages.len(), 1);
}

#[tokio::test]
async fn an_acknowledgement_for_another_database_deletes_nothing() {
    let (_model, agent) = agent_with(["a".to_owned()]).await;
    let known = pending(&agent, "?after=0").await;
    let body = json!({"up_to": 100, "database_id": uuid::Uuid::new_v4()});
    assert_eq!(acknowledge(&agent, body).await.0, StatusCode::CONFLICT);
    assert_eq!(pending(&agent, "?after=0").await, known);
    let body = json!({"up_to": known.messages[0].id, "database_id": known.database_id});
    assert_eq!(acknowledge(&agent, body).await.1["deleted"], 1);
    let (status, answer) = acknowledge(&agent, json!({"upto": 3})).await;
    assert!(status == StatusCode::BAD_REQUEST && answer["error"].is_string());
}

#[tokio::test]
async fn a_wait_ends_with_its_time_and_with_the_agent() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    for query in ["?after=x", "?after=", "?after=0&wait=soon", "?after=0&wait=-1"] {
        let response = agent.get(&format!("/pending{query}")).send().await.expect("answer");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
    }
    let began = Instant::now();
    assert_eq!(pending(&agent, "?after=0&wait=1").await.messages, []);
    assert!(began.elapsed() >= Duration::from_secs(1));

    let waiting = agent.get("/pending?after=0&wait=30").send();
    let ending = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rustix::process::kill_process(agent.pid(), rustix::process::Signal::TERM).expect("signal");
    };
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(15), async { tokio::join!(waiting, ending) })
        .await
        .expect("the shutdown ends the wait");
    assert_eq!(answer.expect("answer").json::<PendingMessages>().await.expect("json").messages, []);
}
