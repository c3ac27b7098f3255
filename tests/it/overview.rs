//! `/dashboard` and `/pool`, the command menus, and what the card tells of the time.

use serde_json::{Value, json};

use crate::bot::{data, insert_agent};
use crate::harness::Stack;
use crate::upkeep::insert_job;

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_how_all_agents_are_doing() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    ann.asks("/dashboard", "You have no agents yet.").await;
    let ada = ann.creates_agent("Ada", "You count.").await;
    ann.asks("hello", "message 1 of our conversation").await;
    bob.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    bob.asks("hello", "message 1 of our conversation").await;
    let broken = insert_agent(&stack, 1, "Ben", "public", "failed").await;
    insert_job(&stack, broken, "provision", "end", Some("failed")).await;
    insert_agent(&stack, 2, "Bob's own", "public", "running").await;

    let shown = ann.asks("/dashboard", "📊 Your agents").await;
    let ada_line = format!(
        "🟢 Ada · no. {ada} · running · you are talking to it\n      2 messages today · 1 visitor · free messages"
    );
    assert!(shown.text.contains(&ada_line), "{}", shown.text);
    assert!(shown.text.contains("Set up just now"), "{}", shown.text);
    assert!(shown.text.contains(&format!("🔴 Ben · no. {broken} · failed\n      0 messages today · 0 visitors")));
    assert!(!shown.text.contains("Bob"), "{}", shown.text);
    sqlx::query("update agents set paused = 'your key may still be there', deployed_key = 1 where id = $1")
        .bind(ada)
        .execute(&stack.db)
        .await
        .unwrap();
    ann.press(shown.message_id, &data(&shown, "🔄 Refresh")).await;
    let paused = "your own key\n      ⏸ Paused: your key may still be there";
    ann.wait_for(|m| m.message_id == shown.message_id && m.text.contains(paused)).await;
    // The same button shows everybody their own.
    let any = bob.asks("/help", "What you can do here").await;
    bob.forges(any.message_id, "o:dashboard").await;
    let own = bob.wait_for(|m| m.message_id == any.message_id && m.text.contains("📊 Your agents")).await;
    assert!(own.text.contains("Bob's own") && !own.text.contains("Ada"), "{}", own.text);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_is_for_operators() {
    let stack = Stack::builder().env("OPERATOR_IDS", "1").env("MAX_VMS", 7).start().await;
    let (ann, eve) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada", "You count.").await;
    let broken = insert_agent(&stack, 2, "Ben", "public", "failed").await;
    let job = insert_job(&stack, broken, "provision", "end", Some("failed")).await;
    sqlx::query(
        "insert into job_steps (job_id, step, started_at, error) values ($1, 'install', now(), 'the disk is full')",
    )
    .bind(job)
    .execute(&stack.db)
    .await
    .unwrap();
    sqlx::query("update jobs set error = 'the disk is full' where id = $1").bind(job).execute(&stack.db).await.unwrap();
    let waiting = insert_agent(&stack, 2, "Cid", "public", "provisioning").await;
    insert_job(&stack, waiting, "provision", "place", None).await;
    sqlx::query("update jobs set waiting_since = now() where not done").execute(&stack.db).await.unwrap();

    let shown = ann.asks("/pool", "🏊 The pool on this server").await;
    for line in ["Assigned: 1", "Machines in all: 1 of 7 (MAX_VMS)", "Waiting in line: 1 agent", "Warm: 0"] {
        assert!(shown.text.contains(line), "{line}: {}", shown.text);
    }
    let failure = format!("• provision just now, agent {broken}, step install, 1 try: the disk is full (job {job})");
    assert!(shown.text.contains(&failure), "{}", shown.text);
    sqlx::query("update jobs set waiting_since = null").execute(&stack.db).await.unwrap();
    ann.press(shown.message_id, &data(&shown, "🔄 Refresh")).await;
    ann.wait_for(|m| m.message_id == shown.message_id && m.text.contains("Waiting in line: 0 agents")).await;

    // For others there is no such command, and the button says no.
    eve.asks("/pool", "I don't know that command.").await;
    let any = eve.asks("/help", "What you can do here").await;
    let forged = eve.forges(any.message_id, "o:pool").await;
    assert_eq!(stack.simulator.notice(&forged).await, "This is for operators only.");
    assert!(ada > 0);
    stack.simulator.assert_good_manners().await;
}

/// The commands that the bot has set for this scope.
async fn menu(stack: &Stack, scope: Value) -> Vec<String> {
    let token = stack.simulator.bot_token();
    let answer = stack.simulator.post(&format!("/bot{token}/getMyCommands"), json!({ "scope": scope })).await;
    let commands = answer["result"].as_array().unwrap().iter();
    commands.map(|command| command["command"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn menus_hold_what_their_readers_can_use() {
    let stack = Stack::builder().env("OPERATOR_IDS", "1,2").start().await;
    let ann = stack.user(1);
    ann.asks("/help", "What you can do here").await;
    // The first operator has a chat with the bot from here on; the second never had.
    stack.baal(0).restart().await;
    let operator = || menu(&stack, json!({ "type": "chat", "chat_id": 1 }));
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    while operator().await.is_empty() && std::time::Instant::now() < deadline {
        tokio::time::sleep(crate::harness::POLL).await;
    }
    let private = menu(&stack, json!({ "type": "all_private_chats" })).await;
    assert!(["create", "soul", "dashboard", "forgetme"].iter().all(|name| private.iter().any(|known| known == name)));
    assert!(!private.contains(&"pool".to_owned()), "{private:?}");
    assert_eq!(operator().await, [&private[..], &["pool".into(), "invite".into()]].concat());
    for scope in ["default", "all_group_chats"] {
        assert_eq!(menu(&stack, json!({ "type": scope })).await, Vec::<String>::new(), "{scope}");
    }
    stack.simulator.assert_good_manners().await;
}
