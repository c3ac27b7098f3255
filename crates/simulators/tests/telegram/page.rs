//! The chat page.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::Sim;

#[tokio::test]
async fn the_page_is_one_document_that_loads_nothing_from_elsewhere() {
    let sim = Sim::start().await;
    let response = sim.http.get(format!("{}/?user=2&start=agent_1", sim.url)).send().await.unwrap();
    assert!(response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let page = response.text().await.unwrap();
    for part in ["id=\"composer\"", "id=\"send\"", "id=\"typing\"", "id=\"toast\"", "from-bot", "callbackData"] {
        assert!(page.contains(part), "{part} is missing");
    }
    for elsewhere in ["http://", "https://", "src=\"//", "@import", "/*STYLE*/", "/*SCRIPT*/"] {
        assert!(!page.contains(elsewhere), "{elsewhere} is in the page");
    }
}

#[tokio::test]
async fn whoever_watches_a_chat_sees_a_snapshot_and_then_every_change() {
    let sim = Sim::start().await;
    sim.says(1, "before").await;
    let response = sim.http.get(format!("{}/sim/chats/1/events", sim.url)).send().await.unwrap();
    let mut bytes = response.bytes_stream();
    let id = sim.ok("sendMessage", json!({ "chat_id": 1, "text": "one" })).await["message_id"].clone();
    sim.ok("sendChatAction", json!({ "chat_id": 1, "action": "typing" })).await;
    sim.ok("editMessageText", json!({ "chat_id": 1, "message_id": id, "text": "two" })).await;
    sim.ok("deleteMessage", json!({ "chat_id": 1, "message_id": id })).await;
    let mut received = String::new();
    let events = loop {
        received.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
        let events: Vec<Value> = received
            .split_inclusive("\n\n")
            .filter(|event| event.ends_with("\n\n"))
            .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
            .collect();
        if events.len() >= 5 {
            break events;
        }
    };
    let kinds: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["snapshot", "message", "action", "edited", "deleted"]);
    assert_eq!(events[0]["messages"][0]["text"], "before");
    assert_eq!(events[3]["message"]["text"], "two");
}
