use super::*;
use crate::tools::TurnKind;
use baal_protocol::{ChatRequest, EventKind, PendingSource, TurnState};
use serde_json::json;
use tempfile::TempDir;

fn request(chat_id: &str) -> ChatRequest {
    let sender = json!({"id": 7, "name": "Zoë", "role": "owner"});
    serde_json::from_value(json!({"message": "find it", "chat_id": chat_id, "sender": sender})).expect("a request")
}

fn last_words(position: i64) -> Finish {
    Finish {
        position,
        state: TurnState::Done,
        events: vec![EventKind::Text { content: "found".into() }],
        results: Vec::new(),
        answer: "found".into(),
        remembered: true,
        had_partial: false,
        pending: Some((PendingSource::Subagent, "found".into())),
        spent_tokens: 12,
    }
}

#[tokio::test]
async fn what_a_turn_without_a_person_says_at_its_end_waits_once_and_its_tokens_are_counted() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    let turn = NewTurn::background(TurnKind::Subagent, request("subagent:1"), "7".into());
    let mut watch = store.watch(turn.id);
    assert_eq!(
        store.accept(turn.clone(), false).await.expect("written"),
        Accepted::New { position: 1, running: false }
    );
    let started = store.start(1).await.expect("written").expect("open");
    assert_eq!((started.kind, started.deliver_to.as_deref(), started.id), (TurnKind::Subagent, Some("7"), turn.id));
    assert_eq!(started.standing, Standing::default());
    assert!(store.finish(last_words(1)).await.expect("written"));
    assert!(!store.finish(last_words(1)).await.expect("written"), "it is over");

    let events = watch.next().await.expect("nothing missed");
    assert_eq!(
        events.last().map(|event| (event.seq, event.kind.clone())),
        Some((2, EventKind::Done { pending: Some(1) }))
    );
    let stored = store.read().read(|db| {
        let pending: (String, String, String) =
            db.query_row("select chat_id, source, content from pending", [], |row| row.try_into())?;
        let spent: i64 = db.query_row("select tokens from spending", [], |row| row.get(0))?;
        Ok((pending, spent))
    });
    let (pending, spent) = stored.await.expect("read");
    assert_eq!(pending, ("7".into(), "subagent".into(), "found".into()));
    assert_eq!(spent, 12);
}

#[tokio::test]
async fn a_turn_runs_at_once_only_where_its_chat_is_idle() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    let turn = || NewTurn::background(TurnKind::Chat, request("1"), "7".into());
    let accept = async |turn, start| store.accept(turn, start).await.expect("written");
    assert_eq!(accept(turn(), true).await, Accepted::New { position: 1, running: true });
    let second = turn();
    assert_eq!(accept(second.clone(), true).await, Accepted::New { position: 2, running: false });
    assert_eq!(accept(second.clone(), true).await, Accepted::Known);
    assert_eq!(accept(NewTurn { body_sha256: [1; 32], ..second }, true).await, Accepted::Conflict);
    let started = store.start(1).await.expect("written").expect("open");
    assert_eq!((started.standing.rounds, started.had_deltas), (0, false));
    let history = store.read().turn_messages(1).await.expect("read");
    assert_eq!(history.len(), 1, "what was said is stored once: {history:?}");
}
