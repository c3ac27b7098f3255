//! A database that cannot be written to for a while.

use super::support::*;
use baal_protocol::TurnState;
use reqwest::StatusCode;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use uuid::Uuid;

/// Limits the size of the agent's files, in bytes; `Some(0)` makes every write fail.
fn limit_files(agent: &Agent, bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    prlimit(Some(agent.pid()), Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).expect("a limit");
}

async fn health(agent: &Agent) -> StatusCode {
    let response = agent.get("/health").send().await.expect("answer");
    let status = response.status();
    let body: Value = response.json().await.expect("json");
    assert_eq!(body["error"].is_string(), !status.is_success(), "{body}");
    status
}

#[tokio::test]
async fn a_database_that_could_not_be_written_is_used_again_when_it_can() {
    let model = Model::start().await;
    model.script(json!({"match": "before", "replies": [{"content": "kept", "delay_ms": 1500}]}));
    let agent = Agent::start_with_limitable_files(&model).await;
    let [before, during] = [Uuid::new_v4(), Uuid::new_v4()];
    let events = agent.chat(json!({"message": "before", "chat_id": "1", "turn_id": before})).await;
    model.wait_until_asked("before", 1).await;

    limit_files(&agent, Some(0));
    let body = json!({"message": "during", "chat_id": "2", "turn_id": during});
    for _ in 0..3 {
        let response = agent.post("/chat").json(&body).send().await.expect("answer");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.json::<Value>().await.expect("json")["error"].is_string());
    }
    assert_eq!(health(&agent).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(agent.status(before).await.state, TurnState::Running, "what is stored can be read");

    // Nobody needs to write for the agent to find out that it can.
    limit_files(&agent, None);
    wait_until("the agent is well", async || health(&agent).await.is_success()).await;
    assert!(text(&agent.chat(body).await.rest().await).contains("during"));
    assert_eq!(text(&events.rest().await), "kept", "the answer that came in the meantime");
}

#[tokio::test]
async fn a_database_that_fills_up_in_the_middle_of_a_change_is_used_again() {
    let model = Model::start().await;
    let agent = Agent::start_with_limitable_files(&model).await;
    agent.say("1", "hello").await;
    let log = agent.directory.path().join("agent.db-wal");
    // Some pages fit, the whole change doesn't.
    limit_files(&agent, Some(log.metadata().expect("the log").len() + 64 * 1024));
    let long = json!({"message": "x".repeat(512 * 1024), "chat_id": "1"});
    let response = agent.post("/chat").json(&long).send().await.expect("answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    // The little that is left does for a little.
    wait_until("the agent is well", async || health(&agent).await.is_success()).await;
    limit_files(&agent, None);
    // The caller hears of the failure a moment before the agent calls itself unwell, so it may be in the middle of it now.
    let again = json!({"message": "again", "chat_id": "1"});
    let taken = async || agent.post("/chat").json(&again).send().await.expect("answer").status() == StatusCode::OK;
    wait_until("a message is taken", taken).await;
    assert_eq!(agent.post("/chat").json(&long).send().await.expect("answer").status(), StatusCode::OK);
}
