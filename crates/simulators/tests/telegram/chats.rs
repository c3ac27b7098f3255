//! Users, presses, edits, groups, files.

use serde_json::{Value, json};

use crate::harness::{Sim, TOKEN};

#[tokio::test]
async fn a_chat_shows_edits_with_their_past_and_deletions() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let id = sim.ok("sendMessage", json!({ "chat_id": 1, "text": "one" })).await["message_id"].clone();
    for text in ["two", "three"] {
        sim.ok("editMessageText", json!({ "chat_id": 1, "message_id": id, "text": text })).await;
    }
    sim.ok("deleteMessage", json!({ "chat_id": 1, "message_id": 1 })).await;
    let shown = sim.get("/sim/chats/1/messages").await;
    assert_eq!((&shown[0]["deleted"], &shown[0]["from"]["first_name"]), (&json!(true), &json!("Alice")));
    assert_eq!((&shown[1]["text"], &shown[1]["from"]["is_bot"]), (&json!("three"), &json!(true)));
    assert_eq!(shown[1]["edits"]["count"], 2);
    let past: Vec<&Value> = shown[1]["edits"]["history"].as_array().unwrap().iter().map(|was| &was["text"]).collect();
    assert_eq!(past, [&json!("one"), &json!("two")]);
    assert_eq!(sim.get("/sim/chats/1/messages?after=1").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_press_needs_its_button_unless_forged_and_is_answered_once() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    let keyboard = json!({ "inline_keyboard": [[{ "text": "b", "callback_data": "d" }]] });
    let sent = sim.ok("sendMessage", json!({ "chat_id": 1, "text": "x", "reply_markup": keyboard })).await;
    let press = |body: Value| sim.http.post(format!("{}/sim/users/1/press", sim.url)).json(&body).send();
    let id = &sent["message_id"];
    assert_eq!(press(json!({ "message_id": id, "data": "other" })).await.unwrap().status(), 409);
    assert_eq!(press(json!({ "message_id": id, "data": "other", "forge": true })).await.unwrap().status(), 200);
    let pressed: Value = press(json!({ "message_id": id, "data": "d" })).await.unwrap().json().await.unwrap();
    let answer = json!({ "callback_query_id": pressed["query_id"], "text": "done" });
    sim.ok("answerCallbackQuery", answer.clone()).await;
    assert!(sim.refused("answerCallbackQuery", answer).await.contains("query is too old"));
    let told = sim.get(&format!("/sim/callbacks/{}", pressed["query_id"].as_str().unwrap())).await;
    assert_eq!((&told["answered"], &told["text"]), (&json!(true), &json!("done")));
}

#[tokio::test]
async fn blocking_and_groups_tell_the_bot_where_it_stands() {
    let sim = Sim::start().await;
    sim.says(1, "hello").await;
    sim.post("/sim/users/1/block", json!({})).await;
    let group = sim.post("/sim/groups", json!({ "title": "Friends", "members": [1, 2] })).await["chat_id"].clone();
    sim.post(&format!("/sim/groups/{group}/messages"), json!({ "from": 2, "text": "hi all" })).await;
    sim.ok("sendMessage", json!({ "chat_id": group, "text": "hi" })).await;
    sim.ok("leaveChat", json!({ "chat_id": group })).await;
    let left = sim.refused("sendMessage", json!({ "chat_id": group, "text": "hi" })).await;
    assert_eq!(left, "Forbidden: bot is not a member of the group chat");
    let updates = sim.ok("getUpdates", json!({})).await;
    let standings: Vec<(Value, Value)> = updates
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|update| update.get("my_chat_member"))
        .map(|change| (change["chat"]["type"].clone(), change["new_chat_member"]["status"].clone()))
        .collect();
    let expected = [("private", "kicked"), ("group", "member"), ("group", "left")];
    assert_eq!(standings, expected.map(|(chat, status)| (json!(chat), json!(status))));
}

#[tokio::test]
async fn files_go_both_ways() {
    let sim = Sim::start().await;
    let document = json!({ "file_name": "a.txt", "content_base64": "aGVsbG8=" });
    sim.post("/sim/users/1/messages", json!({ "text": "look", "document": document })).await;
    let updates = sim.ok("getUpdates", json!({})).await;
    let message = &updates[0]["message"];
    assert_eq!((&message["caption"], &message["document"]["file_name"]), (&json!("look"), &json!("a.txt")));
    let file = sim.ok("getFile", json!({ "file_id": message["document"]["file_id"] })).await;
    let url = format!("{}/file/bot{TOKEN}/{}", sim.url, file["file_path"].as_str().unwrap());
    assert_eq!(sim.http.get(url).send().await.unwrap().text().await.unwrap(), "hello");
    let part = reqwest::multipart::Part::bytes(b"out".to_vec()).file_name("b.txt");
    let form = reqwest::multipart::Form::new().text("chat_id", "1").part("document", part);
    let answer: Value = sim
        .http
        .post(format!("{}/bot{TOKEN}/sendDocument", sim.url))
        .multipart(form)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(answer["result"]["document"]["file_name"], "b.txt", "{answer}");
}

#[tokio::test]
async fn a_long_text_comes_as_several_messages() {
    let sim = Sim::start().await;
    let sent = sim.says(1, &"x".repeat(5_000)).await;
    assert_eq!(sent["messages"].as_array().unwrap().len(), 2);
    let updates = sim.ok("getUpdates", json!({})).await;
    let lengths: Vec<usize> =
        updates.as_array().unwrap().iter().map(|update| update["message"]["text"].as_str().unwrap().len()).collect();
    assert_eq!(lengths, [4_096, 904]);
}
