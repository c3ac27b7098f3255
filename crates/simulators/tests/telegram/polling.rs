//! `getUpdates`.

use serde_json::json;

use crate::harness::Sim;

#[tokio::test]
async fn an_offset_confirms_what_is_below_it() {
    let sim = Sim::start().await;
    let first = sim.says(1, "one").await["update_id"].as_i64().unwrap();
    sim.says(1, "two").await;
    sim.says(2, "three").await;
    let texts = |updates: serde_json::Value| -> Vec<String> {
        updates
            .as_array()
            .unwrap()
            .iter()
            .map(|update| update["message"]["text"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(texts(sim.ok("getUpdates", json!({ "limit": 2 })).await), ["one", "two"]);
    assert_eq!(texts(sim.ok("getUpdates", json!({})).await), ["one", "two", "three"]);
    assert_eq!(texts(sim.ok("getUpdates", json!({ "offset": first + 1 })).await), ["two", "three"]);
    assert_eq!(texts(sim.ok("getUpdates", json!({ "offset": -1 })).await), ["three"]);
    assert_eq!(sim.ok("getUpdates", json!({ "offset": first + 3 })).await, json!([]));
}

#[tokio::test]
async fn a_long_poll_returns_when_something_comes() {
    let sim = Sim::start().await;
    let (updates, _) = tokio::join!(sim.ok("getUpdates", json!({ "timeout": 30 })), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        sim.says(1, "here").await
    });
    assert_eq!(updates[0]["message"]["text"], "here");
}

#[tokio::test]
async fn a_second_poll_ends_the_first_and_a_webhook_forbids_both() {
    let sim = Sim::start().await;
    let first = sim.bot("getUpdates", json!({ "timeout": 50 }));
    tokio::pin!(first);
    let (status, body) = loop {
        tokio::select! {
            ended = &mut first => break ended,
            _ = sim.bot("getUpdates", json!({})) => {}
        }
    };
    let text = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
    assert_eq!((status, body["description"].as_str()), (409, Some(text)));
    sim.ok("setWebhook", json!({ "url": "http://127.0.0.1:9/" })).await;
    let refused = sim.refused("getUpdates", json!({})).await;
    assert!(refused.starts_with("Conflict: can't use getUpdates method while webhook is active"), "{refused}");
    assert_eq!(sim.violations().await, 0);
}
