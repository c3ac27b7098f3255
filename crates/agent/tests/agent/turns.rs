//! Turn ids: a turn runs once, belongs to the agent, keeps its events, and can be stopped.

use super::support::*;
use baal_protocol::{EventKind, TurnState};
use reqwest::StatusCode;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use uuid::Uuid;

#[tokio::test]
async fn turns_of_one_chat_run_in_order_and_other_chats_do_not_wait() {
    let model = Model::start().await;
    model.script(json!({"match": "first", "replies": [{"content": "slow answer", "hang": true}]}));
    let agent = Agent::start(&model).await;
    let [first, second] = [Uuid::new_v4(), Uuid::new_v4()];
    let mut slow = agent.chat(json!({"message": "first", "chat_id": "1", "turn_id": first, "stream": true})).await;
    let mut seen = String::new();
    while seen != "slow answer" {
        seen += &deltas(&[slow.next().await.expect("a piece")]);
    }
    let quick = agent.chat(json!({"message": "second", "chat_id": "1", "turn_id": second})).await;
    assert_eq!(agent.status(second).await.state, TurnState::Queued);
    agent.say("2", "elsewhere").await;
    assert_eq!(agent.status(first).await.state, TurnState::Running);
    assert_eq!(model.sim.times_asked("second"), 0);
    agent.cancel(first).await;
    assert!(text(&quick.rest().await).contains("“second”"));
    assert_eq!(agent.status(first).await.state, TurnState::Cancelled);
    assert_eq!(text(&slow.rest().await), "slow answer");
    let asked = model.sim.requests();
    let second = asked.last().expect("asked");
    assert_eq!(second["messages"][2], json!({"role": "assistant", "content": "slow answer"}));
}

#[tokio::test]
async fn a_known_turn_attaches_and_never_runs_again() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"content": "the one answer", "piece_delay_ms": 100}]}));
    let agent = Agent::start(&model).await;
    let body = json!({"message": "once", "chat_id": "1", "turn_id": Uuid::new_v4(), "stream": true});
    let all =
        futures_util::future::join_all((0..20).map(|_| async { agent.chat(body.clone()).await.rest().await })).await;
    for events in &all {
        assert_well_formed(events);
        assert_eq!(text(events), "the one answer");
    }
    let replay = agent.chat(body.clone()).await.rest().await;
    assert_well_formed(&replay);
    assert_eq!(text(&replay), "the one answer");
    assert_eq!(deltas(&replay), "", "the whole text supersedes its pieces");
    assert_eq!(model.sim.times_asked("once"), 1);
    assert_eq!(all[0].last(), replay.last());

    let mut other = body;
    other["message"] = json!("something else");
    let response = agent.post("/chat").json(&other).send().await.expect("answer");
    assert_eq!(response.status(), StatusCode::CONFLICT);
    assert_eq!(model.sim.times_asked("something else"), 0);
}

#[tokio::test]
async fn a_dropped_connection_changes_nothing_and_the_rest_can_be_fetched() {
    let model = Model::start().await;
    let whole = "one two three four five six seven eight";
    model.script(json!({"replies": [{"content": whole, "piece_delay_ms": 100, "hang": true}]}));
    let agent = Agent::start(&model).await;
    let id = Uuid::new_v4();
    let mut events = agent.chat(json!({"message": "hi", "chat_id": "1", "turn_id": id, "stream": true})).await;
    let first = events.next().await.expect("a piece");
    drop(events);

    let mut seen = deltas(std::slice::from_ref(&first));
    let mut events = agent.events_after(id, first.seq).await;
    let mut seq = first.seq;
    while seen != whole {
        let event = events.next().await.expect("a piece");
        assert_eq!(event.seq, seq + 1, "nothing is left out");
        seq = event.seq;
        seen += &deltas(&[event]);
    }
    agent.cancel(id).await;
    let rest = events.rest().await;
    assert_well_formed(&rest);
    assert_eq!(text(&rest), whole);

    let last_seq = agent.status(id).await.last_seq;
    assert_eq!(last_seq, rest.last().expect("an event").seq);
    for after in [last_seq - 1, last_seq] {
        let done = agent.events_after(id, after).await.rest().await;
        assert_eq!(done, rest[rest.len() - 1..], "whoever comes late is told of the end");
    }
    assert_eq!(model.sim.times_asked("hi"), 1);
}

#[tokio::test]
async fn a_turn_goes_on_without_anyone_listening() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"content": "said to nobody", "delay_ms": 300}]}));
    let agent = Agent::start(&model).await;
    let id = Uuid::new_v4();
    drop(agent.chat(json!({"message": "hi", "chat_id": "1", "turn_id": id})).await);
    wait_until("the turn is done", async || agent.status(id).await.state == TurnState::Done).await;
    assert_eq!(text(&agent.events_after(id, 0).await.rest().await), "said to nobody");
}

/// Sends a request and closes the connection `after` it was sent.
async fn post_and_leave(agent: &Agent, path: &str, body: &str, after: Duration) {
    let mut connection = TcpStream::connect(&agent.address).await.expect("connect");
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: agent\r\nauthorization: Bearer {SECRET}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.expect("sent");
    sleep(after).await;
}

#[tokio::test]
async fn a_turn_whose_caller_left_at_once_runs_if_it_was_accepted() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let turns: Vec<Uuid> = (0..200).map(|_| Uuid::new_v4()).collect();
    futures_util::future::join_all(turns.iter().zip(0..).map(|(id, n)| {
        let body = json!({"message": "hi", "chat_id": id, "turn_id": id}).to_string();
        let agent = &agent;
        async move { post_and_leave(agent, "/chat", &body, Duration::from_micros(n * 100)).await }
    }))
    .await;
    // Whatever came before it is written.
    agent.say("last", "done?").await;
    let mut accepted = 0;
    for id in turns {
        let answer = agent.get(&format!("/turns/{id}")).send().await.expect("answer");
        if answer.status() == StatusCode::OK {
            accepted += 1;
            wait_until("the turn is done", async || agent.status(id).await.state == TurnState::Done).await;
        }
    }
    assert!(accepted > 0);
}

#[tokio::test]
async fn a_cancel_whose_caller_left_at_once_stops_the_model_if_it_was_taken() {
    let model = Model::start().await;
    model.script(json!({"replies": vec![json!({"hang": true}); 50]}));
    let agent = Agent::start(&model).await;
    let turns: Vec<Uuid> = (0..50).map(|_| Uuid::new_v4()).collect();
    for id in &turns {
        drop(agent.chat(json!({"message": "hi", "chat_id": id, "turn_id": id})).await);
    }
    model.wait_until_asked("hi", 50).await;
    futures_util::future::join_all(turns.iter().zip(0..).map(|(id, n)| {
        let (agent, path) = (&agent, format!("/turns/{id}/cancel"));
        async move { post_and_leave(agent, &path, "", Duration::from_micros(n * 200)).await }
    }))
    .await;
    // Whatever came before it is written.
    agent.say("last", "done?").await;
    let path = agent.directory.path().join("agent.db");
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database");
    let mut taken = database.prepare("select id from turns where cancel_requested").expect("a query");
    let taken: Result<Vec<Uuid>, _> = taken.query_map([], |row| row.get(0)).expect("turns").collect();
    let taken = taken.expect("ids");
    assert!(!taken.is_empty());
    for id in taken {
        wait_until("the turn is cancelled", async || agent.status(id).await.state == TurnState::Cancelled).await;
    }
}

#[tokio::test]
async fn a_cancelled_turn_keeps_what_was_said_and_stops_the_model() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"content": "a few words", "hang": true}]}));
    let agent = Agent::start(&model).await;
    let id = Uuid::new_v4();
    let mut events = agent.chat(json!({"message": "hi", "chat_id": "1", "turn_id": id, "stream": true})).await;
    let mut seen = String::new();
    while seen != "a few words" {
        let Some(EventKind::Delta { content }) = events.next().await.map(|e| e.kind) else { panic!("no delta") };
        seen += &content;
    }
    assert_eq!(agent.cancel(id).await.state, TurnState::Running);
    let rest = events.rest().await;
    assert_well_formed(&rest);
    assert_eq!((text(&rest).as_str(), errors(&rest).len()), ("a few words", 0));
    let before = agent.status(id).await;
    assert_eq!(before.state, TurnState::Cancelled);
    assert_eq!(agent.cancel(id).await, before, "a second cancel changes nothing");
    agent.say("1", "go on").await;
    let asked = model.sim.requests();
    assert_eq!(asked[1]["messages"][2], json!({"role": "assistant", "content": "a few words"}));
}

#[tokio::test]
async fn a_cancelled_queued_turn_never_runs() {
    let model = Model::start().await;
    model.script(json!({"match": "first", "replies": [{"hang": true}]}));
    let agent = Agent::start(&model).await;
    let [first, second] = [Uuid::new_v4(), Uuid::new_v4()];
    let running = agent.chat(json!({"message": "first", "chat_id": "1", "turn_id": first})).await;
    model.wait_until_asked("first", 1).await;
    let queued = agent.chat(json!({"message": "second", "chat_id": "1", "turn_id": second})).await;
    assert_eq!(agent.cancel(second).await.state, TurnState::Cancelled);
    let events = queued.rest().await;
    assert_well_formed(&events);
    assert_eq!(events.len(), 1);
    agent.cancel(first).await;
    assert_well_formed(&running.rest().await);
    agent.say("1", "third").await;
    assert_eq!(model.sim.times_asked("second"), 0);
    let asked = model.sim.requests();
    let messages = asked.last().expect("asked")["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 2, "turns without an answer are not remembered: {messages:?}");
}

#[tokio::test]
async fn many_chats_at_once_each_get_their_own_answers_in_order() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let chats = (0..40).map(|chat| {
        let agent = &agent;
        async move {
            let bodies = (0..5).map(|n| {
                json!({"message": format!("{n} of {chat}"), "chat_id": chat.to_string(), "turn_id": Uuid::new_v4()})
            });
            let mut streams = Vec::new();
            for body in bodies {
                streams.push(agent.chat(body).await);
            }
            for (n, stream) in streams.into_iter().enumerate() {
                let answer = text(&stream.rest().await);
                assert!(answer.contains(&format!("“{n} of {chat}”")), "{answer}");
                assert!(answer.contains(&format!("message {} of", n + 1)), "{answer}");
            }
        }
    });
    futures_util::future::join_all(chats).await;
    assert_eq!(model.sim.requests().len(), 200);
}

#[tokio::test]
async fn a_message_that_was_changed_is_told_as_such() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let first = Uuid::new_v4();
    agent.chat(json!({"message": "two eggs", "chat_id": "1", "turn_id": first})).await.rest().await;
    agent.chat(json!({"message": "three eggs", "chat_id": "1", "edit_of": first})).await.rest().await;
    let asked = model.sim.requests();
    let said = asked.last().expect("asked")["messages"][3]["content"].as_str().expect("words").to_owned();
    assert!(said.contains("changed an earlier message") && said.ends_with("three eggs"), "{said}");
}
