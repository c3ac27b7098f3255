use super::*;
use crate::model::Message;
use crate::store::{Bounds, Store, StoredMessage};
use rusqlite::Connection;
use std::collections::HashSet;
use std::path::PathBuf;
use tempfile::TempDir;

/// As the Python agent makes it.
const SCHEMA: &str = "pragma journal_mode = wal;
    create table messages (id integer primary key autoincrement, chat_id text not null, role text not null, content text,
      tool_calls text, tool_call_id text, created_at text not null default (datetime('now')));
    create index idx_messages_chat on messages (chat_id, created_at);
    create table pending_messages (id integer primary key autoincrement, chat_id text not null, content text not null,
      source text not null default 'system', created_at text not null default (datetime('now')));";

struct Machine {
    directory: TempDir,
    pythons: Connection,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let pythons = Connection::open(directory.path().join("python.db")).expect("a database");
        pythons.execute_batch(SCHEMA).expect("its schema");
        Self { directory, pythons }
    }

    fn says(&self, sql: &str) {
        self.pythons.execute_batch(sql).expect("written");
    }

    fn from(&self) -> PathBuf {
        self.directory.path().join("python.db")
    }

    fn to(&self) -> PathBuf {
        self.directory.path().join("ours/agent.db")
    }

    fn import(&self) -> Imported {
        import(&self.from(), &self.to()).expect("imported")
    }

    /// What the model would be told of a chat, without what a summary stands for.
    async fn told(&self, chat: &str) -> (Option<String>, Vec<Message>) {
        let (store, writer) = Store::open(&self.to()).await.expect("ours");
        let summary = store.read().summary(chat).await.expect("read");
        let after = summary.as_ref().map_or(0, |summary| summary.up_to);
        let bounds = Bounds { max: 1_000, max_bytes: 1_000_000, short: 1_000_000 };
        let said = store.read().messages_before(chat, after, i64::MAX, bounds).await.expect("read");
        store.close().await;
        writer.await.expect("ended");
        (
            summary.map(|summary| summary.content),
            said.into_iter().map(|StoredMessage { message, .. }| message).collect(),
        )
    }
}

/// Whether a service would take it: every call has its one result right behind it, and no result is without.
fn is_readable(messages: &[Message]) -> bool {
    let mut open: HashSet<&str> = HashSet::new();
    for message in messages {
        match message {
            Message::Tool { call_id, .. } if !open.remove(call_id.as_str()) => return false,
            Message::Tool { .. } => {}
            _ if !open.is_empty() => return false,
            Message::Assistant { calls, text } => {
                open = calls.iter().map(|call| call.id.as_str()).collect();
                if open.len() != calls.len() || (calls.is_empty() && text.is_empty()) {
                    return false;
                }
            }
            _ => {}
        }
    }
    open.is_empty()
}

fn call(id: &str, name: &str) -> String {
    format!(r#"[{{"id": "{id}", "type": "function", "function": {{"name": "{name}", "arguments": "{{}}"}}}}]"#)
}

#[tokio::test]
async fn each_chat_keeps_its_history_with_calls_and_results() {
    let machine = Machine::new();
    machine.says(&format!(
        "insert into messages (chat_id, role, content, tool_calls, tool_call_id, created_at) values
           ('7', 'user', 'list it', null, null, '2026-01-01T00:00:00.000001+00:00'),
           ('-100', 'user', 'in a group', null, null, '2026-01-01T00:00:00.5+00:00'),
           ('7', 'assistant', null, '{}', null, '2026-01-01T00:00:01+00:00'),
           ('7', 'tool', 'a.txt', null, 'c1', '2026-01-01T00:00:02+00:00'),
           ('7', 'assistant', 'There is a.txt.', null, null, '2026-01-01T00:00:03+00:00')",
        call("c1", "list_dir")
    ));
    let done = machine.import();
    assert_eq!(done, Imported { before: false, chats: 2, messages: 5, left_out: 0, pending: 0 });
    let (summary, told) = machine.told("7").await;
    assert_eq!(summary, None);
    let calls = vec![crate::model::ToolCall { id: "c1".into(), name: "list_dir".into(), arguments: "{}".into() }];
    let expected = [
        Message::user("list it".into()),
        Message::Assistant { text: String::new(), calls },
        Message::tool("c1".into(), "a.txt".into()),
        Message::assistant("There is a.txt.".into()),
    ];
    assert_eq!(told, expected);
    assert_eq!(machine.told("-100").await.1, [Message::user("in a group".into())]);
    let at: i64 = Connection::open(machine.to())
        .expect("ours")
        .query_row("select created_at from messages where content = 'a.txt'", [], |row| row.get(0))
        .expect("a time");
    assert_eq!(at, 1_767_225_602);
}

#[tokio::test]
async fn whatever_was_kept_a_model_can_read_it() {
    let machine = Machine::new();
    // In this order, one second after another.
    let lines = [
        ("tool", Some("of a call that was compacted away"), None, Some("gone")),
        ("user", Some("one"), None, None),
        ("assistant", None, Some(call("a", "bash")), None),
        ("user", Some("two, while the first is at work"), None, None),
        ("assistant", Some("second"), Some(call("b", "web search!")), None),
        ("tool", Some("result a"), None, Some("a")),
        ("tool", Some("result b"), None, Some("b")),
        ("tool", Some("again a"), None, Some("a")),
        ("assistant", Some("cut off"), Some(call("c", "bash")), None),
        ("assistant", Some("broken"), Some("[{oops".to_owned()), None),
        ("tool", Some("of the broken"), None, Some("d")),
        ("assistant", None, Some(r#"{"not": "a list"}"#.to_owned()), None),
        ("assistant", None, None, None),
        ("assistant", Some(""), Some("[]".to_owned()), None),
        ("system", Some("of another age"), None, None),
        ("user", None, None, None),
        (
            "assistant",
            None,
            Some(format!("{},{}", call("e", "x").trim_end_matches(']'), call("e", "y").trim_start_matches('['))),
            None,
        ),
        ("tool", Some("e1"), None, Some("e")),
        ("tool", Some("e2"), None, Some("e")),
        ("user", Some("end"), None, None),
    ];
    for (at, (role, content, calls, id)) in lines.iter().enumerate() {
        machine
            .pythons
            .execute(
                "insert into messages (chat_id, role, content, tool_calls, tool_call_id, created_at) values (7, ?, ?, ?, ?, ?)",
                params![role, content, calls, id, format!("2026-01-01T00:00:{at:02}+00:00")],
            )
            .expect("written");
    }
    let done = machine.import();
    let (_, told) = machine.told("7").await;
    assert!(is_readable(&told), "{told:#?}");
    assert_eq!(done.messages, told.len() as u64);
    // Two orphans, the one of the broken calls, two without words, one of a role that nobody has, an empty person.
    assert_eq!(done.left_out, 7);
    let words: String = told.iter().map(|message| format!("{message:?}\n")).collect();
    for kept in ["result a", "result b", "e1", "e2", "cut off", "broken", "web_search_", "two, while"] {
        assert!(words.contains(kept), "{kept} is missing: {words}");
    }
    assert!(words.find("result a") < words.find("two, while"), "a result belongs behind its call: {words}");
}

#[tokio::test]
async fn a_summary_is_told_as_one_and_what_is_behind_it_word_for_word() {
    let machine = Machine::new();
    machine.says(
        "insert into messages (chat_id, role, content, created_at) values
           ('7', 'user', 'newest', '2026-01-01T00:00:10+00:00'),
           ('7', 'user', '[Earlier conversation summary]' || char(10, 10) || 'Ann likes tea.', '2026-01-01T00:00:08+00:00'),
           ('7', 'assistant', 'Understood, I have the context.', '2026-01-01T00:00:09+00:00')",
    );
    machine.import();
    let (summary, told) = machine.told("7").await;
    assert_eq!(summary.as_deref(), Some("Ann likes tea."));
    assert_eq!(told, [Message::user("newest".into())]);
}

#[tokio::test]
async fn what_waits_to_be_said_still_is() {
    let machine = Machine::new();
    machine.says(
        r#"insert into pending_messages (chat_id, content, source, created_at) values
           ('7', '[Heartbeat] rain', 'heartbeat', '2026-01-01 00:00:00'),
           ('8', '[Task: x] done', 'subagent', 'some day'),
           ('7', '{"type": "file", "path": "out/a.pdf", "caption": "yours"}', 'heartbeat_file', '2026-01-01 00:00:01'),
           ('7', 'by hand', 'system', '2026-01-01 00:00:02')"#,
    );
    assert_eq!(machine.import().pending, 4);
    let ours = Connection::open(machine.to()).expect("ours");
    let mut waiting =
        ours.prepare("select chat_id || ' ' || source || ' ' || content from pending order by id").expect("sql");
    let waiting: Vec<String> =
        waiting.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("text");
    let expected = [
        "7 heartbeat [Heartbeat] rain",
        "7 heartbeat [File] out/a.pdf is ready in the workspace: yours",
        "7 heartbeat by hand",
        "8 subagent [Task: x] done",
    ];
    assert_eq!(waiting, expected);
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_the_source_is_never_written() {
    let machine = Machine::new();
    machine.says(
        "insert into messages (chat_id, role, content) values ('7', 'user', 'once'), ('__heartbeat__', 'user', 'h')",
    );
    let source = || std::fs::read(machine.from()).expect("the source");
    let before = source();
    let first = machine.import();
    machine.says("insert into messages (chat_id, role, content) values ('7', 'user', 'later')");
    let again = machine.import();
    assert_eq!(again, Imported { before: true, ..first });
    assert_eq!(before, source(), "what was written after it is in its log");
    assert_eq!(machine.told("7").await.1, [Message::user("once".into())]);
    assert_eq!(machine.told(HEARTBEAT_CHAT).await.1, [Message::user("h".into())]);
}

#[test]
fn what_is_no_database_of_its_is_refused_and_nothing_is_noted() {
    let machine = Machine::new();
    let other = machine.directory.path().join("other.db");
    std::fs::write(
        &other,
        "no database at all, but longer than a header, in fact quite long, really, quite long by now",
    )
    .expect("written");
    assert!(matches!(import(&other, &machine.to()), Err(ImportError::Source { .. })));
    assert!(matches!(import(&machine.directory.path().join("none"), &machine.to()), Err(ImportError::Source { .. })));
    // An agent that nobody ever wrote to.
    let empty = machine.directory.path().join("empty.db");
    Connection::open(&empty).expect("a database").execute_batch("create table x (y)").expect("a table");
    machine.says("insert into messages (chat_id, role, content) values ('7', 'user', 'once')");
    assert_eq!(machine.import().messages, 1);
}
