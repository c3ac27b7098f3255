//! Faults on order.

use serde_json::{Value, json};

use crate::harness::{Sim, TOKEN};

async fn texts(sim: &Sim) -> Vec<Value> {
    sim.get("/sim/chats/1/messages").await.as_array().unwrap().iter().map(|message| message["text"].clone()).collect()
}

#[tokio::test]
async fn faults_happen_as_often_as_ordered_and_where_ordered() {
    let sim = Sim::start().await;
    sim.says(1, "a").await;
    sim.says(2, "b").await;
    let order = json!([{ "method": "sendMessage", "chat_id": 1, "times": 2, "kind": "429", "retry_after": 7 }]);
    sim.post("/sim/faults", order).await;
    let send = |chat: i64| sim.bot("sendMessage", json!({ "chat_id": chat, "text": "x" }));
    let expected = json!({
        "ok": false, "error_code": 429, "description": "Too Many Requests: retry after 7", "parameters": { "retry_after": 7 }
    });
    assert_eq!(send(1).await, (429, expected.clone()));
    assert_eq!(send(2).await.0, 200);
    assert_eq!(send(1).await, (429, expected));
    assert_eq!(send(1).await.0, 200);
    sim.post("/sim/faults", json!({ "method": "*", "kind": "502html" })).await;
    let url = format!("{}/bot{TOKEN}/getMe", sim.url);
    let response = sim.http.get(&url).send().await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(response.text().await.unwrap().contains("502 Bad Gateway"));
}

#[tokio::test]
async fn a_dropped_connection_gives_no_byte_and_only_drop_after_does_the_work() {
    let sim = Sim::start().await;
    sim.says(1, "a").await;
    let url = format!("{}/bot{TOKEN}/sendMessage", sim.url);
    for (kind, text) in [("drop_before", "lost"), ("drop_after", "kept")] {
        sim.post("/sim/faults", json!({ "method": "sendMessage", "kind": kind })).await;
        let error = sim.http.post(&url).json(&json!({ "chat_id": 1, "text": text })).send().await.unwrap_err();
        assert!(error.is_request() && error.status().is_none(), "{error:?}");
    }
    assert_eq!(texts(&sim).await, ["a", "kept"]);
    let statuses: Vec<Value> = sim
        .get("/sim/calls?method=sendMessage")
        .await
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call["status"].clone())
        .collect();
    assert_eq!(statuses, [0, 0]);
}

#[tokio::test]
async fn a_chat_has_a_budget_when_limits_are_set() {
    let sim = Sim::start().await;
    sim.says(1, "a").await;
    sim.post("/sim/limits", json!({ "per_chat_per_second": 0.01 })).await;
    let send = || sim.bot("sendMessage", json!({ "chat_id": 1, "text": "x" }));
    assert_eq!(send().await.0, 200);
    let (status, body) = send().await;
    assert_eq!(status, 429);
    assert!(body["parameters"]["retry_after"].as_u64().unwrap() > 90);
    sim.post("/sim/limits", json!({})).await;
    assert_eq!(send().await.0, 200);
}
