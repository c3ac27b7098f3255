use super::*;
use crate::model::{Message, ToolCall};
use crate::store::{Finish, NewTurn, Results, Round, ToolResult};
use crate::tools::TurnKind;
use baal_protocol::{Role, TurnState};
use secrecy::SecretString;
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

fn request(message: &str) -> ChatRequest {
    serde_json::from_value(json!({"message": message, "chat_id": "1"})).expect("a request")
}

fn call(id: usize) -> ToolCall {
    ToolCall { id: id.to_string(), name: "web_fetch".into(), arguments: "{}".into() }
}

/// For a model with 32,768 tokens, so that a request has some 95,000 bytes; no service answers it.
async fn contexts(directory: &TempDir) -> (Contexts, Store) {
    // An error only says that another test was first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    let config = AgentConfig {
        workspace_path: directory.path().into(),
        max_context_tokens: 32_768,
        generation_reserve: 4_096,
        max_history: 100,
        compaction_keep_messages: 20,
        ..AgentConfig::default()
    };
    let model = Client::new("http://127.0.0.1:1/v1", "m", SecretString::from("k"), Duration::from_secs(1));
    let files = crate::files::Files::beside(&directory.path().join("agent.db")).expect("directories");
    let services = crate::tools::Services::new(&config, store.clone(), files);
    let contexts = Contexts::new(&config, store.clone(), model.expect("a client"), services.workspaces.clone());
    (contexts.await.expect("contexts"), store)
}

/// A turn that is over: a question, a round of calls that bring so much each, an answer.
async fn turn(store: &Store, position: i64, question: &str, calls: usize, bytes: usize) {
    let turn = NewTurn::background(TurnKind::Chat, request(question), String::new());
    store.accept(turn, true).await.expect("written");
    if calls > 0 {
        let calls: Vec<ToolCall> = (0..calls).map(call).collect();
        let results = calls.iter().map(|call| ToolResult { call_id: call.id.clone(), text: "x".repeat(bytes) });
        let results = results.collect();
        let round = Round { position, text: String::new(), calls, had_deltas: false, spent_tokens: 0 };
        assert!(store.round(round).await.expect("written"));
        let results = Results { position, results, events: Vec::new(), had_output: false, steered_by: None };
        // Without an event a turn says nothing of itself.
        store.results(results).await.expect("written");
    }
    let finish = Finish {
        position,
        state: TurnState::Done,
        events: Vec::new(),
        results: Vec::new(),
        results_refused: false,
        answer: format!("answer to {question}"),
        remembered: true,
        had_partial: false,
        pending: None,
        spent_tokens: 0,
    };
    assert!(store.finish(finish).await.expect("written"));
}

async fn conversation(contexts: &Contexts, position: i64) -> Conversation {
    let who = Who {
        chat_id: "1".into(),
        role: Role::Visitor,
        only_talks: false,
        kind: TurnKind::Chat,
        deliver_to: None,
        visitor_tools: [].into(),
    };
    contexts.begin(&who, position, &request("which is the cheapest?"), NaiveDate::default()).await.expect("begun")
}

fn has(messages: &[Message], text: &str) -> bool {
    messages.iter().any(|message| match message {
        Message::User { text: said, .. } | Message::Assistant { text: said, .. } => said == text,
        _ => false,
    })
}

#[tokio::test]
async fn a_turn_with_large_results_stays_in_sight() {
    let directory = TempDir::new().expect("temp dir");
    let (contexts, store) = contexts(&directory).await;
    turn(&store, 1, "hello", 0, 0).await;
    turn(&store, 2, "compare these", 6, 50_000).await;
    let mut conversation = conversation(&contexts, 3).await;
    assert!(!conversation.window.left_out && conversation.window.messages.len() == 11);
    let own = [Message::user("which is the cheapest?".into())];
    let sent = conversation.prepare(&own, None, &CancellationToken::new()).await.expect("read").expect("not stopped");
    for said in ["hello", "answer to hello", "compare these", "answer to compare these", "which is the cheapest?"] {
        assert!(has(&sent, said), "{said}");
    }
    assert!(sent.iter().map(Message::bytes).sum::<usize>() <= contexts.inner.max_bytes());
}

#[tokio::test]
async fn of_a_turn_with_more_messages_than_are_read_what_was_said_stays_in_sight() {
    let directory = TempDir::new().expect("temp dir");
    let (contexts, store) = contexts(&directory).await;
    turn(&store, 1, "hello", 0, 0).await;
    turn(&store, 2, "look everywhere", 600, 10).await;
    let window = conversation(&contexts, 3).await.window;
    let messages: Vec<Message> = window.messages.iter().map(|kept| kept.message.clone()).collect();
    assert!(messages.len() == 2 && has(&messages, "look everywhere") && has(&messages, "answer to look everywhere"));
    assert!(window.left_out, "what was said before is to become a summary");
}

#[tokio::test]
async fn what_a_turn_reads_itself_is_no_reason_to_compact() {
    let directory = TempDir::new().expect("temp dir");
    let (contexts, store) = contexts(&directory).await;
    for position in 1..=3 {
        turn(&store, position, &format!("number {position}"), 0, 0).await;
    }
    let mut conversation = conversation(&contexts, 4).await;
    let calls = Message::Assistant { text: String::new(), calls: vec![call(1), call(2)] };
    let result = |id: &str| Message::tool(id.into(), "x".repeat(50_000));
    let own = [Message::user("read both".into()), calls, result("1"), result("2")];
    let sent = conversation.prepare(&own, None, &CancellationToken::new()).await.expect("read").expect("not stopped");
    assert!(conversation.take_spent().is_none() && conversation.window.messages.len() == 6);
    assert_eq!(sent.len(), 1 + 6 + 4);
    assert!(sent.iter().map(Message::bytes).sum::<usize>() <= contexts.inner.max_bytes());
}

#[tokio::test]
async fn a_turn_that_writes_much_fits_all_the_same() {
    let directory = TempDir::new().expect("temp dir");
    let (contexts, _store) = contexts(&directory).await;
    let mut conversation = conversation(&contexts, 1).await;
    let mut own = vec![Message::user("write it".into())];
    for n in 0..10 {
        let arguments = json!({"content": "x".repeat(15_000)}).to_string();
        let calls = vec![ToolCall { arguments, ..call(n) }];
        own.extend([Message::Assistant { text: String::new(), calls }, Message::tool(n.to_string(), "done".into())]);
    }
    let sent = conversation.prepare(&own, None, &CancellationToken::new()).await.expect("read").expect("not stopped");
    assert_eq!(sent.len(), 1 + own.len());
    assert!(sent.iter().map(Message::bytes).sum::<usize>() <= contexts.inner.max_bytes());
    let Message::Assistant { calls, .. } = &sent[2] else { panic!("no call: {:?}", sent[2]) };
    assert_eq!(calls[0].arguments, r#"{"left_out":"15014 bytes, to save space"}"#);
    assert_eq!(sent.last(), own.last());
}
