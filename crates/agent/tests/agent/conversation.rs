//! What a caller of the base protocol sees.

use super::support::*;
use baal_protocol::{ChatDeleted, EventKind, Health, Version};
use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn only_health_is_open_to_everyone() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let url = |path: &str| format!("http://{}{path}", agent.address);
    let health: Health = http().get(url("/health")).send().await.expect("answer").json().await.expect("health");
    assert_eq!(health, Health { status: "ok".into(), agent_name: "Ada".into() });

    let body = json!({"message": "hi", "chat_id": "1"});
    for secret in ["", "wrong", "agent-secret-for-test", "agent-secret-for-tests2"] {
        for request in [
            http().get(url("/version")),
            http().get(url("/pending")),
            http().get(url("/nowhere")),
            http().post(url("/chat")).json(&body),
            http().delete(url("/chat/1")),
        ] {
            let response = request.bearer_auth(secret).send().await.expect("answer");
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(response.json::<Value>().await.expect("json"), json!({"error": "unauthorized"}));
        }
    }
    let response = http().post(url("/chat")).json(&body).send().await.expect("answer");
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(model.sim.requests().len(), 0);
}

#[tokio::test]
async fn version_and_pending_answer_and_errors_are_json() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let version: Version = agent.get("/version").send().await.expect("answer").json().await.expect("version");
    assert_eq!(version.protocol, baal_protocol::PROTOCOL);
    let pending: Value = agent.get("/pending").send().await.expect("answer").json().await.expect("json");
    assert_eq!(pending["messages"], json!([]));

    let unknown = uuid::Uuid::new_v4();
    let large = json!({"message": "x".repeat(1024 * 1024), "chat_id": "1"});
    for (request, status) in [
        (agent.get("/nowhere"), StatusCode::NOT_FOUND),
        (agent.get("/chat"), StatusCode::METHOD_NOT_ALLOWED),
        (agent.get(&format!("/turns/{unknown}")), StatusCode::NOT_FOUND),
        (agent.get(&format!("/turns/{unknown}/events")), StatusCode::NOT_FOUND),
        (agent.post(&format!("/turns/{unknown}/cancel")), StatusCode::NOT_FOUND),
        (agent.get("/turns/7"), StatusCode::BAD_REQUEST),
        (agent.get("/turns/%FF"), StatusCode::BAD_REQUEST),
        (agent.get(&format!("/turns/{unknown}/events?after=1&after=2")), StatusCode::BAD_REQUEST),
        (agent.post("/turns/%FF/cancel"), StatusCode::BAD_REQUEST),
        (agent.get("/pending?after=1&after=2"), StatusCode::BAD_REQUEST),
        (agent.get("/files/%FF"), StatusCode::BAD_REQUEST),
        (agent.delete("/chat/%FF"), StatusCode::BAD_REQUEST),
        (agent.post("/chat").body("{"), StatusCode::BAD_REQUEST),
        (agent.post("/chat").json(&json!({"message": "", "chat_id": "1"})), StatusCode::BAD_REQUEST),
        (agent.post("/chat").json(&json!({"message": "x", "chat_id": 1})), StatusCode::BAD_REQUEST),
        (agent.post("/chat").json(&large), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let response = request.send().await.expect("answer");
        assert_eq!(response.status(), status);
        assert!(response.json::<Value>().await.expect("json")["error"].is_string());
    }
}

#[tokio::test]
async fn an_answer_streams_and_ends_with_the_whole_text() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"content": "one two three four five six", "piece_delay_ms": 200}]}));
    let agent = Agent::start(&model).await;
    let events = agent.chat(json!({"message": "count", "chat_id": "1", "stream": true})).await.rest().await;
    assert_well_formed(&events);
    assert_eq!(text(&events), "one two three four five six");
    // The last words may come with the whole text only.
    let pieces = deltas(&events);
    assert!(!pieces.is_empty() && text(&events).starts_with(&pieces), "{events:?}");
    let usage = events.iter().find_map(|e| match e.kind {
        EventKind::Usage { prompt_tokens, completion_tokens, .. } => Some((prompt_tokens, completion_tokens)),
        _ => None,
    });
    assert!(usage.is_some_and(|(prompt, completion)| prompt > 0 && completion > 0), "{events:?}");
    assert_eq!(events.last().map(|e| &e.kind), Some(&EventKind::Done { pending: Some(0) }));
    assert!(model.sim.violations().is_empty());
}

#[tokio::test]
async fn a_caller_of_the_base_protocol_gets_no_deltas() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let events = agent.chat(json!({"message": "hello there", "chat_id": "1"})).await.rest().await;
    assert_well_formed(&events);
    assert_eq!(deltas(&events), "");
    assert!(text(&events).contains("**Ada**") && text(&events).contains("lighthouse keeper"));
}

#[tokio::test]
async fn the_model_gets_the_history_of_its_chat_and_no_other() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    agent.say("1", "my name is Zoë").await;
    assert!(agent.say("1", "what is my name?").await.contains("**Zoë**"));
    assert!(agent.say("2", "what is my name?").await.contains("not told me"));
    let requests = model.sim.requests();
    let systems: Vec<&Value> = requests.iter().map(|request| &request["messages"][0]["content"]).collect();
    assert!(systems.iter().all(|system| *system == systems[0]), "the system message is byte-stable");
}

#[tokio::test]
async fn the_history_given_to_the_model_is_bounded() {
    let model = Model::start().await;
    let agent = Agent::start_with(&model, |config| config["max_history"] = json!(4)).await;
    for n in 1..=4 {
        agent.say("1", &format!("number {n}")).await;
    }
    // Two more were asked for in between: what to remember for good, and a summary.
    let requests = model.sim.requests();
    assert_eq!(requests.len(), 6);
    let said: Vec<&Value> = requests[5]["messages"].as_array().expect("messages").iter().map(|m| &m["role"]).collect();
    assert_eq!(said, ["system", "user", "assistant", "user"]);
    assert_eq!(requests[5]["messages"][1]["content"], "number 3");
}

#[tokio::test]
async fn a_deleted_conversation_is_forgotten() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    agent.say("admin:7", "my name is Bo").await;
    agent.say("admin:8", "my name is Cy").await;
    let gone = |n| ChatDeleted { status: "ok".into(), deleted: n };
    for wanted in [2, 0] {
        let answer = agent.delete("/chat/admin:7").send().await.expect("answer");
        assert_eq!(answer.json::<ChatDeleted>().await.expect("json"), gone(wanted));
    }
    assert!(agent.say("admin:7", "what is my name?").await.contains("not told me"));
    assert!(agent.say("admin:8", "what is my name?").await.contains("**Cy**"));
}

#[tokio::test]
async fn silence_is_filled_with_keepalives_that_are_not_kept() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"content": "at last", "delay_ms": 18_000}]}));
    let agent = Agent::start(&model).await;
    let id = uuid::Uuid::new_v4();
    let body = json!({"message": "slow", "chat_id": "1", "turn_id": id});
    let events = tokio::time::timeout(Duration::from_secs(60), agent.chat(body).await.rest()).await.expect("in time");
    assert_eq!(events[0].kind, EventKind::Keepalive);
    assert_eq!(events[0].seq, 0);
    assert_eq!(text(&events), "at last");
    let kept = agent.events_after(id, 0).await.rest().await;
    assert!(kept.iter().all(|event| event.kind != EventKind::Keepalive));
}

#[tokio::test]
async fn a_request_that_takes_too_long_may_be_sent_again() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    // The rest of the body never comes.
    let body =
        futures_util::stream::once(async { Ok::<_, std::io::Error>("{") }).chain(futures_util::stream::pending());
    let request = agent.post("/chat").body(reqwest::Body::wrap_stream(body)).send();
    let response = tokio::time::timeout(PATIENCE, request).await.expect("in time").expect("answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.json::<Value>().await.expect("json")["error"].is_string());
}
