//! What agents say unasked.

use std::time::Duration;

use serde_json::{Value, json};

use crate::far_agent::FarAgent;
use crate::files::{greet, sent, wait_for_sent};
use crate::harness::Stack;

/// Users who have talked to an agent, as far as anybody can tell.
async fn have_talked(stack: &Stack, agent: &FarAgent, users: &[i64]) {
    for user in users {
        sqlx::query(
            "with visit as (
               insert into visitors (bot_id, agent_id, user_id, link_id)
               select 1000000001, $1, $2, (select id from links where agent_id = $1) on conflict do nothing)
             insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request, done, status)
             values (gen_random_uuid(), 1000000001, $2, $1, $2, 'visitor', '', true, 'completed')",
        )
        .bind(agent.id)
        .bind(user)
        .execute(&stack.db)
        .await
        .unwrap();
    }
}

fn texts(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|m| m["text"].as_str().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subagents_result_and_file_reach_the_chat_that_spawned_it() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = ann.creates_agent("Ada", "You delegate.").await;
    ann.asks(&format!("/start agent_{ada}"), "Ada").await;
    let call =
        |name: &str, arguments: Value| json!({"tool_calls": [{"name": name, "arguments": arguments.to_string()}]});
    let write = call("write_file", json!({"path": "lamps.txt", "content": "seven"}));
    let send = call("send_file", json!({"path": "lamps.txt", "caption": "the *count*"}));
    for script in [
        json!({"match": "have it done", "replies": [call("spawn", json!({"task": "count the lamps"})), {"content": "It is under way."}]}),
        json!({"match": "count the lamps", "replies": [write, send, {"content": "There are **seven** lamps."}]}),
    ] {
        stack.simulator.tell_model("/sim/script", script).await;
    }
    ann.says("have it done").await;
    let deadline = tokio::time::Instant::now() + crate::harness::DEADLINE;
    let (result, file) = loop {
        let sent = sent(&stack, 1).await;
        let result =
            sent.iter().find(|m| m["text"].as_str().is_some_and(|text| text.contains("There are seven lamps.")));
        let file = sent.iter().find(|m| m["document"]["file_name"] == "lamps.txt");
        if let (Some(result), Some(file)) = (result, file) {
            break (result.clone(), file.clone());
        }
        assert!(tokio::time::Instant::now() < deadline, "{sent:#?}");
        tokio::time::sleep(crate::harness::POLL).await;
    };
    assert!(result["text"].as_str().unwrap().starts_with("Subagent "), "no bell where the chat is with the agent");
    assert_eq!(file["text"], "the count");
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where kind = 'notice'").await, 2);
    assert_eq!(stack.sql::<i64>("select pending_dropped from agents").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_to_its_owner_and_its_visitors_and_to_nobody_else() {
    let stack = Stack::start().await;
    greet(&stack, &[1, 2, 3, 4, 5, 6, 7]).await;
    let (ada, bo) = (FarAgent::start(&stack, 1, "*Ada*", 2).await, FarAgent::start(&stack, 9, "Bo", 2).await);
    have_talked(&stack, &ada, &[2, 3, 4, 7]).await;
    have_talked(&stack, &bo, &[5]).await;
    for statement in [
        "update visitors set blocked_at = now() where user_id = 3",
        "insert into visitors (bot_id, agent_id, user_id, link_id) select 1000000001, agent_id, 6, id from links order by id limit 1",
        "update conversations set unreachable_at = now() where chat_id = 7",
        "insert into conversations (bot_id, chat_id, unreachable_at) values (1000000001, 7, now())
         on conflict (bot_id, chat_id) do update set unreachable_at = now()",
    ] {
        sqlx::query(statement).execute(&stack.db).await.unwrap();
    }
    sqlx::query(
        "insert into conversations (bot_id, chat_id, agent_id) values (1000000001, 1, $1)
         on conflict (bot_id, chat_id) do update set agent_id = excluded.agent_id",
    )
    .bind(ada.id)
    .execute(&stack.db)
    .await
    .unwrap();
    // 3 is blocked, 4's owner has closed the way by which they came, 5 talked to another agent, 6 never said a word.
    let whom = ["1", "2", "3", "5", "6", "7", "77", "-100", "heartbeat", "admin:1", "", "99999999999999999999"];
    for chat in whom {
        ada.says(chat, format!("Hello *{chat}*."));
    }
    stack.wait_for_sql("select pending_dropped from agents where name = '*Ada*'", 9i64).await;
    ada.until("all is acknowledged", |now| now.pending.is_empty()).await;
    assert_eq!(texts(&wait_for_sent(&stack, 1, 1).await), ["Hello 1."]);
    assert_eq!(texts(&wait_for_sent(&stack, 2, 1).await), ["🔔 *Ada*: Hello 2."]);
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    for chat in [3, 5, 6, 7] {
        assert_eq!(sent(&stack, chat).await, Vec::<Value>::new(), "chat {chat}");
    }
    // Where an agent is closed, it does not write any more either.
    sqlx::query("update agents set visibility = 'private' where id = $1")
        .bind(ada.id)
        .execute(&stack.db)
        .await
        .unwrap();
    ada.says(4, "psst");
    ada.says(1, "the last");
    stack.wait_for_sql("select pending_dropped from agents where name = '*Ada*'", 10i64).await;
    assert_eq!(texts(&wait_for_sent(&stack, 1, 2).await), ["Hello 1.", "the last"]);
    assert_eq!(sent(&stack, 4).await, Vec::<Value>::new());
    // A file that is none of the agent's chat's business is fetched from the agent that offered it, or told as gone.
    ada.now().files.insert("out/1/plot.png".into(), vec![1; 2_000].into());
    ada.says_as("heartbeat_file", 1, json!({"type": "file", "path": "out/1/plot.png", "caption": "*now*"}).to_string());
    ada.says_as("subagent_file", 1, json!({"type": "file", "path": "out/1/lost.csv"}).to_string());
    let sent = wait_for_sent(&stack, 1, 4).await;
    assert!(sent[2]["document"]["file_name"] == "plot.png" && sent[2]["text"] == "now", "{:#?}", sent[2]);
    assert!(sent[3]["text"].as_str().unwrap().contains("lost.csv could not be fetched"));
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_bring_everything_once_and_in_order() {
    let stack = Stack::builder().replicas(2).env("LEASE_SECONDS", 2).start().await;
    greet(&stack, &[1, 2, 3, 4]).await;
    let mut agents = vec![];
    for owner in 1..=4 {
        agents.push(FarAgent::start(&stack, owner, &format!("Agent {owner}"), 2).await);
    }
    for n in 1..=12 {
        for (owner, agent) in (1..=4).zip(&agents) {
            agent.says(owner, format!("No. {n}"));
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        // What a turn that left something does.
        sqlx::query("update agents set pull_at = now()").execute(&stack.db).await.unwrap();
    }
    for (owner, agent) in (1..=4).zip(&agents) {
        agent.until("all is acknowledged", |now| now.pending.is_empty()).await;
        let wanted: Vec<String> = (1..=12).map(|n| format!("🔔 Agent {owner}: No. {n}")).collect();
        assert_eq!(texts(&wait_for_sent(&stack, owner, 12).await), wanted);
    }
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where kind = 'notice'").await, 48);
    assert_eq!(stack.sql::<i64>("select count(*) from agents where pull_claimed_by is null").await, 0);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_and_double_nothing_that_is_said_unasked() {
    let stack = Stack::builder().env("LEASE_SECONDS", 2).start().await;
    greet(&stack, &[1]).await;
    let ada = FarAgent::start(&stack, 1, "Ada", 2).await;
    // Between the commit and the acknowledgement.
    ada.now().deaf = true;
    ada.says(1, "first");
    stack.wait_for_sql("select count(*) from outbox where kind = 'notice' and done", 1i64).await;
    stack.baal(0).kill9();
    ada.now().deaf = false;
    assert_eq!(ada.now().pending.len(), 1);
    assert!(ada.now().acknowledged.is_empty());
    stack.baal(0).start().await;
    ada.until("it is acknowledged", |now| now.pending.is_empty()).await;
    assert_eq!(ada.now().acknowledged, [1]);
    // Anywhere.
    let talking = async {
        // Fewer than are taken at once: behind that many an agent is left alone for as many seconds.
        for n in 0..15 {
            ada.says(1, format!("No. {n}"));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let killing = async {
        for round in 0..8u64 {
            tokio::time::sleep(Duration::from_millis(300 + 137 * round % 500)).await;
            stack.baal(0).kill9();
            stack.baal(0).launch();
        }
    };
    tokio::join!(talking, killing);
    stack.baal(0).wait_until_ready().await;
    ada.until("all is acknowledged", |now| now.pending.is_empty()).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0i64).await;
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where kind = 'notice'").await, 16);
    assert_eq!(stack.sql::<i64>("select pending_after from agents").await, 16);
    // What was in flight at a kill may be there or not, but never twice.
    let sent = sent(&stack, 1).await;
    let mut once = texts(&sent);
    once.dedup();
    let uncertain = stack.sql::<i64>("select count(*) from outbox where uncertain").await as usize;
    assert!(once.len() == sent.len() && sent.len() + uncertain >= 16, "{} sent, {uncertain} uncertain", sent.len());
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_begins_anew_and_a_base_agent_is_drained_once() {
    let stack = Stack::builder().env("LEASE_SECONDS", 2).start().await;
    greet(&stack, &[1, 2]).await;
    let ada = FarAgent::start(&stack, 1, "Ada", 2).await;
    ada.says(1, "one");
    ada.says(1, "two");
    wait_for_sent(&stack, 1, 2).await;
    ada.until("all is acknowledged", |now| now.pending.is_empty()).await;
    let before = ada.now().database;
    ada.forgets_everything();
    ada.says(1, "begun anew");
    // The question that is held open is for ids beyond the old ones; the next one finds out.
    stack.baal(0).kill9();
    stack.baal(0).start().await;
    ada.until("it is asked from the beginning", |now| now.acknowledged.last() == Some(&1)).await;
    assert_eq!(texts(&wait_for_sent(&stack, 1, 3).await), ["🔔 Ada: one", "🔔 Ada: two", "🔔 Ada: begun anew"]);
    assert_ne!(ada.now().database, before);

    let old = FarAgent::start(&stack, 2, "Old", 1).await;
    old.until("it is asked", |now| now.asked == 1).await;
    old.says(2, "from of old");
    for _ in 0..101 {
        old.says(1, "to a stranger");
    }
    old.says(2, "and after all of that");
    // It is asked every few minutes, or when there is a reason.
    stack.wait_for_sql("select count(*) from agents where name = 'Old' and pull_claimed_by is null", 1i64).await;
    sqlx::query("update agents set pull_at = now() where name = 'Old'").execute(&stack.db).await.unwrap();
    let texts_of_old = ["🔔 Old: from of old", "🔔 Old: and after all of that"];
    assert_eq!(texts(&wait_for_sent(&stack, 2, 2).await), texts_of_old);
    assert_eq!(stack.sql::<i64>("select pending_dropped from agents where name = 'Old'").await, 101);
    assert_eq!(old.now().asked, 2);
    // At once after a turn that says it left something.
    stack.wait_for_sql("select count(*) from agents where name = 'Old' and pull_claimed_by is null", 1i64).await;
    let bob = stack.user(2);
    bob.asks(&format!("/start agent_{}", old.id), "Old").await;
    old.says(2, "left by a turn");
    bob.asks("do something", "On it.").await;
    bob.wait_for(|m| m.text == "left by a turn").await;
    assert_eq!(old.now().asked, 3);
    assert!(old.now().acknowledged.is_empty());
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_stops_talking_does_not_fill_its_chats() {
    let stack = Stack::start().await;
    greet(&stack, &[1, 2]).await;
    let ada = FarAgent::start(&stack, 1, "Ada", 2).await;
    // Hears nothing, so that it is taken for one that has to be told again and again.
    ada.now().deaf = true;
    let long = "word ".repeat(8_000);
    for _ in 0..50 {
        ada.says(1, &*long);
    }
    stack.wait_for_sql("select count(*) from agents where pending_after > 0 and pull_claimed_by is null", 1i64).await;
    let (rows, mark): (i64, i64) =
        sqlx::query_as("select (select count(*) from outbox where kind = 'notice'), pending_after from agents")
            .fetch_one(&stack.db)
            .await
            .unwrap();
    assert!((11..=31).contains(&rows), "{rows} rows at once");
    assert!((1..=3).contains(&mark), "{mark} messages at once");
    // A second for each call that it makes, whatever it says to that.
    let wait = "select extract(epoch from pull_at - now())::float8 > 5 from agents";
    assert!(stack.sql::<bool>(wait).await);
    // A chat that has much before it gets no more until that is gone.
    ada.now().deaf = false;
    for statement in [
        "update outbox set done = true where kind = 'notice'",
        "insert into outbox (bot_id, chat_id, method, payload, kind, run_at)
         select 1000000001, 1, 'sendMessage', '{}', 'notice', now() + interval '1 hour' from generate_series(1, 20)",
        "update agents set pull_at = now()",
    ] {
        sqlx::query(statement).execute(&stack.db).await.unwrap();
    }
    stack.wait_for_sql("select count(*) from agents where pull_claimed_by is null and pull_at > now()", 1i64).await;
    assert_eq!(stack.sql::<i64>("select pending_after from agents").await, mark);
}
