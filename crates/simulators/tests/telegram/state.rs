//! The state file.

use baal_simulators::telegram::Telegram;
use serde_json::json;

use crate::harness::{Hook, Sim, TOKEN};

#[tokio::test]
async fn a_restart_keeps_chats_and_gives_no_id_twice() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("telegram.json");
    let hook = Hook::default();
    let sim = Sim::of(Telegram::load(TOKEN, "baal_bot", &state).unwrap()).await;
    let before = sim.says(1, "before").await;
    sim.telegram.save(&state, false).unwrap();
    // Given out after the last save, as by a process that is killed.
    let lost = sim.says(1, "lost").await;

    let sim = Sim::of(Telegram::load(TOKEN, "baal_bot", &state).unwrap()).await;
    let shown = sim.get("/sim/chats/1/messages").await;
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["message_id"]), (1, &before["message_id"]));
    let after = sim.says(1, "after").await;
    for id in ["message_id", "update_id"] {
        assert!(after[id].as_i64() > lost[id].as_i64(), "{id}: {after} after {lost}");
    }
    sim.ok("setWebhook", json!({ "url": hook.start().await })).await;
    hook.wait_for(2).await;
    assert_eq!(hook.texts(), ["before", "after"]);
}
