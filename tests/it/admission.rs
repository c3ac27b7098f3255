//! Who gets through to an agent, and what is said to those who do not.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::bot::insert_agent;
use crate::chat_in::{all_answered, busy, id, questions, with_agent};
use crate::harness::{Message, Stack};
use crate::updates::{SECRET, deliver, update};

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_much_is_told_once_and_can_still_stop() {
    let stack = Stack::builder().env("FLOOD_PER_MINUTE", 5).start().await;
    let ann = stack.user(1);
    // The count starts anew with each minute of the clock.
    while stack.sql::<i32>("select extract(second from now())::int").await > 35 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ann.asks("/create", "1 of 3").await;
    for _ in 0..12 {
        ann.says("/help").await;
    }
    let key = id(&ann.says("/login sk-secret").await);
    for _ in 0..3 {
        ann.says("/stop").await;
        ann.says("/cancel").await;
    }
    // It works, and says nothing: those would be words without a limit.
    stack.wait_for_sql("select count(*) from conversations where dialogue is null", 1i64).await;
    stack.handles_all().await;
    ann.wait_until(|messages| messages.iter().any(|m| m.message_id == key && m.deleted).then_some(())).await;
    let any = ann.messages().await.into_iter().find(Message::is_reply).unwrap();
    let query = ann.forges(any.message_id, "list").await;
    assert!(stack.simulator.notice(&query).await.starts_with("That was too much within a minute."));
    let messages = ann.messages().await;
    let count = |start: &str| messages.iter().filter(|m| m.is_reply() && m.text.starts_with(start)).count();
    let said = [count("What you can do here"), count("That was more than 5 messages"), count("")];
    assert_eq!(said, [4, 1, 6], "{messages:?}");
    sqlx::query("update users set flood_minute = flood_minute - interval '1 minute'").execute(&stack.db).await.unwrap();
    ann.asks("/cancel", "There is nothing to cancel.").await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_through_is_told_why_and_what_to_do() {
    let stack = Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 2).start().await;
    let (owner, visitor) = (stack.user(1), stack.user(2));
    let ada = insert_agent(&stack, 1, "*Ada*", "public", "running").await;
    for user in [owner, visitor] {
        user.asks(&format!("/start agent_{ada}"), "You are talking to *Ada*.").await;
    }
    const CALM: &str = "update agents set status = 'running', paused = null, visibility = 'public', deleted_at = null";
    const OPEN: &str = "update links set revoked_at = null, expires_at = null, per_day = null";
    const FREE: &str = "update visitors set blocked_at = null, asked_at = null, messages_today = 0";
    const KNOWN: &str = "update users set forgetting_since = null";
    let cases: [(&'static str, i64, &str, &[&str]); 14] = [
        (
            "update agents set paused = 'An old key may still be there.'",
            1,
            "*Ada* is paused, and your message wasn't passed on: An old key",
            &["🔧 Repair", "🛠 Manage"],
        ),
        (
            "update agents set paused = 'An old key may still be there.'",
            2,
            "*Ada* is paused, and your message wasn't passed on. Its owner",
            &[],
        ),
        (
            "update agents set status = 'failed'",
            1,
            "*Ada* isn't running: setting it up failed.",
            &["🔧 Repair", "🛠 Manage"],
        ),
        ("update agents set status = 'failed'", 2, "*Ada* isn't running: setting it up failed. Its owner", &[]),
        ("update agents set status = 'provisioning'", 1, "*Ada* isn't running yet: it is still being set up.", &[]),
        ("update agents set status = 'deleting'", 1, "*Ada* is being deleted.", &["🗂 My agents", "✨ Create an agent"]),
        ("update agents set status = 'deleting'", 2, "*Ada* was deleted.", &["🗂 My agents", "✨ Create an agent"]),
        (
            "update agents set status = 'deleted', deleted_at = now()",
            1,
            "*Ada* was deleted.",
            &["🗂 My agents", "✨ Create an agent"],
        ),
        (
            "update agents set visibility = 'unlisted'",
            2,
            "*Ada* isn't shared any more",
            &["🗂 My agents", "✨ Create an agent"],
        ),
        ("update agents set visibility = 'private'", 2, "*Ada* ", &["🗂 My agents", "✨ Create an agent"]),
        (
            "update links set revoked_at = now()",
            2,
            "*Ada* can't be talked to by the link that you came by: its owner took it back",
            &["🗂 My agents", "✨ Create an agent"],
        ),
        (
            "update links set expires_at = now()",
            2,
            "*Ada* can't be talked to by the link that you came by: it has expired",
            &["🗂 My agents", "✨ Create an agent"],
        ),
        (
            "update visitors set blocked_at = now()",
            2,
            "*Ada* can't be talked to: its owner doesn't let you",
            &["🗂 My agents", "✨ Create an agent"],
        ),
        ("update users set forgetting_since = now() where id = 2", 2, "🧹 I am just forgetting you", &[]),
    ];
    for (change, user, told, buttons) in &cases {
        sqlx::query(*change).execute(&stack.db).await.unwrap();
        let reply = stack.user(*user).asks("hello?", told).await;
        let labels: Vec<String> = reply.buttons().into_iter().map(|button| button.label).collect();
        assert_eq!(labels, *buttons, "{change}");
        for statement in [CALM, OPEN, FREE, KNOWN] {
            sqlx::query(statement).execute(&stack.db).await.unwrap();
        }
    }
    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, 0);

    sqlx::query("update links set per_day = 1").execute(&stack.db).await.unwrap();
    sqlx::query("insert into usage values (1, (now() at time zone 'utc')::date, 2)").execute(&stack.db).await.unwrap();
    let told = owner.asks("hello?", "You have used all 2 messages of today.").await;
    assert!(told.text.contains("00:00 UTC, in ") && told.text.contains("/login"), "{}", told.text);
    sqlx::query("update visitors set day = (now() at time zone 'utc')::date, messages_today = 1")
        .execute(&stack.db)
        .await
        .unwrap();
    let told = visitor.asks("hello?", "allows one message a day to *Ada*").await;
    assert!(told.text.contains("00:00 UTC, in "), "{}", told.text);
    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, 0);
    // On its owner's key nothing counts.
    sqlx::query("update agents set wanted_key = 1, deployed_key = 1").execute(&stack.db).await.unwrap();
    owner.says("hello?").await;
    stack.wait_for_sql("select count(*) from turns where counted = 0 and user_id = 1", 1i64).await;
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_who_send_fifty_messages_at_once_get_exactly_their_quota_answered() {
    let stack = with_agent(Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 10).replicas(2), 3).await;
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 50, "piece_ms": 0})).await;
    let all = (0..50i64).map(|n| {
        let (id, user) = (900_000_000 + n, 2 + n % 2);
        deliver(stack.baal((n / 2 % 2) as usize), Some(SECRET), update(id, user, &format!("text {n}")).to_string())
    });
    for status in join_all(all).await {
        assert_eq!(status, 200);
    }
    for user in [2, 3] {
        let told = |m: &&Message| m.is_reply() && m.text.starts_with("You have used all 10 messages of today.");
        let user = stack.user(user);
        user.wait_until(|messages| (messages.iter().filter(told).count() == 15).then_some(())).await;
    }
    all_answered(&stack).await;
    let covered: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select user_id, sum(cardinality(message_ids)), sum(counted) from turns where kind = 'message' group by 1 order by 1",
    )
    .fetch_all(&stack.db)
    .await
    .unwrap();
    assert_eq!(covered, [(2, 10, 10), (3, 10, 10)]);
    assert_eq!(stack.sql::<i64>("select sum(messages)::int8 from usage where user_id <> 1").await, 20);
    assert_eq!(stack.sql::<i64>("select sum(messages_today)::int8 from visitors").await, 20);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_not_passed_on_once_its_author_is_shut_out_or_the_agent_would_give_them_tools() {
    let stack = with_agent(Stack::builder(), 2).await;
    let bob = stack.user(2);
    let cases = [
        ("update visitors set blocked_at = now()", "its owner doesn't let you, and your message wasn't passed on."),
        ("update agents set visibility = 'private'", "isn't shared any more: only its owner can talk to it now"),
        // An agent of an earlier release, which knows nothing of visitors without tools.
        ("with old as (update agents set protocol = 2) update links set tools = false", "runs an older version"),
    ];
    for (n, (change, told)) in cases.into_iter().enumerate() {
        busy(&stack, bob, &format!("wait {n}")).await;
        bob.says("a question that waits").await;
        stack.wait_for_sql("select count(*) from turns where not done", 2i64).await;
        sqlx::query(change).execute(&stack.db).await.unwrap();
        bob.wait_for(|m| m.text.contains(told)).await;
        stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
        for calm in ["update visitors set blocked_at = null", "update agents set visibility = 'public'"] {
            sqlx::query(calm).execute(&stack.db).await.unwrap();
        }
    }
    let asked = questions(&stack).await;
    assert!(!asked.iter().any(|said| said.contains("a question that waits")), "{asked:?}");
    assert_eq!(stack.sql::<i64>("select messages from visitors").await, 3, "what was not passed on is given back");

    // One that knows of them is asked, without tools from now on.
    sqlx::query("with new as (update agents set protocol = 3) update links set tools = true")
        .execute(&stack.db)
        .await
        .unwrap();
    busy(&stack, bob, "wait 3").await;
    bob.says("a question that waits").await;
    stack.wait_for_sql("select count(*) from turns where not done", 2i64).await;
    sqlx::query("update links set tools = false").execute(&stack.db).await.unwrap();
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert!(questions(&stack).await.iter().any(|said| said.contains("a question that waits")));
    let tools = "select count(*) from turns where user_id = 2 and status = 'completed' and not tools";
    assert_eq!(stack.sql::<i64>(tools).await, 1);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_hears_once_that_keys_do_not_belong_there_and_what_was_shown_is_taken_away_each_time() {
    let stack = Stack::start().await;
    let group = stack.group("Friends", &[1]).await;
    let ann = stack.user(1).within(group);
    for n in 1..=4 {
        ann.says(&format!("/login sk-number-{n}-0123456789")).await;
    }
    stack.settles().await;
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where method = 'deleteMessage'").await, 4);
    let warned = |m: &&Message| m.is_reply() && m.text.starts_with("⚠️ Everybody in this group");
    assert_eq!(ann.messages().await.iter().filter(warned).count(), 1);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_an_agent_on_its_owners_key_counts_once_that_is_gone() {
    let stack = with_agent(Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 2), 1).await;
    let ann = stack.user(1);
    let keys = async |key: i32| {
        sqlx::query("update agents set wanted_key = $1, deployed_key = $1").bind(key).execute(&stack.db).await.unwrap()
    };
    keys(1).await;
    busy(&stack, ann, "wait").await;
    ann.says("a first question").await;
    stack.wait_for_sql("select count(*) from turns where not done", 2i64).await;
    keys(0).await;
    ann.wait_for(|m| m.text.contains("You said: “a first question”")).await;
    assert_eq!(
        stack.sql::<Vec<i32>>("select array_agg(counted order by position) from turns where kind = 'message'").await,
        [0, 1]
    );
    assert_eq!(stack.sql::<i32>("select messages from usage").await, 1);

    keys(1).await;
    busy(&stack, ann, "wait more").await;
    ann.says("another question").await;
    stack.wait_for_sql("select count(*) from turns where not done", 2i64).await;
    sqlx::query("update usage set messages = 2").execute(&stack.db).await.unwrap();
    keys(0).await;
    ann.wait_for(|m| m.text.contains("you have used all 2 messages of today, so this one wasn't passed on")).await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(stack.sql::<i32>("select messages from usage").await, 2);
    assert!(!questions(&stack).await.iter().any(|said| said.contains("another question")));
    stack.simulator.assert_good_manners().await;
}
