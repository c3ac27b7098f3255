//! `/privacy` and `/forgetme`.

use crate::account::dump;
use crate::bot::data;
use crate::harness::Stack;

/// A number that stands for nothing else.
const ANN: i64 = 777_000_111;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_to_be_forgotten_is_with_agents_and_all() {
    let stack = Stack::builder().env("LEASE_SECONDS", 3).start().await;
    let (ann, bob) = (stack.user(ANN), stack.user(2));
    let bea = bob.creates_agent("Bea", "You belong to Bob.").await;
    ann.asks(&format!("/start agent_{bea}"), "You are talking to Bea").await;
    ann.asks("hello", "message 1 of our conversation").await;
    let ada = ann.creates_agent("Zaphodine", "You belong to Ann.").await;
    ann.asks("/login sk-of-ann-123456", "is connected").await;
    bob.asks(&format!("/start agent_{ada}"), "You are talking to Zaphodine").await;
    bob.asks("hello", "message 1 of our conversation").await;

    let privacy = ann.asks("/privacy", "What is kept, where, and for how long").await;
    ann.press(privacy.message_id, &data(&privacy, "Forget me")).await;
    let question = ann.wait_for(|m| m.text.contains("Forget everything about you?")).await;
    assert!(question.text.contains("Zaphodine") && question.text.contains("your key of LibertAI"), "{}", question.text);
    ann.press(question.message_id, &data(&question, "Go on")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text.contains("send the word FORGET")).await;
    ann.asks("no, wait", "nothing was deleted").await;
    assert_eq!(stack.sql::<i64>("select count(*) from users where forgetting_since is not null").await, 0);

    let question = ann.asks("/forgetme", "Forget everything about you?").await;
    ann.press(question.message_id, &data(&question, "Go on")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text.contains("send the word FORGET")).await;
    ann.says("forget").await;
    ann.wait_for(|m| m.text.starts_with("🧹 Forgetting you…") || m.text.contains("you are forgotten here")).await;
    // A kill in the middle changes nothing.
    stack.baal(0).kill9();
    stack.baal(0).start().await;
    ann.wait_for(|m| m.text.contains("Done: you are forgotten here")).await;

    // What is left are numbers of updates, the last message to her, and what is still to be told to Bea.
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    let (mut table, mut left) = (String::new(), vec![]);
    for line in dump(&stack).await.lines() {
        match line.strip_prefix("── ") {
            Some(name) => table = name.to_owned(),
            None if line.contains(&ANN.to_string()) => left.push((table.clone(), line.to_owned())),
            None => assert!(!line.contains("Zaphodine") && !line.contains("You belong to Ann"), "{table}: {line}"),
        }
    }
    // And what would be a way round a limit: her number, with what it sent today.
    let allowed = ["updates", "outbox", "turns", "errands", "users", "usage", "visitors"];
    assert!(left.iter().all(|(table, _)| allowed.contains(&table.as_str())), "{left:#?}");
    let turns = "select count(*) from turns where user_id = 777000111 and kind <> 'forget'";
    assert_eq!(stack.sql::<i64>(turns).await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 1);
    assert_eq!(stack.sql::<i64>("select count(*) from vms where ended_at is null").await, 1);
    let bare = "select count(*) from users where id = 777000111 and name = '' and username is null and forgetting_since is null";
    assert_eq!(stack.sql::<i64>(bare).await, 1);
    let visit = "select count(*) from visitors where user_id = 777000111 and link_id is null and messages = 0";
    assert_eq!(stack.sql::<i64>(visit).await, 1);
    assert!(stack.sql::<i32>("select messages from usage where user_id = 777000111").await > 0);
    // Others are as they were, and she may begin anew.
    bob.asks("hello?", "You aren't talking to an agent").await;
    ann.asks("/start", "Hello").await;
    assert_eq!(stack.sql::<i32>("select key_version from users where id = 777000111").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_is_begun_for_somebody_who_is_being_forgotten() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let welcome = ann.asks("/start", "Hello").await;
    sqlx::query("update users set forgetting_since = now()").execute(&stack.db).await.unwrap();
    for words in ["hello", "/create", "/forgetme", "/login sk-of-ann-123456"] {
        ann.asks(words, "I am just forgetting you").await;
    }
    let query = ann.press(welcome.message_id, "create").await;
    assert!(stack.simulator.notice(&query).await.contains("I am just forgetting you"));
    assert_eq!(stack.sql::<i64>("select count(*) from errands").await, 0);
    // The key is deleted all the same.
    ann.wait_until(|messages| messages.iter().any(|m| m.text.starts_with("/login") && m.deleted).then_some(())).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_forgotten_lifts_no_block() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(ANN), stack.user(2));
    let bea = bob.creates_agent("Bea", "You belong to Bob.").await;
    ann.asks(&format!("/start agent_{bea}"), "You are talking to Bea").await;
    sqlx::query("update visitors set blocked_at = now()").execute(&stack.db).await.unwrap();
    let question = ann.asks("/forgetme", "Forget everything about you?").await;
    ann.press(question.message_id, &data(&question, "Go on")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text.contains("send the word FORGET")).await;
    ann.says("FORGET").await;
    ann.wait_for(|m| m.text.contains("Done: you are forgotten here")).await;
    ann.says(&format!("/start agent_{bea}")).await;
    stack.handles_all().await;
    ann.asks("hello?", "aren't talking to an agent").await;
    let blocked = "select count(*) from visitors where user_id = 777000111 and blocked_at is not null";
    assert_eq!(stack.sql::<i64>(blocked).await, 1);
    stack.simulator.assert_good_manners().await;
}
