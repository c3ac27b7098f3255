//! People: their limits and blocks, and what usage tells of them.

use baal::app::App;
use baal::config::Config;
use baal::janitor;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::{Answer, Api};
use crate::harness::{Message, Stack, User};

/// A number that stands for nothing else.
const ANN: i64 = 777_000_111;

/// What the button with this label sends.
fn data(message: &Message, label: &str) -> String {
    message.buttons().into_iter().find(|button| button.label.contains(label)).unwrap().data
}

async fn forgets(ann: User<'_>) {
    let question = ann.asks("/forgetme", "Forget everything about you?").await;
    ann.press(question.message_id, &data(&question, "Go on")).await;
    ann.wait_for(|m| m.message_id == question.message_id && m.text.contains("send the word FORGET")).await;
    ann.says("FORGET").await;
    ann.wait_for(|m| m.text.contains("Done: you are forgotten here")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_found_by_name_username_and_block() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    for id in [3, 1, 2] {
        stack.user(id).asks("/start", "Hello").await;
    }
    sqlx::query("update users set name = 'Ann_%', username = 'Annie' where id = 2").execute(&stack.db).await.unwrap();
    let ids = async |query: &str| {
        let found = api.get(&format!("/users?{query}")).await.is(200);
        (found["items"].as_array().unwrap().iter().map(|user| user["id"].as_i64().unwrap()).collect::<Vec<_>>(), found)
    };
    assert_eq!(ids("").await.0, [3, 2, 1]);
    let (first, page) = ids("limit=2").await;
    assert_eq!((first, page["next"].as_str()), (vec![3, 2], Some("2")));
    assert_eq!(ids("limit=2&before=2").await.0, [1]);
    assert_eq!(ids("name=nn_%25").await.0, [2], "no wildcards");
    assert_eq!(ids("name=ANN").await.0, [2]);
    assert_eq!(ids("username=annie").await.0, [2]);
    api.post("/users/3/block", Value::Null).await.is(200);
    assert_eq!((ids("blocked=true").await.0, ids("blocked=false").await.0), (vec![3], vec![2, 1]));
    for bad in ["name=", "name=%00", "username=a-b", "limit=0", "limit=201"] {
        api.get(&format!("/users?{bad}")).await.problem(422, "invalid");
    }
    for bad in ["nickname=x", "blocked=perhaps", "before=x"] {
        api.get(&format!("/users?{bad}")).await.problem(400, "malformed");
    }
    assert!(api.get("/users/99").await.problem(404, "not-found").contains("There is no user 99."));
    api.get("/users/ann").await.problem(400, "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_user_take_the_place_of_the_settings_and_outlive_being_forgotten() {
    let stack = Stack::builder().env("FREE_TIER_DAILY_MESSAGES", 50).env("MAX_AGENTS_PER_USER", 3).start().await;
    let api = Api::of(&stack);
    let ann = stack.user(ANN);
    ann.creates_agent("Ada", "You listen.").await;
    let path = format!("/users/{ANN}");
    let read = api.get(&path).await;
    let tag = read.headers["etag"].to_str().unwrap().to_owned();
    let read = read.is(200);
    assert_eq!(
        (&read["daily_messages"], &read["max_agents"], &read["agents"]),
        (&json!(null), &json!(null), &json!(1))
    );
    assert_eq!(read["effective"], json!({"daily_messages": 50, "max_agents": 3}));

    let change = |tag: Option<&str>, body: Value| {
        let request = api.request(Method::PATCH, &path).json(&body);
        Answer::of(match tag {
            Some(tag) => request.header("If-Match", tag),
            None => request,
        })
    };
    change(None, json!({"max_agents": 1})).await.problem(428, "precondition-required");
    let changed = change(Some(&tag), json!({"max_agents": 1, "daily_messages": 2})).await;
    assert_ne!(changed.headers["etag"], tag);
    assert_eq!(changed.is(200)["effective"], json!({"daily_messages": 2, "max_agents": 1}));
    change(Some(&tag), json!({"max_agents": 9})).await.problem(412, "changed-meanwhile");
    for (body, field) in [
        (json!({"max_agents": -1}), "max_agents"),
        (json!({"daily_messages": 1_000_001}), "daily_messages"),
        (json!({"daily_messages": "many"}), "daily_messages"),
        (json!({"name": "Bob"}), "name"),
    ] {
        let refused = change(Some("*"), body).await.is(422);
        assert_eq!(refused["errors"][0]["field"], field, "{refused}");
    }

    // The bot goes by them everywhere.
    ann.asks("/create", "You already have 1 of 1 agents.").await;
    let account = ann.asks("/account", "Agents: 1 of 1").await;
    assert!(account.text.contains("Free messages today: 0 of 2 used"), "{}", account.text);
    for n in 1..=2 {
        ann.asks("hello", &format!("message {n} of our conversation")).await;
    }
    ann.asks("hello", "You have used all 2 messages of today.").await;
    assert_eq!(api.get(&path).await.is(200)["messages_today"], 2);

    // What is left out stays; null is what the settings say.
    let changed = api.patch(&path, json!({"daily_messages": null})).await.is(200);
    assert_eq!(changed["effective"], json!({"daily_messages": 50, "max_agents": 1}));
    ann.asks("hello", "message 3 of our conversation").await;
    api.patch(&path, json!({"max_agents": 0})).await.is(200);
    ann.asks("/create", "don't let you create agents here").await;

    let entries = api.get(&format!("/audit?subject_kind=user&subject_id={ANN}")).await.is(200);
    let entries = entries["items"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[2]["before"], json!({"daily_messages": null, "max_agents": null}));
    assert_eq!(entries[2]["after"], json!({"daily_messages": 2, "max_agents": 1}));

    forgets(ann).await;
    let left = api.get(&path).await.is(200);
    assert_eq!((&left["name"], &left["max_agents"], &left["agents"]), (&json!(""), &json!(0), &json!(0)));
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_is_told_once_and_nothing_of_theirs_is_taken_until_they_are_let_in() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let (ann, bob) = (stack.user(ANN), stack.user(2));
    let ada = ann.creates_agent("Ada", "You listen.").await;
    bob.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    let script = json!({"match": "wait", "replies": [{"content": "Done.", "delay_ms": 15_000}]});
    stack.simulator.tell_model("/sim/script", script).await;
    ann.says("wait").await;
    stack.wait_for_sql("select count(*) from turns where claimed_by is not null and not done", 1i64).await;
    ann.says("and this waits").await;
    stack.wait_for_sql("select count(*) from turns where not done", 2i64).await;

    let path = format!("/users/{ANN}");
    let blocked = api.post(&format!("{path}/block"), Value::Null).await.is(200);
    assert!(blocked["blocked_at"].is_string());
    assert_eq!(api.post(&format!("{path}/block"), Value::Null).await.is(200)["blocked_at"], blocked["blocked_at"]);
    stack.wait_for_sql("select count(*) from turns where status = 'cancelled'", 2i64).await;
    let any = ann.asks("hello?", "🚫 The people who run this bot have blocked you").await;
    for words in ["hello?", "/create", "/list", "/start"] {
        ann.says(words).await;
    }
    stack.handles_all().await;
    let query = ann.forges(any.message_id, "create").await;
    assert!(stack.simulator.notice(&query).await.contains("have blocked you"));
    let told = ann.messages().await.iter().filter(|m| m.is_reply() && m.text.contains("have blocked you")).count();
    assert_eq!(told, 1);
    assert_eq!(stack.sql::<i64>("select count(*) from turns where not done").await, 0);
    // Her agents are there for others.
    bob.asks("hello", "message 1 of our conversation").await;

    // Whoever waits for hours is told again.
    sqlx::query("update users set blocked_told_at = now() - interval '25 hours'").execute(&stack.db).await.unwrap();
    ann.asks("hello?", "🚫 The people who run this bot have blocked you").await;
    let let_in = api.post(&format!("{path}/unblock"), Value::Null).await.is(200);
    assert_eq!(let_in["blocked_at"], Value::Null);
    ann.asks("hello", "of our conversation").await;

    // Everybody may be forgotten, and stays blocked.
    api.post(&format!("{path}/block"), Value::Null).await.is(200);
    forgets(ann).await;
    ann.asks("/start", "have blocked you").await;
    let left = api.get(&path).await.is(200);
    assert!(left["blocked_at"].is_string(), "{left}");
    api.post(&format!("{path}/unblock"), Value::Null).await.is(200);
    ann.asks("/start", "Hello").await;
    assert!(api.post("/users/99/block", Value::Null).await.problem(404, "not-found").contains("99"));

    let actions = "select string_agg(action, ' ' order by id) from audit";
    assert_eq!(
        stack.sql::<String>(actions).await,
        "user.block user.unblock user.block user.unblock",
        "what changes nothing is not written down"
    );
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_not_blocked() {
    let stack = Stack::builder().env("OPERATOR_IDS", 1).start().await;
    stack.user(1).asks("/start", "Hello").await;
    let api = Api::of(&stack);
    assert!(api.post("/users/1/block", Value::Null).await.problem(409, "conflict").contains("OPERATOR_IDS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn being_forgotten_takes_what_the_record_tells_of_a_user() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let ann = stack.user(ANN);
    ann.asks("/start", "Hello").await;
    api.patch(&format!("/users/{ANN}"), json!({"max_agents": 7})).await.is(200);
    api.patch(&format!("/users/{ANN}"), json!({"max_agents": null})).await.is(200);
    sqlx::query(
        "insert into audit (actor, action, subject_kind, subject_id, user_id, before, after)
         values ('ADMIN_TOKEN', 'agent.change', 'agent', '42', 777000111, '{\"name\": \"Zaphodine\"}', '{\"name\": \"Z\"}')",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    forgets(ann).await;
    let record: Vec<String> = sqlx::query_scalar("select a::text from audit a").fetch_all(&stack.db).await.unwrap();
    assert_eq!(record.len(), 3, "that something was done stays");
    assert!(record.iter().all(|e| !e.contains("Zaphodine") && !e.contains("777000111")), "{record:#?}");
    api.get(&format!("/users/{ANN}")).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_keeps_the_number_of_the_forgotten_no_longer_than_a_block_does() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let (ann, bob) = (stack.user(ANN), stack.user(2));
    let bea = bob.creates_agent("Bea", "You belong to Bob.").await;
    ann.asks(&format!("/start agent_{bea}"), "You are talking to Bea").await;
    api.post(&format!("/agents/{bea}/visitors/{ANN}/block"), Value::Null).await.is(200);
    api.post(&format!("/users/{ANN}/block"), Value::Null).await.is(200);
    let record = async || -> Vec<String> {
        sqlx::query_scalar("select a::text from audit a").fetch_all(&stack.db).await.unwrap()
    };
    assert!(record().await.iter().all(|entry| entry.contains(&ANN.to_string())));
    forgets(ann).await;
    // Of which agent stays, whose visitor does not.
    let subject = "select subject_id from audit where subject_kind = 'visitor'";
    assert_eq!(stack.sql::<String>(subject).await, bea.to_string());
    // Who is let in again is nobody any more.
    api.post(&format!("/users/{ANN}/unblock"), Value::Null).await.is(200);
    sqlx::query("update visitors set blocked_at = null, day = day - 1").execute(&stack.db).await.unwrap();
    let app = App::new(Config::from_values(stack.baal(0).env(), vec![]).unwrap()).unwrap();
    janitor::tidy_all(&app, &CancellationToken::new()).await;
    api.get(&format!("/users/{ANN}")).await.problem(404, "not-found");
    let left = record().await;
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|entry| !entry.contains(&ANN.to_string())), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_of_its_failure_is_for_the_chat_alone() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let ann = stack.user(ANN);
    let ada = ann.creates_agent("Ada", "You fail.").await;
    let script = json!({"match": "a secret", "replies": [{"status": 401}]});
    stack.simulator.tell_model("/sim/script", script).await;
    ann.says("a secret").await;
    stack.wait_for_sql("select count(*) from turns where status = 'failed'", 1i64).await;
    let failed = api.get(&format!("/agents/{ada}/turns?status=failed")).await.is(200);
    assert_eq!(failed["items"][0]["error"], "the agent said that it failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_turns_tell_what_was_asked_but_not_what_was_said() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let (ann, bob) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada", "You listen.").await;
    bob.asks(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    for n in 1..=3 {
        bob.asks("a secret question", &format!("message {n} of our conversation")).await;
    }
    ann.asks("hello", "message 1 of our conversation").await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    sqlx::query("update turns set status = 'failed', error = 'it broke' where id = (select id from turns where user_id = 2 order by position limit 1)")
        .execute(&stack.db).await.unwrap();
    // Of an agent that tells nonsense, and of another month.
    sqlx::query("update turns set prompt_tokens = 9223372036854775807, cost = 1e308 where user_id = 2")
        .execute(&stack.db)
        .await
        .unwrap();

    let usage = api.get("/usage").await.is(200);
    let total = &usage["total"];
    // The agent's hello is a turn, too.
    let seen = ["messages", "turns", "failures", "cancelled"].map(|figure| total[figure].as_i64().unwrap());
    assert_eq!(seen, [4, 5, 1, 0]);
    assert!(total["completion_tokens"].as_i64().unwrap() > 0 && total["cost"].as_f64().unwrap() == 3e6, "{total}");
    let days = usage["items"].as_array().unwrap();
    assert_eq!((days.len(), &days[0]["messages"], &days[1]["messages"]), (30, &json!(4), &json!(0)));
    assert_eq!((&days[0]["day"], &days[29]["day"]), (&usage["to"], &usage["from"]));

    let by_user = api.get("/usage?by=user&days=1").await.is(200);
    let users: Vec<_> =
        by_user["items"].as_array().unwrap().iter().map(|i| (i["user_id"].as_i64(), i["messages"].as_i64())).collect();
    assert_eq!(users, [(Some(2), Some(3)), (Some(1), Some(1))]);
    let by_agent = api.get(&format!("/usage?by=agent&user_id=2&agent_id={ada}")).await.is(200);
    assert_eq!((&by_agent["items"][0]["name"], &by_agent["total"]["messages"]), (&json!("Ada"), &json!(3)));
    let first = api.get("/usage?by=user&limit=1").await.is(200);
    assert_eq!((first["items"].as_array().unwrap().len(), &first["total"]["messages"]), (1, &json!(4)));
    for far in ["from=0001-01-01&days=92", "from=9999-12-31&days=92", "from=2020-02-29&by=agent"] {
        assert_eq!(api.get(&format!("/usage?{far}")).await.is(200)["total"]["turns"], 0);
    }
    for bad in ["days=0", "days=93", "limit=0"] {
        api.get(&format!("/usage?{bad}")).await.problem(422, "invalid");
    }
    for bad in ["by=hour", "from=yesterday", "to=2026-01-01"] {
        api.get(&format!("/usage?{bad}")).await.problem(400, "malformed");
    }

    let turns = api.get(&format!("/agents/{ada}/turns")).await.is(200);
    let items = turns["items"].as_array().unwrap();
    assert_eq!((items.len(), items[0]["user_id"].as_i64(), items[4]["kind"].as_str()), (5, Some(1), Some("hello")));
    assert!(!turns.to_string().contains("secret question"));
    let failed = api.get(&format!("/agents/{ada}/turns?status=failed&user_id=2")).await.is(200);
    assert_eq!((failed["items"].as_array().unwrap().len(), &failed["items"][0]["error"]), (1, &json!("it broke")));
    let page = api.get(&format!("/agents/{ada}/turns?limit=3")).await.is(200);
    let rest = api.get(&format!("/agents/{ada}/turns?limit=3&before={}", page["next"].as_str().unwrap())).await.is(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (2, &Value::Null));
    api.get("/agents/99/turns").await.problem(404, "not-found");
}
