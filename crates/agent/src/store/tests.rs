use super::writer::Changed;
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
        results_refused: false,
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

#[tokio::test]
async fn events_of_turns_that_ended_long_ago_are_forgotten_and_no_others() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    for position in 1..=450 {
        store
            .accept(NewTurn::background(TurnKind::Chat, request(&position.to_string()), "7".into()), true)
            .await
            .expect("written");
        if position % 10 != 0 {
            store.finish(last_words(position)).await.expect("written");
        } else {
            store.append(position, vec![EventKind::Text { content: "so far".into() }]).await.expect("written");
        }
    }
    let age = "update turns set finished_at = finished_at - 1000 where finished_at is not null and position <> 3";
    store.write(move |db| Ok(Changed::quietly(db.execute(age, [])?))).await.expect("written");
    let mut forgotten = 0;
    loop {
        match store.forget_events_older_than(500).await.expect("written") {
            0 => break,
            events => forgotten += events,
        }
    }
    assert_eq!(forgotten, 2 * (450 - 45 - 1));
    let left =
        store.read().read(|db| Ok(db.query_row("select count(distinct turn) from events", [], |row| row.get(0))?));
    assert_eq!(left.await.unwrap_or(0), 45 + 1, "of the turn that ended late and of the open ones");
}

async fn insert_pending(store: &Store, chat_id: &'static str, source: PendingSource, count: usize) {
    let insert = move |db: &rusqlite::Connection| {
        (0..count).try_for_each(|n| pending::insert(db, chat_id, source, &n.to_string())).map(Changed::quietly)
    };
    store.write(insert).await.expect("written");
}

#[tokio::test]
async fn messages_that_nobody_fetches_are_bounded_in_number_and_age() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    insert_pending(&store, "7", PendingSource::Subagent, 1010).await;
    assert_eq!(store.read().pending_count().await.expect("read"), 1000);
    let oldest = store.read().pending_after(0).await.expect("read").remove(0);
    assert_eq!((oldest.id, oldest.content.as_str()), (11, "10"));

    insert_pending(&store, "7", PendingSource::SubagentFile, 5).await;
    let age = "update pending set created_at = created_at - 8 * 86400";
    store.write(move |db| Ok(Changed::quietly(db.execute(age, [])?))).await.expect("written");
    store.forget_old_pending().await.expect("written");
    assert_eq!(store.read().pending_count().await.expect("read"), 995, "those with files are gone");
}

#[tokio::test]
async fn what_subagents_said_to_a_chat_goes_with_it() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    for (chat_id, source) in [
        ("1", PendingSource::Subagent),
        ("1", PendingSource::SubagentFile),
        ("1", PendingSource::Heartbeat),
        ("2", PendingSource::Subagent),
    ] {
        insert_pending(&store, chat_id, source, 1).await;
    }
    store.delete_chat("1".into()).await.expect("deleted");
    let left = store.read().pending_after(0).await.expect("read");
    let left: Vec<_> = left.iter().map(|message| (message.chat_id.as_str(), message.source)).collect();
    assert_eq!(left, [("1", PendingSource::Heartbeat), ("2", PendingSource::Subagent)]);
}

#[tokio::test]
async fn calls_and_attachments_of_another_version_stop_no_chat() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    let turn = NewTurn::background(TurnKind::Chat, request("1"), "7".into());
    store.accept(turn, true).await.expect("written");
    let call = crate::model::ToolCall { id: "a".into(), name: "bash".into(), arguments: "{}".into() };
    let round = Round { position: 1, text: String::new(), calls: vec![call], had_deltas: false, spent_tokens: 0 };
    assert!(store.round(round).await.expect("written"));
    let result = ToolResult { call_id: "a".into(), text: "done".into() };
    let results = Results { position: 1, results: vec![result], events: vec![], had_output: false, steered_by: None };
    assert!(store.results(results).await.expect("written"));
    let spoil = "update messages set tool_calls = iif(role = 'assistant', '{\"new\":1}', null), \
                 attachments = iif(role = 'user', '[7]', null)";
    store.write(move |db| Ok(writer::Changed::quietly(db.execute(spoil, [])?))).await.expect("written");

    let started = store.start(1).await.expect("written").expect("open");
    assert_eq!(started.standing, Standing { rounds: 1, ..Standing::default() });
    let history = store.read().turn_messages(1).await.expect("read");
    assert_eq!(history.len(), 2, "no result without its call: {history:?}");
    assert!(history[0].attachments.is_empty() && history[1].message.bytes() > 0);
}

#[tokio::test]
async fn a_change_that_cannot_read_a_value_fails_no_other() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    let unreadable = || serde_json::from_str::<u8>("x").expect_err("no number");
    let fails = store.write::<(), _>(move |_| Err(unreadable().into()));
    let works = store.learn_tokens_per_byte("m".into(), 0.25);
    let (failed, worked) = tokio::join!(fails, works);
    assert!(matches!(failed, Err(StoreError::NotWritten)) && worked.is_ok());
    assert!(store.is_writable());
}

#[tokio::test]
async fn results_that_the_service_refused_are_neither_shown_nor_found_again() {
    let directory = TempDir::new().expect("temp dir");
    let (store, _writer) = Store::open(&directory.path().join("agent.db")).await.expect("a database");
    store.accept(NewTurn::background(TurnKind::Chat, request("1"), "7".into()), true).await.expect("written");
    for (id, text) in [("a", "the quagga"), ("b", "the zebra")] {
        let call = crate::model::ToolCall { id: id.into(), name: "bash".into(), arguments: "{}".into() };
        let round = Round { position: 1, text: String::new(), calls: vec![call], had_deltas: false, spent_tokens: 0 };
        assert!(store.round(round).await.expect("written"));
        let result = ToolResult { call_id: id.into(), text: text.into() };
        let results =
            Results { position: 1, results: vec![result], events: vec![], had_output: false, steered_by: None };
        assert!(store.results(results).await.expect("written"));
    }
    store.catch_up_index().await.expect("indexed");
    assert!(store.finish(Finish { results_refused: true, ..last_words(1) }).await.expect("written"));
    store.catch_up_index().await.expect("indexed");
    let found = async |word| store.read().search("1", word, 5).await.expect("found").len();
    assert_eq!((found("quagga").await, found("zebra").await, found("refused").await), (1, 0, 1));
    let history = store.read().turn_messages(1).await.expect("read");
    assert!(history.len() == 6 && history[4].message.bytes() > "the zebra".len(), "{history:?}");
    store.delete_chat("1".into()).await.expect("deleted");
    assert_eq!(found("refused").await, 0, "the index is whole");
}
