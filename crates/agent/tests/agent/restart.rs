//! A kill at any moment loses nothing.

use super::support::*;
use baal_protocol::{EventKind, TurnState};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn history_survives_a_restart() {
    let model = Model::start().await;
    let mut agent = Agent::start(&model).await;
    agent.say("1", "my name is Zoë").await;
    agent.kill().await;
    agent.restart().await;
    assert!(agent.say("1", "what is my name?").await.contains("**Zoë**"));
}

#[tokio::test]
async fn a_turn_that_was_killed_resumes_and_answers_once() {
    let model = Model::start().await;
    model.script(json!({"match": "tell me", "replies": [
        {"content": "half an answer", "hang": true}, {"content": "the whole other answer", "piece_delay_ms": 30}]}));
    let mut agent = Agent::start(&model).await;
    let [first, second] = [Uuid::new_v4(), Uuid::new_v4()];
    let body = json!({"message": "tell me", "chat_id": "1", "turn_id": first, "stream": true});
    let mut events = agent.chat(body.clone()).await;
    let seen = events.next().await.expect("a piece");
    drop(agent.chat(json!({"message": "and then", "chat_id": "1", "turn_id": second})).await);
    agent.kill().await;
    while events.next().await.is_some_and(|event| !event.kind.is_last()) {}

    agent.restart().await;
    let rest = agent.events_after(first, seen.seq).await.rest().await;
    assert_well_formed(&rest);
    assert!(rest[0].seq > seen.seq);
    assert_eq!(text(&rest), "the whole other answer");
    assert_eq!(deltas(&rest), "", "pieces of the second answer don't follow pieces of the first");
    wait_until("the queued turn is done", async || agent.status(second).await.state == TurnState::Done).await;
    assert_eq!(model.sim.times_asked("tell me"), 2);
    assert_eq!(model.sim.times_asked("and then"), 1);

    // Asked again it attaches; the history holds one exchange of it.
    assert_eq!(text(&agent.chat(body).await.rest().await), "the whole other answer");
    agent.say("1", "last").await;
    let asked = model.sim.requests();
    let messages = asked.last().expect("asked")["messages"].as_array().expect("messages").clone();
    let said: Vec<&str> = messages.iter().filter_map(|m| m["content"].as_str()).collect();
    assert_eq!(said.iter().filter(|text| **text == "tell me").count(), 1);
    assert_eq!((said[1], said[2], said[3]), ("tell me", "the whole other answer", "and then"));
}

#[tokio::test]
async fn a_turn_resumed_before_its_first_event_streams_as_usual() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"hang": true}, {"content": "one two three", "piece_delay_ms": 60}]}));
    let mut agent = Agent::start(&model).await;
    let id = Uuid::new_v4();
    drop(agent.chat(json!({"message": "hi", "chat_id": "1", "turn_id": id, "stream": true})).await);
    model.wait_until_asked("hi", 1).await;
    agent.kill().await;
    agent.restart().await;
    let events = agent.events_after(id, 0).await.rest().await;
    assert_well_formed(&events);
    assert_eq!(text(&events), "one two three");
}

#[tokio::test]
async fn a_cancel_outlives_a_kill() {
    let model = Model::start().await;
    model.script(json!({"replies": [{"hang": true}, {"hang": true}]}));
    let mut agent = Agent::start(&model).await;
    let id = Uuid::new_v4();
    drop(agent.chat(json!({"message": "hi", "chat_id": "1", "turn_id": id})).await);
    model.wait_until_asked("hi", 1).await;
    agent.cancel(id).await;
    agent.kill().await;
    agent.restart().await;
    let events = agent.events_after(id, 0).await.rest().await;
    assert_well_formed(&events);
    assert_eq!(agent.status(id).await.state, TurnState::Cancelled);
    assert_eq!(model.sim.times_asked("hi"), 1);
}

#[tokio::test]
async fn kills_at_any_moment_lose_no_message_and_answer_none_twice() {
    let model = Model::start().await;
    let mut agent = Agent::start(&model).await;
    let mut turns = Vec::new();
    for round in 0..10 {
        for chat in 0..4 {
            let id = Uuid::new_v4();
            let body = json!({"message": format!("{round} in {chat}"), "chat_id": chat.to_string(), "turn_id": id});
            drop(agent.chat(body).await);
            turns.push(id);
        }
        agent.kill().await;
        agent.restart().await;
    }
    for id in turns {
        let events = agent.events_after(id, 0).await.rest().await;
        assert_well_formed(&events);
        assert_eq!(events.iter().filter(|e| matches!(e.kind, EventKind::Text { .. })).count(), 1, "{events:?}");
    }
    for chat in 0..4 {
        let answer = agent.say(&chat.to_string(), "how many?").await;
        assert!(answer.contains("message 11 of"), "{answer}");
    }
}
