//! A message sent to steer a turn that runs.

use super::support::*;
use super::tools::{bash, with_shell};
use baal_protocol::{EventKind, TurnState};
use serde_json::{Value, json};
use uuid::Uuid;

/// A command that runs until a file is there.
const WAIT: &str = "touch running; until [ -e go ]; do sleep 0.02; done";

struct Busy {
    model: Model,
    agent: Agent,
    turn: Uuid,
    events: Events,
}

impl Busy {
    /// An owner's turn in the middle of its first command, which is followed by an answer.
    async fn start() -> Self {
        let model = Model::start().await;
        model.script(json!({"match": "work", "replies": [{"tool_calls": [bash(WAIT)]}]}));
        let agent = with_shell(&model).await;
        let turn = Uuid::new_v4();
        let events = agent.chat(json!({"message": "work", "chat_id": "7", "turn_id": turn})).await;
        let running = agent.directory.path().join("workspace/owner/running");
        wait_until("the command runs", async || running.exists()).await;
        Self { model, agent, turn, events }
    }

    fn go_on(&self) {
        std::fs::write(self.agent.directory.path().join("workspace/owner/go"), "").expect("write");
    }

    async fn send(&self, message: &str, change: impl FnOnce(&mut Value)) -> (Uuid, Events) {
        let id = Uuid::new_v4();
        let mut body = json!({"message": message, "chat_id": "7", "turn_id": id, "mode": "steer"});
        change(&mut body);
        (id, self.agent.chat(body).await)
    }
}

fn said(messages: &[Value]) -> Vec<&str> {
    let users = messages.iter().filter(|message| message["role"] == "user");
    users.filter_map(|message| message["content"].as_str()).collect()
}

#[tokio::test]
async fn it_is_given_to_the_model_at_its_next_round() {
    let busy = Busy::start().await;
    let (first, first_events) = busy.send("be quick", |_| {}).await;
    let (_, second_events) = busy.send("and careful", |_| {}).await;
    let (queued, queued_events) = busy.send("afterwards", |body| body["mode"] = json!("queue")).await;
    assert_eq!(busy.agent.status(first).await.state, TurnState::Queued);
    busy.go_on();
    for events in [first_events, second_events] {
        let events = events.rest().await;
        assert_well_formed(&events);
        assert_eq!(events[0].kind, EventKind::Steered { turn_id: busy.turn });
        assert_eq!(events.len(), 2);
    }
    let events = busy.events.rest().await;
    assert!(text(&events).contains("and careful"), "{events:?}");
    queued_events.rest().await;
    let requests = busy.model.sim.requests();
    assert_eq!(requests.len(), 3);
    let messages = requests[1]["messages"].as_array().expect("messages");
    assert_eq!(said(messages), ["work", "be quick", "and careful"]);
    assert_eq!(messages[messages.len() - 3]["role"], "tool");
    assert_eq!(said(&busy.model.last_messages()), ["work", "be quick", "and careful", "afterwards"]);

    // It is over, and says so.
    assert_eq!(busy.agent.cancel(first).await.state, TurnState::Done);
    assert_eq!(busy.agent.status(queued).await.state, TurnState::Done);
    let again = busy.agent.events_after(first, 0).await.rest().await;
    assert_eq!(again[0].kind, EventKind::Steered { turn_id: busy.turn });
}

#[tokio::test]
async fn without_a_next_round_it_is_an_ordinary_turn() {
    let model = Model::start().await;
    model.script(json!({"match": "work", "replies": [{"content": "nothing to do", "delay_ms": 400}]}));
    let agent = Agent::start(&model).await;
    let first = agent.chat(json!({"message": "work", "chat_id": "1"})).await;
    model.wait_until_asked("work", 1).await;
    let second = agent.chat(json!({"message": "be quick", "chat_id": "1", "mode": "steer"})).await;
    assert_eq!(text(&first.rest().await), "nothing to do");
    let events = second.rest().await;
    assert_well_formed(&events);
    assert!(text(&events).contains("be quick"));
    assert!(agent.chat(json!({"message": "idle", "chat_id": "2", "mode": "steer"})).await.rest().await.len() > 1);
}

#[tokio::test]
async fn a_visitor_does_not_steer_the_owners_turn() {
    let busy = Busy::start().await;
    let sender = json!({"id": 8, "name": "Mallory", "role": "visitor"});
    let (_, visitors) = busy.send("show me everything", |body| body["sender"] = sender).await;
    busy.go_on();
    let events = visitors.rest().await;
    assert!(!events.iter().any(|event| matches!(event.kind, EventKind::Steered { .. })), "{events:?}");
    let requests = busy.model.sim.requests();
    assert_eq!(said(requests[1]["messages"].as_array().expect("messages")), ["work"]);
}

#[tokio::test]
async fn cancelled_before_it_was_given_to_the_model_it_never_is() {
    let busy = Busy::start().await;
    let (id, events) = busy.send("never mind", |_| {}).await;
    assert_eq!(busy.agent.cancel(id).await.state, TurnState::Cancelled);
    busy.go_on();
    assert_eq!(events.rest().await.len(), 1);
    busy.events.rest().await;
    assert_eq!(said(&busy.model.last_messages()), ["work"]);
}
