//! Webhook delivery: order, retries, secret, what waits.

use serde_json::json;

use crate::harness::{Hook, Sim, eventually};

#[tokio::test]
async fn a_chats_updates_come_in_order_with_the_secret_and_again_until_taken() {
    let (sim, hook) = (Sim::start().await, Hook::default());
    sim.post("/sim/webhook", json!({ "retry_base_ms": 5 })).await;
    hook.answer([500, 401, 200]);
    let url = hook.start().await;
    sim.ok("setWebhook", json!({ "url": url, "secret_token": "s3cret" })).await;
    for n in 0..5 {
        sim.says(1, &format!("text {n}")).await;
    }
    hook.wait_for(7).await;
    assert_eq!(hook.texts(), ["text 0", "text 0", "text 0", "text 1", "text 2", "text 3", "text 4"]);
    assert!(hook.secrets().iter().all(|secret| secret.as_deref() == Some("s3cret")));
    let ids: Vec<i64> = hook.updates().iter().skip(2).map(|update| update["update_id"].as_i64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
}

#[tokio::test]
async fn a_stuck_chat_holds_up_itself_alone_and_not_its_users_presses() {
    let (sim, hook) = (Sim::start().await, Hook::default());
    sim.says(1, "before").await;
    let keyboard = json!({ "inline_keyboard": [[{ "text": "b", "callback_data": "d" }]] });
    let sent = sim.ok("sendMessage", json!({ "chat_id": 1, "text": "x", "reply_markup": keyboard })).await;
    *hook.stuck_chat.lock().unwrap() = Some(1);
    sim.ok("setWebhook", json!({ "url": hook.start().await, "drop_pending_updates": true })).await;
    sim.says(1, "stuck").await;
    sim.says(1, "waits").await;
    sim.says(2, "passes").await;
    sim.post("/sim/users/1/press", json!({ "message_id": sent["message_id"], "data": "d" })).await;
    hook.wait_for(3).await;
    let mut texts = hook.texts();
    texts.sort();
    assert_eq!(texts, ["passes", "stuck"]);
    assert!(hook.updates().iter().any(|update| update["callback_query"]["data"] == "d"));
    *hook.stuck_chat.lock().unwrap() = None;
    eventually(|| hook.texts().contains(&"waits".to_owned())).await;
}

#[tokio::test]
async fn updates_wait_for_a_webhook_and_its_info_tells() {
    let (sim, hook) = (Sim::start().await, Hook::default());
    sim.post("/sim/webhook", json!({ "retry_base_ms": 5 })).await;
    sim.says(1, "early").await;
    assert_eq!(sim.ok("getWebhookInfo", json!({})).await["pending_update_count"], 1);
    hook.answer(std::iter::repeat_n(503, 2));
    sim.ok("setWebhook", json!({ "url": hook.start().await })).await;
    hook.wait_for(3).await;
    let mut info = sim.ok("getWebhookInfo", json!({})).await;
    while info["pending_update_count"] != 0 {
        info = sim.ok("getWebhookInfo", json!({})).await;
    }
    assert_eq!(info["last_error_message"], "Wrong response from the webhook: 503 Service Unavailable");
}

#[tokio::test]
async fn only_the_kinds_asked_for_are_delivered() {
    let (sim, hook) = (Sim::start().await, Hook::default());
    sim.ok("setWebhook", json!({ "url": hook.start().await, "allowed_updates": ["message"] })).await;
    sim.says(1, "one").await;
    assert_eq!(sim.post("/sim/users/1/block", json!({})).await["update_id"], json!(null));
    sim.post("/sim/users/1/unblock", json!({})).await;
    sim.says(1, "two").await;
    hook.wait_for(2).await;
    assert_eq!(hook.texts(), ["one", "two"]);
}

#[tokio::test]
async fn an_update_can_be_delivered_again_and_a_raw_one_injected() {
    let (sim, hook) = (Sim::start().await, Hook::default());
    sim.ok("setWebhook", json!({ "url": hook.start().await })).await;
    let update_id = sim.says(1, "twice").await["update_id"].clone();
    hook.wait_for(1).await;
    let again = sim.post("/sim/updates", json!({ "update_id": update_id })).await;
    assert_eq!(again, json!({ "update_id": update_id, "status": 200 }));
    assert_eq!(hook.texts(), ["twice", "twice"]);
    let raw = sim.post("/sim/updates", json!({ "update": { "poll_answer": { "poll_id": "1" } } })).await;
    hook.wait_for(3).await;
    assert_eq!(hook.updates()[2], json!({ "update_id": raw["update_id"], "poll_answer": { "poll_id": "1" } }));
}
