//! What works without a person: subagents, heartbeats and what they may spend.

use super::files::{call, owners, says};
use super::pending::{acknowledge, pending};
use super::support::*;
use baal_protocol::{EventKind, PendingMessage, PendingSource, TurnState};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

const HEARTBEAT: &str = "this is a heartbeat";

fn with_owner(config: &mut Value) {
    config["owner_chat_id"] = json!("1");
}

fn spawn(task: &str) -> Value {
    call("spawn", &json!({"task": task}))
}

/// Waits for messages after an id.
async fn next(agent: &Agent, after: i64) -> Vec<PendingMessage> {
    let messages = pending(agent, &format!("?after={after}&wait=30")).await.messages;
    assert!(!messages.is_empty(), "nothing came");
    messages
}

/// How often the model was asked with a message that contains this.
fn asked(model: &Model, part: &str) -> usize {
    let last_said = |request: &Value| {
        let messages = request["messages"].as_array().expect("messages").clone();
        messages.iter().rev().find(|m| m["role"] == "user").map(|m| m["content"].to_string()).unwrap_or_default()
    };
    model.sim.requests().iter().filter(|request| last_said(request).contains(part)).count()
}

#[tokio::test]
async fn a_subagent_works_beside_the_conversation_and_its_result_is_known_there() {
    let model = Model::start().await;
    model.script(
        json!({"match": "have it done", "replies": [spawn("count the lamps"), {"content": "It is under way."}]}),
    );
    model.script(json!({"match": "count the lamps", "replies": [
        call("send_file", &json!({"path": "lamps.txt"})), {"content": "There are seven lamps.", "delay_ms": 500}]}));
    let agent = Agent::start_with(&model, with_owner).await;
    std::fs::write(owners(&agent).join("lamps.txt"), "7").expect("write");
    let events = agent.chat(says("owner", "1", "have it done")).await.rest().await;
    assert_eq!(text(&events), "It is under way.");

    let file = next(&agent, 0).await.remove(0);
    assert_eq!((file.source, file.chat_id.as_str()), (PendingSource::SubagentFile, "1"));
    let Ok(EventKind::File { path, .. }) = serde_json::from_str(&file.content) else { panic!("{}", file.content) };
    let bytes = agent.get(&format!("/files/{path}")).send().await.expect("answer").text().await.expect("text");
    assert_eq!(bytes, "7");
    let result = next(&agent, file.id).await.remove(0);
    assert_eq!((result.source, result.chat_id.as_str()), (PendingSource::Subagent, "1"));
    assert!(result.content.starts_with("Subagent ") && result.content.ends_with("is done:\n\nThere are seven lamps."));

    let events = agent.chat(says("owner", "1", "well?")).await.rest().await;
    let Some(EventKind::Done { pending: Some(waiting) }) = events.last().map(|event| event.kind.clone()) else {
        panic!("{events:?}")
    };
    assert_eq!(waiting, 2);
    let messages = model.sim.requests().pop().expect("asked")["messages"].as_array().expect("messages").clone();
    let [.., before, last] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((&before["role"], &before["content"]), (&json!("assistant"), &json!(result.content)));
    assert_eq!(last["content"], "well?");
    assert_eq!(acknowledge(&agent, json!({"up_to": result.id})).await.0, StatusCode::OK);

    // It had no tool to spawn others with, and a visitor has none either.
    let offered = |part: &str| {
        let requests = model.sim.requests();
        let request =
            requests.iter().find(|request| request["messages"].to_string().contains(part)).expect("asked").clone();
        request["tools"].to_string()
    };
    assert!(offered("have it done").contains("\"spawn\"") && !offered("work on this task").contains("\"spawn\""));
    agent.chat(says("visitor", "2", "a visitor here")).await.rest().await;
    assert!(!offered("a visitor here").contains("\"spawn\""));
    assert_eq!(model.sim.violations(), Vec::<Value>::new());
}

#[tokio::test]
async fn subagents_are_bounded_survive_a_kill_and_tell_of_their_failure() {
    let model = Model::start().await;
    let agent_calls: Vec<Value> = (0..6)
        .map(|n| json!({"name": "spawn", "arguments": json!({"task": format!("task {n}")}).to_string()}))
        .collect();
    model.script(json!({"match": "do much", "replies": [{"tool_calls": agent_calls}, {"content": "ok"}]}));
    for n in 0..5 {
        let second = if n == 0 { json!({"status": 400}) } else { json!({"content": format!("result {n}")}) };
        model.script(json!({"match": format!("task {n}"), "replies": [{"hang": true}, second]}));
    }
    let mut agent = Agent::start_with(&model, with_owner).await;
    agent.chat(says("owner", "1", "do much")).await.rest().await;
    let told = model
        .sim
        .requests()
        .iter()
        .map(ToString::to_string)
        .find(|request| request.contains("5 subagents are at work"));
    assert!(told.is_some(), "the sixth is refused in words");
    // At most four at once.
    wait_until("subagents work", async || (0..5).map(|n| asked(&model, &format!("task {n}"))).sum::<usize>() == 4)
        .await;
    agent.kill().await;
    agent.restart().await;
    let mut results: Vec<String> = Vec::new();
    let mut after = 0;
    while results.len() < 4 {
        for message in next(&agent, after).await {
            after = message.id;
            results.push(message.content);
        }
    }
    // The fifth hangs, as its first answer does.
    assert!(results.iter().filter(|result| result.contains("is done:\n\nresult ")).count() >= 3, "{results:?}");
    assert!(
        results.iter().all(|result| result.contains("result ") || result.contains("could not finish")),
        "{results:?}"
    );
    assert_eq!(asked(&model, "task 5"), 0);
}

#[tokio::test]
async fn forgetting_a_conversation_stops_its_subagents_and_cancelling_one_is_told() {
    let model = Model::start().await;
    model.script(json!({"match": "begin", "replies": [spawn("hang a"), {"content": "ok"}]}));
    model.script(json!({"match": "again", "replies": [spawn("hang b"), {"content": "ok"}]}));
    model.script(json!({"match": "hang ", "replies": [{"hang": true}, {"hang": true}]}));
    let agent = Agent::start_with(&model, with_owner).await;
    let id = async |task: &str| {
        wait_until("the subagent works", async || asked(&model, task) == 1).await;
        let path = agent.directory.path().join("agent.db");
        let db = rusqlite::Connection::open(path).expect("opens");
        let newest = "select id from turns where kind = 'subagent' order by position desc limit 1";
        let id: Uuid = db.query_row(newest, [], |row| row.get(0)).expect("a subagent");
        id
    };
    agent.chat(says("owner", "1", "begin")).await.rest().await;
    let first = id("hang a").await;
    agent.delete("/chat/1").send().await.expect("answer");
    wait_until("it is cancelled", async || agent.status(first).await.state == TurnState::Cancelled).await;
    assert_eq!(pending(&agent, "?after=0").await.messages, []);
    agent.chat(says("owner", "1", "again")).await.rest().await;
    agent.cancel(id("hang b").await).await;
    assert!(next(&agent, 0).await[0].content.ends_with("was cancelled."));
}

#[tokio::test]
async fn a_heartbeat_speaks_only_when_there_is_something_to_say() {
    let model = Model::start().await;
    model.script(json!({"match": HEARTBEAT, "replies": [
        {"content": "**HEARTBEAT_OK**."}, {"content": "The lamp is out."}, {"content": "HEARTBEAT_OK"}, {"hang": true}]}));
    let mut agent = Agent::start_with(&model, |config| {
        with_owner(config);
        config["heartbeat_interval"] = json!(1);
    })
    .await;
    let file = owners(&agent).join("HEARTBEAT.md");
    std::fs::write(&file, "# Tasks\n<!-- nothing yet -->\n- [ ]\n").expect("write");
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(model.sim.requests().len(), 0);
    std::fs::write(&file, "# Tasks\n- [ ] look after the lamp\n").expect("write");
    let message = next(&agent, 0).await.remove(0);
    assert_eq!((message.source, message.chat_id.as_str()), (PendingSource::Heartbeat, "1"));
    assert_eq!(message.content, "The lamp is out.");
    assert_eq!(message.id, 1);
    wait_until("heartbeats go on", async || asked(&model, "look after the lamp") == 4).await;
    // The fourth hangs, and holds nobody up.
    let answer = agent.chat(says("owner", "1", "what is up?")).await.rest().await;
    assert!(text(&answer).contains("what is up?"));
    let messages = model.sim.requests().pop().expect("asked")["messages"].to_string();
    assert!(messages.contains("The lamp is out.") && !messages.contains("HEARTBEAT_OK"), "{messages}");

    // One that a kill interrupts goes on, and is one.
    model.script(json!({"match": HEARTBEAT, "replies": [{"content": "It burns again."}, {"hang": true}]}));
    agent.kill().await;
    agent.restart().await;
    assert_eq!(next(&agent, 1).await[0].content, "It burns again.");
    assert_eq!(model.sim.violations(), Vec::<Value>::new());
}

#[tokio::test]
async fn heartbeats_go_on_after_the_clock_was_set_back() {
    let model = Model::start().await;
    model.script(json!({"match": HEARTBEAT, "replies": [{"content": "HEARTBEAT_OK"}]}));
    let mut agent = Agent::start_with(&model, |config| {
        with_owner(config);
        config["heartbeat_interval"] = json!(1);
    })
    .await;
    agent.kill().await;
    let db = rusqlite::Connection::open(agent.directory.path().join("agent.db")).expect("opens");
    db.execute("update heartbeat set last_at = unixepoch() + 1000000", []).expect("written");
    drop(db);
    std::fs::write(owners(&agent).join("HEARTBEAT.md"), "look after the lamp").expect("write");
    agent.restart().await;
    wait_until("a heartbeat comes", async || asked(&model, "look after the lamp") >= 1).await;
}

#[tokio::test]
async fn where_nothing_may_be_spent_the_model_is_told_that_it_is_switched_off() {
    let model = Model::start().await;
    model.script(json!({"match": "have it done", "replies": [spawn("a task"), {"content": "ok"}]}));
    let agent = Agent::start_with(&model, |config| {
        with_owner(config);
        config["background_tokens_per_day"] = json!(0);
    })
    .await;
    agent.chat(says("owner", "1", "have it done")).await.rest().await;
    assert!(model.results()[0].contains("switched off"), "{:?}", model.results());
    assert_eq!(asked(&model, "a task"), 0);
}

#[tokio::test]
async fn a_users_message_goes_before_a_heartbeat() {
    let model = Model::start().await;
    model.script(json!({"match": "slow question", "replies": [{"content": "at last", "delay_ms": 3500}]}));
    model.script(json!({"match": HEARTBEAT, "replies": [{"content": "HEARTBEAT_OK"}]}));
    let agent = Agent::start_with(&model, |config| {
        with_owner(config);
        config["heartbeat_interval"] = json!(1);
    })
    .await;
    let events = agent.chat(says("owner", "1", "slow question")).await;
    std::fs::write(owners(&agent).join("HEARTBEAT.md"), "look after the lamp").expect("write");
    let answer = events.rest().await;
    assert_eq!(text(&answer), "at last");
    let requests = model.sim.requests();
    let first_heartbeat = requests.iter().position(|request| request.to_string().contains(HEARTBEAT));
    assert!(first_heartbeat.is_none_or(|at| at > 0), "the question came first");
    wait_until("the heartbeat follows", async || asked(&model, "look after the lamp") >= 1).await;
}

#[tokio::test]
async fn at_the_days_cap_the_background_rests_and_the_owner_is_told_once() {
    let model = Model::start().await;
    model.script(json!({"match": "have it done", "replies": [spawn("a long task"), {"content": "ok"}]}));
    model.script(json!({"match": "a long task", "replies": [call("nothing", &json!({})), {"content": "never asked"}]}));
    model.script(json!({"match": "once more", "replies": [spawn("another task"), {"content": "ok"}]}));
    let mut agent = Agent::start_with(&model, |config| {
        with_owner(config);
        config["background_tokens_per_day"] = json!(10);
        config["heartbeat_interval"] = json!(1);
    })
    .await;
    agent.chat(says("owner", "1", "have it done")).await.rest().await;
    wait_until("both are told", async || pending(&agent, "?after=0").await.messages.len() >= 2).await;
    let told = pending(&agent, "?after=0").await.messages;
    assert_eq!(asked(&model, "a long task"), 1);
    let stopped = told.iter().find(|message| message.source == PendingSource::Subagent).expect("the subagent's");
    assert!(stopped.content.contains("could not finish: The 10 tokens"), "{}", stopped.content);
    let cap = told.iter().find(|message| message.source == PendingSource::Heartbeat).expect("the owner is told");
    assert!(cap.content.contains("10 tokens"), "{}", cap.content);

    std::fs::write(owners(&agent).join("HEARTBEAT.md"), "look after the lamp").expect("write");
    agent.chat(says("owner", "1", "once more")).await.rest().await;
    agent.kill().await;
    agent.restart().await;
    sleep(Duration::from_millis(2500)).await;
    assert_eq!((asked(&model, HEARTBEAT), asked(&model, "another task")), (0, 0));
    assert_eq!(pending(&agent, "?after=0").await.messages.len(), 2, "told once");
    let requests = model.sim.requests();
    assert!(requests.last().expect("asked")["messages"].to_string().contains("are used up"), "the model is told");
}
