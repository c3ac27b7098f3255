//! A turn of several rounds: the model calls tools until it only talks.

use super::support::*;
use super::tools::{bash, call, one_by_one, with_shell};
use axum::Router;
use axum::routing::get;
use baal_protocol::{EventKind, TurnState};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use uuid::Uuid;

#[tokio::test]
async fn every_round_is_told_as_it_happens_and_the_usage_is_their_sum() {
    let model = Model::start().await;
    model.script(json!({"replies": [
        {"content": "Let me look.", "tool_calls": [bash("echo one")]},
        {"tool_calls": [bash("echo two"), bash("echo three")]},
        {"content": "There you are."}]}));
    let agent = with_shell(&model).await;
    let events = agent.chat(json!({"message": "look", "chat_id": "7"})).await.rest().await;
    assert_well_formed(&events);
    let used =
        |command: &str| EventKind::ToolUse { name: "bash".into(), input: json!({"command": command}).to_string() };
    let text = |content: &str| EventKind::Text { content: content.into() };
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind.clone()).collect();
    let told = [text("Let me look."), used("echo one"), used("echo two"), used("echo three"), text("There you are.")];
    assert_eq!(kinds[..5], told);
    let EventKind::Usage { prompt_tokens, .. } = kinds[5] else { panic!("no usage: {kinds:?}") };
    let requests = model.sim.requests();
    assert_eq!(requests.len(), 3);
    assert!(prompt_tokens > 0);

    // The next turn reads all of it.
    agent.say("7", "and?").await;
    let roles: Vec<Value> = model.last_messages().iter().map(|message| message["role"].clone()).collect();
    let wanted = ["system", "user", "assistant", "tool", "assistant", "tool", "tool", "assistant", "user"];
    assert_eq!(roles, wanted);
    assert_eq!(model.results(), ["one\n[exit code 0]", "two\n[exit code 0]", "three\n[exit code 0]"]);
}

/// A page that is only served once so many ask for it at the same time.
async fn page_for(visitors: usize) -> String {
    let barrier = Arc::new(Barrier::new(visitors));
    let page = get(move || async move {
        barrier.wait().await;
        "here it is"
    });
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("bind");
    let url = format!("http://{}/", listener.local_addr().expect("address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", page)).await });
    url
}

#[tokio::test]
async fn calls_that_only_read_run_side_by_side_and_their_results_keep_the_order() {
    let model = Model::start().await;
    let url = page_for(3).await;
    let fetch = call("web_fetch", json!({"url": url}));
    model.script(json!({"replies": [
        {"tool_calls": [fetch, fetch, call("read_file", json!({"path": "none"})), fetch]}, {"content": "done"}]}));
    let agent = Agent::start_with(&model, |config| config["web_allow"] = json!(["127.0.0.2"])).await;
    assert_eq!(agent.say("1", "fetch").await, "done");
    let results = model.results();
    let fetched: Vec<bool> = results.iter().map(|result| result.contains("here it is")).collect();
    assert_eq!(fetched, [true, true, false, true], "{results:?}");
}

#[tokio::test]
async fn calls_that_change_something_run_one_after_another() {
    let model = Model::start().await;
    let read = call("read_file", json!({"path": "log"}));
    model.script(json!({"replies": [
        {"tool_calls": [bash("sleep 0.3; echo a >> log"), bash("cat log; echo b >> log"), read, read,
            bash("echo c >> log; cat log")]},
        {"content": "done"}]}));
    let agent = with_shell(&model).await;
    assert_eq!(agent.say("7", "work").await, "done");
    let both = "     1\ta\n     2\tb";
    let wanted = ["[no output; exit code 0]", "a\n[exit code 0]", both, both, "a\nb\nc\n[exit code 0]"];
    assert_eq!(model.results(), wanted);
}

#[tokio::test]
async fn after_the_last_round_the_model_is_asked_for_an_answer_without_tools() {
    let model = Model::start().await;
    let mut replies = vec![json!({"tool_calls": [call("list_dir", json!({}))]}); 50];
    replies.push(json!({"content": "this far and no further"}));
    model.script(json!({"replies": replies}));
    let agent = Agent::start(&model).await;
    assert_eq!(agent.say("1", "go on for ever").await, "this far and no further");
    let requests = model.sim.requests();
    assert_eq!(requests.len(), 51);
    assert!(requests[49]["tools"].is_array() && requests[50]["tools"].is_null());
    let last = model.last_messages().pop().expect("a message");
    assert!(last["role"] == "user" && last["content"].as_str().is_some_and(|text| text.contains("50 rounds")));
    // What was said to the model is not kept.
    agent.say("1", "and now?").await;
    let messages = model.last_messages();
    assert!(!messages.iter().any(|m| m["content"].as_str().is_some_and(|text| text.contains("50 rounds"))));
}

#[tokio::test]
async fn a_model_that_never_stops_calling_is_stopped() {
    let model = Model::start().await;
    model.script(json!({"replies": vec![json!({"tool_calls": [call("list_dir", json!({}))]}); 3]}));
    let agent = Agent::start_with(&model, |config| config["max_tool_iterations"] = json!(2)).await;
    let events = agent.chat(json!({"message": "hi", "chat_id": "1"})).await.rest().await;
    assert_well_formed(&events);
    assert!(errors(&events)[0].contains("all 2 rounds"), "{events:?}");
    assert_eq!(model.sim.requests().len(), 3);
}

#[tokio::test]
async fn a_failing_service_in_a_later_round_ends_the_turn_and_leaves_the_history_whole() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"tool_calls": [bash("echo one")]}, {"status": 401}]}));
    let agent = with_shell(&model).await;
    let events = agent.chat(json!({"message": "hi", "chat_id": "7"})).await.rest().await;
    assert_well_formed(&events);
    assert_eq!(errors(&events).len(), 1);
    agent.say("7", "again").await;
    assert_eq!(model.results(), ["one\n[exit code 0]"], "what was done is remembered");
}

#[tokio::test]
async fn results_that_the_service_refuses_do_not_stop_the_chat() {
    let model = Model::start().await;
    model.script(
        json!({"replies": [{"tool_calls": [bash("echo one")]}, {"tool_calls": [bash("echo two")]}, {"status": 400}]}),
    );
    let agent = with_shell(&model).await;
    let events = agent.chat(json!({"message": "hi", "chat_id": "7"})).await.rest().await;
    assert_eq!(errors(&events).len(), 1);
    agent.say("7", "again").await;
    let results = model.results();
    assert!(results[0] == "one\n[exit code 0]" && results[1].contains("refused to read it"), "{results:?}");
}

#[tokio::test]
async fn what_a_command_prints_is_seen_while_it_runs_by_those_who_ask_and_is_not_kept() {
    let model = Model::start().await;
    model.script(one_by_one(&[bash("echo first; until [ -e go ]; do sleep 0.02; done; echo second")]));
    let agent = with_shell(&model).await;
    let id = Uuid::new_v4();
    let body = json!({"message": "hi", "chat_id": "7", "turn_id": id, "stream": true});
    let mut events = agent.chat(body).await;
    let mut seen = Vec::new();
    while !seen.contains(&EventKind::ToolOutput { name: "bash".into(), content: "first\n".into() }) {
        seen.push(events.next().await.expect("an event").kind);
    }
    std::fs::write(agent.directory.path().join("workspace/owner/go"), "").expect("write");
    let rest = events.rest().await;
    assert_well_formed(&rest);
    assert!(
        rest.iter().any(|event| matches!(&event.kind, EventKind::ToolOutput { content, .. } if content == "second\n"))
    );
    assert_eq!(model.results(), ["first\nsecond\n[exit code 0]"]);
    let kept = agent.events_after(id, 0).await.rest().await;
    assert!(!kept.iter().any(|event| matches!(event.kind, EventKind::ToolOutput { .. })), "{kept:?}");
}

#[tokio::test]
async fn a_cancel_in_the_middle_of_a_command_leaves_no_process_and_a_whole_history() {
    let model = Model::start().await;
    let command = "echo $$ > pid; (sleep 300; echo late) & sleep 300";
    model.script(json!({"replies": [{"tool_calls": [bash(command), bash("echo never > never")]}]}));
    let agent = with_shell(&model).await;
    let id = Uuid::new_v4();
    let events = agent.chat(json!({"message": "sleep", "chat_id": "7", "turn_id": id})).await;
    let owner = agent.directory.path().join("workspace/owner");
    let pid = || std::fs::read_to_string(owner.join("pid")).ok().and_then(|pid| pid.trim().parse::<i32>().ok());
    wait_until("the command runs", async || pid().is_some()).await;
    let group = rustix::process::Pid::from_raw(pid().expect("a pid")).expect("a pid");
    assert!(rustix::process::test_kill_process(group).is_ok());
    agent.cancel(id).await;
    let events = events.rest().await;
    assert_well_formed(&events);
    assert_eq!(agent.status(id).await.state, TurnState::Cancelled);
    assert!(rustix::process::test_kill_process(group).is_err(), "the turn ends when nothing of it runs");
    let sleeping = std::fs::read_dir("/proc").expect("proc").flatten().any(|process| {
        let cwd = std::fs::read_link(process.path().join("cwd"));
        cwd.is_ok_and(|cwd| cwd.starts_with(&owner))
    });
    assert!(!sleeping && !owner.join("never").exists());

    agent.say("7", "what happened?").await;
    let results = model.results();
    assert!(
        results.len() == 2 && results.iter().all(|result| result.starts_with("cancelled by the user")),
        "{results:?}"
    );
}

#[tokio::test]
async fn a_long_command_is_filled_with_keepalives() {
    let model = Model::start().await;
    model.script(one_by_one(&[bash("sleep 17")]));
    let agent = with_shell(&model).await;
    let events = agent.chat(json!({"message": "wait", "chat_id": "7"})).await.rest().await;
    assert!(events.iter().any(|event| event.kind == EventKind::Keepalive), "{events:?}");
    assert_eq!(text(&events), "done");
}

#[tokio::test]
async fn odd_calls_of_compatible_servers_are_understood() {
    let model = Model::start().await;
    let chunk = |delta: Value, finish: Value| {
        format!("data: {}\n\n", json!({"choices": [{"delta": delta, "finish_reason": finish}]}))
    };
    let piece = |function: Value| json!({"content": null, "tool_calls": [{"function": function}]});
    let raw = [
        chunk(piece(json!({"name": "list_dir", "arguments": {}})), Value::Null),
        chunk(piece(json!({"name": "read_file", "arguments": "{\"path\":"})), Value::Null),
        chunk(piece(json!({"name": "read_file", "arguments": "\"none\"}"})), Value::Null),
        chunk(piece(json!({"name": "no such tool", "arguments": null})), Value::Null),
        chunk(json!({}), json!("stop")),
    ];
    model.script(json!({"replies": [{"raw": raw.concat()}, {"content": "fine"}]}));
    let agent = Agent::start(&model).await;
    assert_eq!(agent.say("1", "hi").await, "fine");
    let results = model.results();
    assert_eq!(results[0], "[The directory is empty.]");
    assert!(results[1].contains("none") && results[2].contains("no_such_tool"), "{results:?}");
}
