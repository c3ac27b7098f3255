//! A kill in the middle of a turn with tools: what was done is not done again, and what was not stored is told.

use super::support::*;
use super::tools::{bash, call, with_shell};
use baal_protocol::{EventKind, TurnState};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

fn log(agent: &Agent) -> String {
    std::fs::read_to_string(agent.directory.path().join("workspace/owner/log")).unwrap_or_default()
}

async fn killed_in_a_command(kill: impl AsyncFnOnce(&mut Agent)) {
    let model = Model::start().await;
    let list = call("list_dir", json!({}));
    model.script(json!({"replies": [
        {"content": "First this.", "tool_calls": [bash("echo one >> log; echo done")]},
        {"content": "Then that.", "tool_calls": [bash("echo two >> log; sleep 300"), list, bash("echo three >> log")]},
        {"content": "all told", "piece_delay_ms": 20}]}));
    let mut agent = with_shell(&model).await;
    let id = Uuid::new_v4();
    let body = json!({"message": "work", "chat_id": "7", "turn_id": id, "stream": true});
    let mut events = agent.chat(body.clone()).await;
    let mut seen = 0;
    while log(&agent) != "one\ntwo\n" {
        seen = tokio::time::timeout(Duration::from_millis(20), events.next())
            .await
            .map_or(seen, |event| event.map_or(seen, |event| event.seq.max(seen)));
    }
    kill(&mut agent).await;
    agent.restart().await;

    let rest = agent.events_after(id, seen).await.rest().await;
    assert_well_formed(&rest);
    assert!(rest.iter().all(|event| event.seq > seen));
    let all = agent.events_after(id, 0).await.rest().await;
    assert_well_formed(&all);
    assert_eq!(text(&all), "First this.Then that.all told");
    let used = all.iter().filter(|event| matches!(event.kind, EventKind::ToolUse { .. })).count();
    assert_eq!((used, log(&agent).as_str()), (4, "one\ntwo\n"), "nothing is repeated");
    let results = model.results();
    assert_eq!(results[0], "done\n[exit code 0]");
    assert!(
        results[1].starts_with("interrupted: ") && results[1].contains("look whether it took effect"),
        "{results:?}"
    );
    assert!(results[2].starts_with("not run: ") && results[3].starts_with("not run: "), "{results:?}");
    // Asked again it attaches.
    assert_eq!(agent.chat(body).await.rest().await.last(), all.last());
    agent.say("7", "next").await;
    assert_eq!(model.results().len(), 4);
    assert_eq!(model.sim.times_asked("work"), 3);
}

#[tokio::test]
async fn a_command_that_a_kill_interrupted_is_told_and_not_repeated() {
    killed_in_a_command(async |agent| agent.kill().await).await;
}

#[tokio::test]
async fn a_command_that_a_shutdown_interrupted_is_told_and_not_repeated() {
    killed_in_a_command(async |agent| {
        kill_process(agent.pid(), Signal::TERM).expect("signal");
        let status = tokio::time::timeout(PATIENCE, agent.process.wait()).await.expect("ends").expect("status");
        assert!(status.success());
    })
    .await;
}

#[tokio::test]
async fn a_kill_between_two_rounds_goes_on_with_the_next() {
    let model = Model::start().await;
    model.script(json!({"replies": [
        {"tool_calls": [bash("echo one >> log")]}, {"content": "half", "hang": true}, {"content": "whole"}]}));
    let mut agent = with_shell(&model).await;
    let id = Uuid::new_v4();
    let mut events = agent.chat(json!({"message": "work", "chat_id": "7", "turn_id": id, "stream": true})).await;
    while deltas(&[events.next().await.expect("an event")]).is_empty() {}
    agent.kill().await;
    agent.restart().await;
    let events = agent.events_after(id, 0).await.rest().await;
    assert_well_formed(&events);
    assert_eq!((text(&events).as_str(), log(&agent).as_str()), ("whole", "one\n"));
    assert_eq!(model.results(), ["[no output; exit code 0]"]);
}

#[tokio::test]
async fn a_cancel_during_a_command_outlives_a_kill() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"tool_calls": [bash("echo one >> log; trap '' TERM; sleep 300")]}]}));
    let mut agent = with_shell(&model).await;
    let id = Uuid::new_v4();
    drop(agent.chat(json!({"message": "work", "chat_id": "7", "turn_id": id})).await);
    wait_until("the command runs", async || !log(&agent).is_empty()).await;
    tokio::join!(agent.cancel(id), sleep(Duration::from_millis(1)));
    agent.kill().await;
    agent.restart().await;
    assert_well_formed(&agent.events_after(id, 0).await.rest().await);
    assert_eq!(agent.status(id).await.state, TurnState::Cancelled);
    agent.say("7", "next").await;
    assert_eq!((model.results().len(), log(&agent).as_str()), (1, "one\n"));
}

#[tokio::test]
async fn kills_at_any_moment_repeat_no_command_and_leave_every_history_whole() {
    let model = Model::start().await;
    let mut agent = with_shell(&model).await;
    let mut turns = Vec::new();
    for round in 0..12_u64 {
        for chat in 0..3 {
            let (id, message) = (Uuid::new_v4(), format!("{round} in {chat}"));
            let line = |n: i32| bash(&format!("echo '{message}, {n}' >> log"));
            model.script(json!({"match": message, "replies": [
                {"tool_calls": [line(1), line(2)]}, {"tool_calls": [line(3), line(4)]}, {"content": "done"}]}));
            let sender = json!({"id": 7, "name": "Zoë", "role": "owner"});
            let body = json!({"message": message, "chat_id": chat.to_string(), "turn_id": id, "sender": sender});
            drop(agent.chat(body).await);
            turns.push(id);
        }
        sleep(Duration::from_millis(round * 15)).await;
        agent.kill().await;
        agent.restart().await;
    }
    for id in turns {
        assert_well_formed(&agent.events_after(id, 0).await.rest().await);
    }
    let log = log(&agent);
    let mut lines: Vec<&str> = log.lines().collect();
    let written = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), written, "a command was repeated");
    assert!(written > 0);
    for chat in 0..3 {
        agent.say(&chat.to_string(), "how was it?").await;
    }
}
