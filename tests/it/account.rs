//! Keys of people's own: connected, moved to, taken back, and never to be seen anywhere.

use serde_json::{Value, json};

use crate::bot::data;
use crate::harness::{Message, Stack, User};

const KEY: &str = "sk-0123456789-of-ann-abcdef";

/// Every row of every table as text, but for what is encrypted.
pub async fn dump(stack: &Stack) -> String {
    let tables: Vec<String> =
        sqlx::query_scalar("select table_name::text from information_schema.tables where table_schema = 'public'")
            .fetch_all(&stack.db)
            .await
            .unwrap();
    let mut dump = String::new();
    for table in tables {
        let rows = sqlx::AssertSqlSafe(format!("select coalesce(string_agg(t::text, E'\\n'), '') from {table} t"));
        let rows: String = sqlx::query_scalar(rows).fetch_one(&stack.db).await.unwrap();
        dump.push_str(&format!("── {table}\n{rows}\n"));
    }
    dump
}

/// What the programs and their agents wrote down, but for agents' configuration.
fn logs(stack: &Stack) -> String {
    let mut files = vec![];
    for dir in [stack.dir().to_owned()].into_iter().chain(stack.agent_dirs()) {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")));
    }
    files.into_iter().map(|file| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()).collect()
}

/// The key is neither in the database nor in a log, in clear or as the bytes of a column.
#[track_caller]
fn is_nowhere(key: &str, dump: &str, logs: &str) {
    let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    for (what, text) in [("the database", dump), ("the logs", logs)] {
        assert!(!text.contains(key) && !text.contains(&hex), "the key is in {what}");
    }
}

/// Agents' configurations that hold this key.
fn configured_with(stack: &Stack, key: &str) -> usize {
    let configs =
        stack.agent_dirs().into_iter().filter_map(|dir| std::fs::read_to_string(dir.join("config.json")).ok());
    configs.filter(|config| config.contains(key)).count()
}

async fn asked_with(stack: &Stack, key: &str) -> u64 {
    stack.simulator.ask_model("/sim/requests").await["by_key"][key].as_u64().unwrap_or(0)
}

/// Waits until the message with this id says something.
async fn becomes(user: &User<'_>, message_id: i64, part: &str) -> Message {
    user.wait_for(|message| message.message_id == message_id && message.text.contains(part)).await
}

async fn is_deleted(user: &User<'_>, said: &Value) {
    let id = said["message_id"].as_i64().unwrap();
    user.wait_until(|messages| messages.iter().any(|m| m.message_id == id && m.deleted).then_some(())).await;
}

async fn logs_in(user: &User<'_>, key: &str) -> Message {
    user.says(&format!("/login {key}")).await;
    user.wait_for(|m| m.text.contains("Your LibertAI account is connected")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_checked_and_connected_and_seen_nowhere_afterwards() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let said = ann.says(&format!("/login {KEY}")).await;
    is_deleted(&ann, &said).await;
    let card = ann.wait_for(|m| m.text.contains("Your LibertAI account is connected")).await;
    assert!(card.text.contains("Key: sk-…cdef\nBalance: 25.00 credits"), "{}", card.text);
    // The card grew out of the first answer.
    assert!(ann.messages().await.iter().filter(|m| m.is_reply()).count() == 1);

    // In a dialogue the same.
    let other = "LTAI-another-key-123456";
    ann.asks("/login", "Send me a key of yours").await;
    let said = ann.says(&format!(" {other}\n")).await;
    is_deleted(&ann, &said).await;
    ann.wait_for(|m| m.text.contains("Key: …3456")).await;
    assert_eq!(stack.sql::<i32>("select key_version from users").await, 2);
    stack.wait_for_sql("select count(*) from errands where not done or request <> ''", 0i64).await;
    stack.wait_for_sql("select count(*) from updates where not done or body <> ''", 0i64).await;

    // Whoever edits a message into one with a key, or sends it into a group, has it deleted there too.
    let (dump, logs) = (dump(&stack).await, logs(&stack));
    for key in [KEY, other] {
        is_nowhere(key, &dump, &logs);
    }
    assert_eq!(stack.errors(), Vec::<String>::new());
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_good_is_deleted_all_the_same_and_its_user_told_why() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let accounts = [
        json!({"key": "sk-empty-account", "status": 402}),
        json!({"key": "sk-nonsense-12345", "raw": "<html>who are you?</html>"}),
        json!({"key": "sk-nobody-home-123", "status": 503}),
        json!({"key": "sk-nearly-empty-1", "balance": 0}),
    ];
    for account in accounts {
        stack.simulator.tell_model("/sim/accounts", account).await;
    }
    let tries = [
        ("bad-key-123456789", "LibertAI doesn't know this key"),
        ("sk-empty-account", "its account has no credits left"),
        ("sk-nonsense-12345", "something that I don't understand"),
        ("sk-nobody-home-123", "LibertAI can't be reached"),
        ("two words", "That doesn't look like a key"),
        ("short", "That doesn't look like a key"),
    ];
    for (key, why) in tries {
        let said = ann.says(&format!("/login {key}")).await;
        is_deleted(&ann, &said).await;
        let last = said["message_id"].as_i64().unwrap();
        ann.wait_for(|m| m.message_id > last && m.text.contains(why)).await;
    }
    assert_eq!(stack.sql::<i64>("select count(*) from users where libertai_key is not null").await, 0);
    ann.asks("/account", "🆓 Free").await;
    ann.asks("/logout", "No key is connected").await;
    // One without credits is connected, with a word about that.
    ann.asks("/login sk-nearly-empty-1", "the account is empty").await;
    let (dump, logs) = (dump(&stack).await, logs(&stack));
    for key in tries.iter().map(|(key, _)| key).filter(|key| key.len() > 9) {
        is_nowhere(key, &dump, &logs);
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_move_to_their_owners_key_and_back_and_none_has_it_once_that_is_done() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = ann.creates_agent("Ada", "You count.").await;
    ann.asks("hello", "message 1 of our conversation").await;
    let used = "select messages from usage where user_id = 1";
    assert_eq!(stack.sql::<i32>(used).await, 1);

    let card = logs_in(&ann, KEY).await;
    assert!(card.text.contains("One of your agents still runs on another key"), "{}", card.text);
    ann.asks("still free?", "message 2 of our conversation").await;
    assert_eq!((stack.sql::<i32>(used).await, asked_with(&stack, KEY).await), (2, 0));
    ann.press(card.message_id, &data(&card, "Move my agent")).await;
    becomes(&ann, card.message_id, "Your agents run on your key now").await;
    assert_eq!(configured_with(&stack, KEY), 1);
    ann.asks("and now?", "message 3 of our conversation").await;
    assert_eq!(stack.sql::<i32>(used).await, 2, "what runs on one's own key does not count");
    assert!(asked_with(&stack, KEY).await > 0);

    // A new one has it from the start, and the account tells of it all.
    ann.creates_agent("Bea", "You wait.").await;
    assert_eq!(stack.sql::<String>("select string_agg(deployed_key::text, ' ' order by id) from agents").await, "1 1");
    let account = ann.asks("/account", "Connected to LibertAI with the key sk-…cdef").await;
    let account = becomes(&ann, account.message_id, "Balance: 25.00 credits").await;
    assert!(account.text.contains("Agents: 2 of 3 (2 running)"), "{}", account.text);
    assert!(account.text.contains("Free messages today: 2 of 1000 used"), "{}", account.text);

    // A restart of the program does not change whose key it is.
    stack.baal(0).restart().await;
    let question = ann.asks("/logout", "Log out from LibertAI?").await;
    assert!(question.text.contains("2 of your agents run on it"), "{}", question.text);
    let logout = data(&question, "🚪 Log out");
    ann.press(question.message_id, &logout).await;
    becomes(&ann, question.message_id, "none of your agents has it any more").await;
    assert_eq!(configured_with(&stack, KEY), 0);
    assert_eq!(stack.sql::<i64>("select count(*) from users where libertai_key is not null").await, 0);
    let asked = asked_with(&stack, KEY).await;
    ann.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    ann.asks("free again?", "message 4 of our conversation").await;
    assert_eq!((stack.sql::<i32>(used).await, asked_with(&stack, KEY).await), (3, asked));
    // Once more the same button, from a client that still shows it.
    let query = ann.forges(question.message_id, &logout).await;
    assert_eq!(stack.simulator.notice(&query).await, "No key is connected.");
    is_nowhere(KEY, &dump(&stack).await, &logs(&stack));
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_reached_is_paused_until_a_repair_has_taken_the_key_away() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    logs_in(&ann, KEY).await;
    let ada = ann.creates_agent("Ada", "You count.").await;
    assert_eq!(configured_with(&stack, KEY), 1);
    sqlx::query("update agents set status = 'failed'").execute(&stack.db).await.unwrap();
    let question = ann.asks("/logout", "Log out from LibertAI?").await;
    ann.press(question.message_id, &data(&question, "🚪 Log out")).await;
    let card = becomes(&ann, question.message_id, "couldn't be reached").await;
    assert!(card.text.contains(&format!("Ada (no. {ada}): /repair {ada}")), "{}", card.text);
    assert_eq!(stack.sql::<i64>("select count(*) from agents where paused is not null and deployed_key = 1").await, 1);
    ann.asks("/account", "⏸ 1 paused").await;
    // It does not get messages even if it should come back by itself.
    sqlx::query("update agents set status = 'running'").execute(&stack.db).await.unwrap();
    ann.says(&format!("/repair {ada}")).await;
    stack
        .wait_for_sql(
            "select count(*) from agents where status = 'running' and paused is null and deployed_key = 0",
            1i64,
        )
        .await;
    assert_eq!(configured_with(&stack, KEY), 0);
    assert!(!stack.sql::<bool>("select may_hold_key from agents").await);
    ann.asks("hello", "message 1 of our conversation").await;
    // A key that was about to be installed, and perhaps was: nobody saw the end of that.
    sqlx::query("update agents set status = 'failed', may_hold_key = true").execute(&stack.db).await.unwrap();
    let question = ann.asks("/logout", "Log out from LibertAI?").await;
    ann.press(question.message_id, &data(&question, "🚪 Log out")).await;
    becomes(&ann, question.message_id, "couldn't be reached").await;
    let paused = "select count(*) from agents where paused is not null and deployed_key = 0";
    assert_eq!(stack.sql::<i64>(paused).await, 1);
    ann.says(&format!("/repair {ada}")).await;
    let well = "select count(*) from agents where status = 'running' and paused is null and not may_hold_key";
    stack.wait_for_sql(well, 1i64).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_overtakes_a_key_that_is_being_checked() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    logs_in(&ann, KEY).await;
    let slow = "sk-a-slow-account-77";
    stack.simulator.tell_model("/sim/accounts", json!({"key": slow, "delay_ms": 3_000})).await;
    let question = ann.asks("/logout", "Log out from LibertAI?").await;
    let checking = ann.asks(&format!("/login {slow}"), "Checking your key").await;
    ann.press(question.message_id, &data(&question, "🚪 Log out")).await;
    becomes(&ann, checking.message_id, "you logged out meanwhile").await;
    becomes(&ann, question.message_id, "You are logged out").await;
    stack.wait_for_sql("select count(*) from errands where not done or claimed_by is not null", 0i64).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(stack.sql::<i64>("select count(*) from users where libertai_key is not null").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_errand_goes_on_after_its_program_was_killed() {
    let stack = Stack::builder().env("LEASE_SECONDS", 3).start().await;
    let ann = stack.user(1);
    let slow = "sk-a-slow-account-77";
    stack.simulator.tell_model("/sim/accounts", json!({"key": slow, "delay_ms": 2_000})).await;
    ann.asks(&format!("/login {slow}"), "Checking your key").await;
    stack.wait_for_sql("select count(*) from errands where claimed_by is not null", 1i64).await;
    stack.baal(0).kill9();
    stack.baal(0).start().await;
    ann.wait_for(|m| m.text.contains("Your LibertAI account is connected")).await;
    assert_eq!(stack.sql::<i32>("select key_version from users").await, 1);
    is_nowhere(slow, &dump(&stack).await, &logs(&stack));
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_lines_are_kept_or_not_as_one_likes() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let kept = "select tool_lines from users";
    ann.asks("/verbose", "From now on answers keep a line").await;
    assert!(stack.sql::<bool>(kept).await);
    ann.asks("/verbose on", "From now on answers keep a line").await;
    ann.asks("/verbose", "shown only while the agent works").await;
    assert!(!stack.sql::<bool>(kept).await);
    ann.asks("/verbose maybe", "Send /verbose on or /verbose off").await;
    let card = ann.asks("/account", "🆓 Free: your agents run on the key of this bot.").await;
    assert!(card.text.contains("Agents: 0 of 3\n") && card.text.contains("(00:00 UTC)"), "{}", card.text);
    ann.press(card.message_id, &data(&card, "Connect LibertAI")).await;
    let question = ann.wait_for(|m| m.text.contains("Send me a key of yours")).await;
    ann.press(question.message_id, &data(&question, "Cancel")).await;
    becomes(&ann, question.message_id, "everything stays as it was").await;
    assert_eq!(stack.sql::<i64>("select count(*) from conversations where dialogue is not null").await, 0);
    // Forged presses of what is not there change nothing.
    for press in ["me:redeploy", "me:logout", "me:logout?"] {
        let query = ann.forges(question.message_id, press).await;
        assert_eq!(stack.simulator.notice(&query).await, "No key is connected.");
    }
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_deleted_wherever_it_is_shown() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    ann.asks("/start", "Hello").await;
    // A message that is handled in no way: its update is given up.
    sqlx::query("alter table errands rename to lost_errands").execute(&stack.db).await.unwrap();
    ann.says(&format!("/login {KEY}")).await;
    ann.wait_until(|messages| messages.iter().any(|m| m.text.starts_with("/login") && m.deleted).then_some(())).await;
    stack.wait_for_sql("select count(*) from updates where error is not null and done and body = ''", 1i64).await;
    sqlx::query("alter table lost_errands rename to errands").execute(&stack.db).await.unwrap();
    is_nowhere(KEY, &dump(&stack).await, &logs(&stack));
}
