//! The tools of the workspace, through the launcher.

use super::support::*;
use serde_json::{Value, json};

const OWNER: &str = "7";

/// An agent whose owner's chat is [`OWNER`], with a shell although the walls of a test's machine are incomplete.
pub async fn with_shell(model: &Model) -> Agent {
    Agent::start_with(model, |config| {
        config["owner_chat_id"] = json!(OWNER);
        config["bash_without_walls"] = json!(true);
    })
    .await
}

pub fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

pub fn bash(command: &str) -> Value {
    call("bash", json!({"command": command}))
}

/// Replies that call these tools, one a round, and then answer.
pub fn one_by_one(calls: &[Value]) -> Value {
    let mut replies: Vec<Value> = calls.iter().map(|call| json!({"tool_calls": [call]})).collect();
    replies.push(json!({"content": "done"}));
    json!({"replies": replies})
}

fn offered(request: &Value) -> Vec<&str> {
    let tools = request["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).collect()
}

#[tokio::test]
async fn files_are_written_read_edited_and_listed() {
    let model = Model::start().await;
    model.script(one_by_one(&[
        call("write_file", json!({"path": "notes/a.txt", "content": "one\ntwo\n"})),
        call("read_file", json!({"path": "notes/a.txt"})),
        call("edit_file", json!({"path": "notes/a.txt", "old_string": "two", "new_string": "three"})),
        call("read_file", json!({"path": "/workspace/notes/a.txt", "offset": 2})),
        call("list_dir", json!({})),
        call("list_dir", json!({"path": "notes"})),
        bash("cat notes/a.txt; exit 3"),
    ]));
    let agent = with_shell(&model).await;
    assert_eq!(agent.say(OWNER, "work").await, "done");
    assert_eq!(
        model.results(),
        [
            "Wrote 8 bytes to notes/a.txt.",
            "     1\tone\n     2\ttwo",
            "Edited notes/a.txt in one place.",
            "     2\tthree\n[Lines 2 to 2 of 2.]",
            "notes/",
            "a.txt  10",
            "one\nthree\n[exit code 3]",
        ]
    );
}

#[tokio::test]
async fn what_goes_wrong_is_told_to_the_model_and_the_turn_goes_on() {
    let model = Model::start().await;
    model.script(one_by_one(&[
        call("read_file", json!({"path": "nowhere.txt"})),
        call("read_file", json!({"path": "../agent.db"})),
        call("read_file", json!({"file": "a"})),
        json!({"name": "read_file", "arguments": "{\"path\": \"a"}),
        call("edit_file", json!({"path": "nowhere.txt", "old_string": "a", "new_string": "b"})),
        call("rm_rf", json!({})),
    ]));
    let agent = with_shell(&model).await;
    assert_eq!(agent.say(OWNER, "work").await, "done");
    let results = model.results();
    assert!(results.iter().all(|result| result.starts_with("Error: ")), "{results:#?}");
    for (result, words) in
        results.iter().zip(["nowhere.txt", "..", "missing field `path`", "cut off", "nowhere.txt", "There is no tool"])
    {
        assert!(result.contains(words), "{result}");
    }
}

#[tokio::test]
async fn a_visitor_has_files_of_their_own_and_no_shell() {
    let model = Model::start().await;
    let agent = with_shell(&model).await;
    model.script(one_by_one(&[call("write_file", json!({"path": "secret.txt", "content": "the owner's"}))]));
    agent.say(OWNER, "keep this").await;
    for chat_id in ["8", "9", "admin:7"] {
        model.script(one_by_one(&[
            call("list_dir", json!({})),
            call("read_file", json!({"path": "secret.txt"})),
            bash("cat secret.txt"),
            call("write_file", json!({"path": "mine.txt", "content": chat_id})),
        ]));
        agent.say(chat_id, "look around").await;
        let results = model.results();
        assert_eq!(results[0], "[The directory is empty.]");
        assert!(results[1].starts_with("Error: ") && results[2].contains("There is no tool \"bash\""), "{results:?}");
        let requests = model.sim.requests();
        let offered = offered(requests.last().expect("asked"));
        assert!(offered.contains(&"read_file") && !offered.contains(&"bash"), "{offered:?}");
    }
}

#[tokio::test]
async fn a_visitor_who_may_only_talk_has_a_memory_of_their_own_and_no_other_tool() {
    let model = Model::start().await;
    let agent = Agent::start_with(&model, |config| config["visitor_tools"] = json!(["bash", "spawn"])).await;
    let says = async |message: &str, tools: bool| {
        let sender = json!({"id": 8, "name": "Bo", "role": "visitor", "tools": tools});
        agent.chat(json!({"message": message, "chat_id": "8", "sender": sender})).await.rest().await;
    };
    model.script(one_by_one(&[
        call("write_file", json!({"path": "mine.txt", "content": "x"})),
        call("remember", json!({"text": "Bo likes tea"})),
        call("web_fetch", json!({"url": "http://127.0.0.1/"})),
    ]));
    says("work", false).await;
    let results = model.results();
    assert!(results[0].contains("There is no tool \"write_file\""), "{results:?}");
    assert!(!results[1].starts_with("Error: ") && results[2].contains("There is no tool \"web_fetch\""), "{results:?}");
    let requests = model.sim.requests();
    assert_eq!(offered(requests.last().expect("asked")), ["remember", "recall"]);
    // Another link, and the same person has what the agent gives its visitors.
    says("and now?", true).await;
    let requests = model.sim.requests();
    let offered = offered(requests.last().expect("asked"));
    assert!(["write_file", "spawn", "recall"].iter().all(|tool| offered.contains(tool)), "{offered:?}");
}

#[tokio::test]
async fn without_walls_there_is_no_shell_and_the_agent_says_so() {
    let model = Model::start().await;
    let agent = Agent::start_with(&model, |config| config["owner_chat_id"] = json!(OWNER)).await;
    agent.say(OWNER, "hi").await;
    let requests = model.sim.requests();
    let owners = offered(&requests[0]);
    assert!(owners.contains(&"write_file") && !owners.contains(&"bash"), "{owners:?}");
    let version: baal_protocol::Version =
        agent.get("/version").send().await.expect("answer").json().await.expect("a version");
    let walls = version.walls.expect("known by now");
    assert!(!walls.complete && !walls.bash && !walls.missing.is_empty(), "{walls:?}");
    assert!(version.features.iter().any(|feature| feature == "tools"));
}

#[tokio::test]
async fn the_same_tools_are_offered_in_the_same_order_every_time() {
    let model = Model::start().await;
    let agent = with_shell(&model).await;
    for n in 0..3 {
        agent.say(OWNER, &n.to_string()).await;
    }
    let requests = model.sim.requests();
    assert!(requests.iter().all(|request| request["tools"] == requests[0]["tools"]));
    assert_eq!(offered(&requests[0])[..3], ["bash", "read_file", "write_file"]);
}
