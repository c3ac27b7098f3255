//! What comes back from agents besides words: tools, files, drafts, introductions; and turns that are stopped or forgotten.

use baal::telegram::text::Place;
use baal::turns::store::{self, Kind, Request};
use baal::vault::Vault;
use baal_protocol::Role;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Builder, Message, Stack};

/// Ada, an agent of user 1 that users up to `users` are talking to.
async fn with_agent(builder: Builder, users: i64) -> (Stack, i64) {
    let stack = builder.start().await;
    let ada = stack.user(1).creates_agent("Ada", "You count.").await;
    for id in 1..=users {
        stack.user(id).asks(&format!("/start {ada}"), "talking to Ada").await;
    }
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    (stack, ada)
}

/// The model answers `question` with these replies, then with its persona.
async fn script(stack: &Stack, question: &str, replies: Value) {
    stack.simulator.tell_model("/sim/script", json!({"match": question, "replies": replies})).await;
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

/// An answer that takes about a minute.
fn slow() -> Value {
    let words: String = (1..=1_000).map(|n| format!("word{n} ")).collect();
    json!([{"content": words, "piece_delay_ms": 60}])
}

async fn calls(stack: &Stack, method: &str, chat: i64) -> Vec<Value> {
    let calls = stack.simulator.get(&format!("/sim/calls?method={method}&chat_id={chat}")).await;
    calls.as_array().unwrap().clone()
}

fn vault(stack: &Stack) -> Vault {
    Vault::new(&stack.baal(0).env()["BOT_ENCRYPTION_KEY"].clone().into()).unwrap()
}

/// Queues a turn that no message began, of user 1 in their own chat.
async fn queue(stack: &Stack, agent: i64, kind: Kind) {
    let place = Place { bot_id: 1_000_000_001, chat_id: 1, thread_id: None };
    let request = Request { message: String::new(), name: "Alice".into(), language_code: None };
    let mut conn = stack.db.acquire().await.unwrap();
    store::enqueue_special(&mut conn, &vault(stack), place, (agent, 1, Role::Owner), kind, &request).await.unwrap();
}

fn labels(message: &Message) -> Vec<String> {
    message.buttons().into_iter().map(|button| button.label).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_calls_are_a_line_that_goes_and_where_wanted_leaves_a_summary() {
    let (stack, _) = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    let replies = json!([
        {"content": "Let me look.", "tool_calls": [call("list_dir", json!({})), call("list_dir", json!({}))]},
        {"tool_calls": [call("read_file", json!({"path": "a *b*.md"}))], "delay_ms": 1_500},
        {"content": "All done.", "delay_ms": 3_000},
    ]);
    script(&stack, "look", replies.clone()).await;
    ann.says("look").await;
    let growing = ann.wait_for(|m| m.text.ends_with("🔧 read_file: a *b*.md")).await;
    assert_eq!(growing.text, "Let me look.\n\n🔧 read_file: a *b*.md");
    let italic = json!({"type": "italic", "offset": 14, "length": 22});
    assert!(growing.entities.contains(&italic), "{:?}", growing.entities);
    let whole = ann.wait_for(|m| m.text.ends_with("All done.")).await;
    assert_eq!((&*whole.text, whole.message_id), ("Let me look.\n\nAll done.", growing.message_id));

    sqlx::query("update users set tool_lines = true where id = 1").execute(&stack.db).await.unwrap();
    script(&stack, "look", replies).await;
    let whole = ann.asks("look", "All done.\n\n🔧 list_dir ×2, read_file").await;
    assert_eq!(whole.text, "Let me look.\n\nAll done.\n\n🔧 list_dir ×2, read_file");
    // A line of its own may come before any words.
    script(
        &stack,
        "silently",
        json!([{"tool_calls": [call("list_dir", json!({}))]}, {"content": "Well.", "delay_ms": 1_500}]),
    )
    .await;
    ann.says("silently").await;
    let line = ann.wait_for(|m| m.text == "🔧 list_dir").await;
    let whole = ann.wait_for(|m| m.text == "Well.\n\n🔧 list_dir").await;
    assert_eq!(line.message_id, whole.message_id);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_ends_what_runs_and_gives_back_what_waits() {
    let (stack, _) = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    ann.asks("/stop", "Nothing is running here.").await;
    script(&stack, "count", slow()).await;
    ann.says("count").await;
    let growing = ann.wait_for(|m| m.text.starts_with("word1 ")).await;
    ann.says("second").await;
    ann.says("third").await;
    stack.handles_all().await;
    ann.asks("/stop", "⏹ Stopping… 2 messages that were waiting won't be answered either.").await;
    let stopped = ann.wait_for(|m| m.text.starts_with("word1 ") && m.text.ends_with("\n\n⏹ Stopped.")).await;
    assert_eq!(stopped.message_id, growing.message_id);
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from turns where status = 'cancelled'").await, 2);
    assert_eq!(stack.sql::<i32>("select messages from usage where user_id = 1").await, 1, "what waited is given back");
    // The agent is free for the next one, and was never told of what waited.
    ann.asks("hello", "You said: “hello”").await;
    // Its beginning is not yet its end.
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    let asked = stack.simulator.ask_model("/sim/requests").await;
    assert!(!asked.to_string().contains("third"), "{asked}");
    ann.asks("/stop", "Nothing is running here.").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reaches_the_replica_that_runs_the_turn() {
    const USERS: i64 = 6;
    let (stack, _) = with_agent(Stack::builder().replicas(2), USERS).await;
    for id in 1..=USERS {
        script(&stack, &format!("count {id}."), slow()).await;
        stack.user(id).says(&format!("count {id}.")).await;
    }
    for id in 1..=USERS {
        stack.user(id).wait_for(|m| m.text.starts_with("word1 ")).await;
    }
    let stack = &stack;
    join_all((1..=USERS).map(|id| async move { stack.user(id).asks("/stop", "⏹ Stopping…").await })).await;
    stack.wait_for_sql("select count(*) from turns where status = 'cancelled'", USERS).await;
    for id in 1..=USERS {
        stack.user(id).wait_for(|m| m.text.starts_with("word1 ") && m.text.ends_with("⏹ Stopped.")).await;
    }
    // What the dead had in hand is stopped as well.
    script(stack, "once more", slow()).await;
    stack.user(1).says("once more").await;
    stack.wait_for_sql("select count(*) from turns where first_piece is not null and not done", 1i64).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_silence_offers_a_button_that_stops_the_turn() {
    let (stack, _) = with_agent(Stack::builder().patience(std::time::Duration::from_secs(60)), 2).await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    script(&stack, "think hard", json!([{"hang": true}])).await;
    ann.says("think hard").await;
    let waiting = ann.wait_for(|m| labels(m) == ["⏹ Stop"]).await;
    assert_eq!(waiting.text, "⏳ Still at work on this…");
    let data = &waiting.buttons()[0].data;
    // Not whoever knows its id.
    let forged = bob.forges(waiting.message_id, data).await;
    assert_eq!(stack.simulator.notice(&forged).await, "That has ended already.");
    let pressed = ann.press(waiting.message_id, data).await;
    assert_eq!(stack.simulator.notice(&pressed).await, "Stopping…");
    let stopped = ann.wait_for(|m| m.message_id == waiting.message_id && m.text == "⏹ Stopped.").await;
    assert_eq!(labels(&stopped), Vec::<String>::new());
    let late = ann.forges(waiting.message_id, data).await;
    assert_eq!(stack.simulator.notice(&late).await, "That has ended already.");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clears_the_chats_history_once_it_is_confirmed() {
    let (stack, ada) = with_agent(Stack::builder(), 2).await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    stack.user(3).asks("/new", "You aren't talking to an agent yet").await;
    bob.asks("mine", "This is message 1 of our conversation").await;
    ann.asks("one", "of our conversation").await;
    let question = ann.asks("/new", "🧹 Start afresh with Ada?").await;
    assert_eq!(labels(&question), ["🧹 Start afresh", "Go on as before"]);
    ann.presses("Go on as before").await;
    ann.wait_for(|m| m.text == "Nothing was cleared. Simply go on writing to Ada.").await;
    let question = ann.asks("/new", "🧹 Start afresh with Ada?").await;
    let (confirm, cleared) =
        (question.buttons()[0].data.clone(), "✨ A fresh start: Ada has forgotten what was said here.");
    ann.press(question.message_id, &confirm).await;
    ann.wait_for(|m| m.text.starts_with(cleared)).await;
    ann.asks("two", "This is message 1 of our conversation").await;
    // Others' chats are their own.
    bob.asks("still mine", "This is message 2 of our conversation").await;
    // A button of a chat with somebody else does nothing.
    let forged = stack.user(3).forges(question.message_id, &format!("new!:{ada}")).await;
    assert_eq!(stack.simulator.notice(&forged).await, "This button is from an earlier step.");
    assert_eq!(stack.sql::<i64>("select count(*) from turns where kind = 'reset'").await, 1);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_follow_their_text_in_order() {
    let (stack, _) = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    let (write, send) = (
        |path: &str| call("write_file", json!({"path": path, "content": "12345"})),
        |path: &str, caption: &str| call("send_file", json!({"path": path, "caption": caption})),
    );
    let replies = json!([
        {"tool_calls": [write("one.txt"), write("two.csv")]},
        {"tool_calls": [send("one.txt", "The *first*"), send("two.csv", "")]},
        {"content": "Here you are."},
    ]);
    script(&stack, "files, please", replies).await;
    ann.says("files, please").await;
    let sent = |messages: &[Message]| -> Option<Vec<Message>> {
        let below = messages.iter().rev().find(|m| !m.from.is_bot)?.message_id;
        let sent: Vec<_> = messages.iter().filter(|m| m.is_reply() && m.message_id > below).cloned().collect();
        (sent.len() == 3 && sent[0].text == "Here you are.").then_some(sent)
    };
    let sent = ann.wait_until(sent).await;
    let name = |message: &Message| message.more["document"]["file_name"].as_str().unwrap().to_owned();
    assert_eq!((name(&sent[1]), name(&sent[2])), ("one.txt".into(), "two.csv".into()));
    // The simulator shows a caption as its message's text.
    assert_eq!((&*sent[1].text, &*sent[2].text), ("The first", ""));
    assert_eq!(sent[1].entities, [json!({"type": "italic", "offset": 4, "length": 5})]);

    // Files alone need no words, and the line that told of the tools is taken back.
    let replies = json!([
        {"tool_calls": [call("list_dir", json!({}))]},
        {"tool_calls": [send("one.txt", "")], "delay_ms": 2_000},
        {"content": "", "delay_ms": 100},
    ]);
    script(&stack, "without a word", replies).await;
    ann.says("without a word").await;
    ann.wait_for(|m| m.text.contains("🔧 list_dir")).await;
    let last = ann.wait_until(|messages| messages.last().filter(|m| m.more.contains_key("document")).cloned()).await;
    assert_eq!(name(&last), "one.txt");
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_grow_and_one_message_takes_their_place() {
    let (stack, _) = with_agent(Stack::builder().env("STREAM_MODE", "draft"), 2).await;
    let text: String = (1..=80).map(|n| format!("word{n} ")).collect();
    // The card that tells of the agent's creation is a message that is edited, too.
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let edits = (calls(&stack, "editMessageText", 1).await.len(), calls(&stack, "sendMessage", 1).await.len());
    let replies = json!([{"content": text, "piece_delay_ms": 50}]);
    script(&stack, "count one", replies.clone()).await;
    let whole = stack.user(1).asks("count one", "word80").await;
    assert_eq!(whole.text, text.trim());
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let drafts = calls(&stack, "sendMessageDraft", 1).await;
    assert!(drafts.len() >= 2, "{} drafts", drafts.len());
    let after = (calls(&stack, "editMessageText", 1).await.len(), calls(&stack, "sendMessage", 1).await.len());
    assert_eq!(after, (edits.0, edits.1 + 1), "one message, and no edit");
    assert_eq!(stack.sql::<i64>("select count(*) from turns where first_piece is not null").await, 0);

    // Where drafts fail, the answer grows as a message.
    let fault = json!({"method": "sendMessageDraft", "chat_id": 2, "times": 2, "kind": "500"});
    stack.simulator.post("/sim/faults", json!([fault])).await;
    script(&stack, "count two", json!([{"content": text, "piece_delay_ms": 80}])).await;
    let whole = stack.user(2).asks("count two", "word80").await;
    assert_eq!(whole.text, text.trim());
    assert_eq!(stack.sql::<i64>("select count(*) from turns where first_piece is not null").await, 1);
    assert_eq!(calls(&stack, "sendMessageDraft", 2).await.len(), 2);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_introduces_itself_or_says_nothing_and_it_counts_nowhere() {
    let (stack, ada) = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    let before = stack.sql::<i64>("select count(*) from turns").await;
    script(&stack, "You have just been created", json!([{"content": "Ahoy, I am Ada, freshly made."}])).await;
    queue(&stack, ada, Kind::Hello).await;
    ann.wait_for(|m| m.text == "Ahoy, I am Ada, freshly made.").await;
    // One that fails is not worth a word.
    script(&stack, "You have just been created", json!([{"status": 401}])).await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let messages = ann.messages().await.len();
    queue(&stack, ada, Kind::Hello).await;
    stack.wait_for_sql("select count(*) from turns where kind = 'hello' and status = 'failed'", 1i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    assert_eq!(ann.messages().await.len(), messages, "a failed introduction is told");
    assert_eq!(stack.sql::<i64>("select coalesce(sum(messages), 0)::int8 from usage").await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, before + 2);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_forgotten_in_silence_as_soon_as_the_agent_can_be_reached() {
    let (stack, ada) = with_agent(Stack::builder(), 1).await;
    let ann = stack.user(1);
    ann.asks("one", "of our conversation").await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let messages = ann.messages().await.len();
    sqlx::query("update agents set status = 'failed'").execute(&stack.db).await.unwrap();
    queue(&stack, ada, Kind::Forget).await;
    // Tried, and still to be done.
    stack
        .wait_for_sql(
            "select count(*) from turns where kind = 'forget' and attempt >= 2 and not done and claimed_by is null",
            1i64,
        )
        .await;
    sqlx::query("update turns set run_at = now() + interval '1 hour' where not done").execute(&stack.db).await.unwrap();
    sqlx::query("update agents set status = 'running'").execute(&stack.db).await.unwrap();
    assert_eq!(ann.messages().await.len(), messages, "it is not talked about");
    // Whoever goes on talking need not wait for it.
    ann.asks("meanwhile", "This is message 2 of our conversation").await;
    stack.wait_for_sql("select count(*) from turns where not done", 1i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let messages = ann.messages().await.len();
    sqlx::query("update turns set run_at = now() where not done").execute(&stack.db).await.unwrap();
    stack.wait_for_sql("select count(*) from turns where kind = 'forget' and status = 'completed'", 1i64).await;
    assert_eq!(ann.messages().await.len(), messages, "it is not talked about");
    ann.asks("two", "This is message 1 of our conversation").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_offered_to_repair_an_agent_and_visitors_are_told_of_its_owner() {
    let (stack, ada) = with_agent(Stack::builder(), 2).await;
    let secret = vault(&stack).encrypt(b"another secret");
    sqlx::query("update agents set secret = $1").bind(secret).execute(&stack.db).await.unwrap();
    let told = stack.user(1).asks("hello", "Ada doesn't accept this bot any more. Repair it").await;
    assert_eq!(labels(&told), ["🔁 Try again", "🔧 Repair"]);
    assert_eq!(told.buttons()[1].data, format!("repair:{ada}"));
    let told = stack.user(2).asks("hello", "Its owner has to repair it.").await;
    assert_eq!(labels(&told), ["🔁 Try again"]);
    stack.wait_for_sql("select coalesce(sum(messages), 0)::int8 from usage", 0i64).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_is_gone_ends_its_turn() {
    let (stack, _) = with_agent(Stack::builder(), 2).await;
    let bob = stack.user(2);
    script(&stack, "count", slow()).await;
    bob.says("count").await;
    bob.wait_for(|m| m.text.starts_with("word1 ")).await;
    bob.blocks().await;
    stack.wait_for_sql("select count(*) from turns where chat_id = 2 and status = 'failed'", 1i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    bob.unblocks().await;
    bob.asks("hello again", "You said: “hello again”").await;
    stack.simulator.assert_good_manners().await;
}
