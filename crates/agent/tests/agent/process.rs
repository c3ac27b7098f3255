//! The program itself: its configuration, its lock, its end.

use super::support::*;
use baal_protocol::LOCK_FILE;
use reqwest::StatusCode;
use rustix::process::{Signal, kill_process};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

#[tokio::test]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let model = Model::start().await;
    let mut agent = Agent::start(&model).await;
    let config = agent.directory.path().join("agent.json");
    let output = command(&config).output().await.expect("runs");
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("another agent already works on") && said.contains(&agent.address), "{said}");
    assert!(agent.say("1", "still there?").await.contains("still there?"));

    // A killed agent leaves its file, not its lock.
    agent.kill().await;
    assert!(agent.directory.path().join(LOCK_FILE).exists());
    agent.restart().await;
    agent.say("1", "again").await;
}

#[tokio::test]
async fn sigterm_ends_it_soon_even_in_a_turn_and_the_turn_goes_on_later() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"content": "cut off", "hang": true}, {"content": "after the restart"}]}));
    let mut agent = Agent::start(&model).await;
    let id = Uuid::new_v4();
    let mut events = agent.chat(json!({"message": "hi", "chat_id": "1", "turn_id": id, "stream": true})).await;
    events.next().await.expect("a piece");
    kill_process(agent.pid(), Signal::TERM).expect("signal");
    let status = timeout(Duration::from_secs(20), agent.process.wait()).await.expect("ends").expect("status");
    assert!(status.success());
    let rest = events.rest().await;
    assert!(rest.iter().all(|event| !event.kind.is_last()), "the stream ends without an end of the turn");
    agent.restart().await;
    assert_eq!(text(&agent.events_after(id, 0).await.rest().await), "after the restart");
}

#[tokio::test]
async fn check_lists_all_problems() {
    let directory = TempDir::new().expect("temp dir");
    let good = config(&directory, "http://127.0.0.1:1/v1");
    let path = write_config(&directory, &good);
    let output = command(&path).arg("--check").output().await.expect("runs");
    assert!(output.status.success());

    let mut bad = good;
    bad["port"] = json!("80");
    bad["libertai_api_base_url"] = json!("nowhere");
    bad["max_history"] = json!(0);
    bad["extra"] = json!(true);
    bad.as_object_mut().expect("object").remove("agent_secret");
    let path = write_config(&directory, &bad);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    for check in [&["--check"][..], &[]] {
        let output = command(&path).args(check).output().await.expect("runs");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for word in ["port", "libertai_api_base_url", "max_history", "extra", "agent_secret", "chmod 600"] {
            assert!(said.contains(word), "{word} is missing in: {said}");
        }
        assert!(said.contains("6 problem") && !said.contains("key-for-tests"), "{said}");
    }
}

#[tokio::test]
async fn logs_hold_no_secret_and_no_message() {
    let model = Model::start().await;
    let private = r#"data: {"choices": "a very private answer"}"#;
    model.script(json!({"replies": [{"status": 400}, {"raw": format!("{private}\n\n")}]}));
    let directory = TempDir::new().expect("temp dir");
    let path = write_config(&directory, &config(&directory, &model.base_url));
    let log = directory.path().join("log");
    let file = std::fs::File::create(&log).expect("log");
    let mut process =
        command(&path).env("LOG_FORMAT", "json").env("RUST_LOG", "debug").stderr(file).spawn().expect("spawn");
    let lock = directory.path().join(LOCK_FILE);
    wait_until("it listens", async || std::fs::read_to_string(&lock).is_ok_and(|text| text.ends_with('}'))).await;
    let lock: baal_protocol::AgentLock =
        serde_json::from_slice(&std::fs::read(&lock).expect("lock")).expect("the lock file");
    let url = format!("http://{}/chat", lock.address);
    for _ in 0..3 {
        let body = json!({"message": "a very private matter", "chat_id": "1"});
        let response = http().post(&url).bearer_auth(SECRET).json(&body).send().await.expect("answer");
        assert_eq!(response.status(), StatusCode::OK);
        response.text().await.expect("the events");
    }
    let says = |words: &str| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(words));
    wait_until("both ends are logged", async || says("turn finished") && says("turn ended with an error")).await;
    process.kill().await.expect("kill");
    let log = std::fs::read_to_string(&log).expect("log");
    // The last line may be cut off by the kill.
    assert!(log.lines().rev().skip(1).all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    assert!(log.contains("unreadable chunk"));
    for secret in [SECRET, "key-for-tests", "private matter", "private answer", "lighthouse"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
