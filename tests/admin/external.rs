//! Agents that run elsewhere.

use baal::agents::external::{self, Endpoint};
use baal::agents::service::{NewAgent, ServiceError};
use baal::app::App;
use baal::config::{Config, Visibility};
use reqwest::StatusCode;
use serde_json::json;

use crate::api::Api;
use crate::elsewhere::{Elsewhere, SECRET};
use crate::harness::Stack;

const OWNER: i64 = 42;

/// A program that may call agents of this network.
async fn open_stack() -> Stack {
    Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").start().await
}

/// The program's parts, within the test; private addresses are as `allowed` says.
fn app(stack: &Stack, allowed: bool) -> App {
    let mut values = stack.baal(0).env();
    values.insert("AGENT_ALLOW_PRIVATE".into(), allowed.to_string());
    App::new(Config::from_values(values, vec![]).unwrap()).unwrap()
}

fn new(app: &App, name: &str) -> NewAgent {
    NewAgent {
        owner_id: OWNER,
        bot_id: app.bot_id,
        chat_id: OWNER,
        name: name.into(),
        system_prompt: "You are far away.".into(),
        model: app.config.default_model.clone(),
        visibility: Visibility::Public,
    }
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint { url: url.into(), secret: SECRET.to_owned().into() }
}

/// Takes it in as an agent of user 42, who has talked to the bot; its number.
async fn taken_in(stack: &Stack, elsewhere: &Elsewhere, name: &str) -> i64 {
    let app = app(stack, true);
    let found = external::look(&app, &new(&app, name), &endpoint(&elsewhere.url())).await.unwrap();
    assert!(!format!("{found:?}").contains("secret"));
    let mut tx = app.db.begin().await.unwrap();
    let agent = external::take_in(&mut tx, &app, new(&app, name), found).await.unwrap();
    tx.commit().await.unwrap();
    agent.id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_runs_already_is_talked_to_as_any_other() {
    let stack = open_stack().await;
    let (owner, visitor) = (stack.user(OWNER), stack.user(43));
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let id = taken_in(&stack, &elsewhere, "Far").await;
    let told = owner.wait_for(|m| m.text.contains("Far is one of your agents now")).await;
    assert!(told.text.contains(&format!("?start=agent_{id}")), "{}", told.text);

    owner.asks("are you there?", "From afar: are you there?").await;
    visitor.asks(&format!("/start agent_{id}"), "Far").await;
    visitor.asks("hi", "From afar: hi").await;
    let roles: Vec<_> = elsewhere.now().chats.iter().map(|chat| chat["sender"]["role"].clone()).collect();
    assert_eq!(roles, [json!("owner"), json!("visitor")]);

    // What nobody can do from here is not offered, and refused in words.
    let card = owner.asks(&format!("/manage {id}"), "Runs elsewhere").await;
    let labels: Vec<_> = card.buttons().into_iter().map(|button| button.label).collect();
    assert!(!labels.iter().any(|label| label.contains("Repair") || label.contains("Update")), "{labels:?}");
    owner.asks(&format!("/repair {id}"), "so it can't be repaired from here").await;
    owner.asks(&format!("/repair {id} new"), "so it can't be set up anew from here").await;
    owner.asks(&format!("/update {id}"), "so it can't be updated from here").await;
    owner.asks(&format!("/soul {id}"), "its personality is changed there").await;
    owner.asks(&format!("/soul {id} Be near."), "so it can't be given another personality").await;
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from vms").await, 0);
    assert_eq!(stack.errors(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_it_forgets_it_here_and_leaves_it_alone_there() {
    let stack = open_stack().await;
    let owner = stack.user(OWNER);
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let id = taken_in(&stack, &elsewhere, "Far").await;
    owner.asks(&format!("/delete {id}"), "It runs elsewhere and goes on there").await;
    owner.presses("Delete for good").await;
    owner.wait_for(|m| m.text.contains("Far is deleted here. It runs on where it is")).await;
    assert_eq!(stack.sql::<String>("select status from agents").await, "deleted");
    assert_eq!(stack.sql::<i64>("select count(*) from agents where secret <> '' or url is not null").await, 0);
    owner.asks("/list", "no agents yet").await;
    assert!(!elsewhere.now().requests.iter().any(|request| request.starts_with("DELETE")));
    // Its place is free again, and so is its address.
    taken_in(&stack, &elsewhere, "Far again").await;
    owner.wait_for(|m| m.text.contains("Far again is one of your agents now")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_owner_is_told_when_it_does_not_answer_and_who_can_help() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").env("HEALTH_INTERVAL", "1").start().await;
    let owner = stack.user(OWNER);
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    taken_in(&stack, &elsewhere, "Far").await;
    owner.wait_for(|m| m.text.contains("Far is one of your agents now")).await;
    elsewhere.now().status = "starting";
    let told = owner.wait_for(|m| m.text.contains("hasn't answered for a while")).await;
    assert!(told.text.contains("It runs elsewhere, so it can't be repaired from here"), "{}", told.text);
    assert!(told.buttons().iter().all(|button| !button.label.contains("Repair")));
    elsewhere.now().status = "ok";
    owner.wait_for(|m| m.text.contains("answers again")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_in_is_refused_in_words() {
    let stack = open_stack().await;
    stack.user(OWNER).asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let (open, closed) = (app(&stack, true), app(&stack, false));
    let refused =
        async |app: &App, endpoint: Endpoint| match external::look(app, &new(app, "Far"), &endpoint).await.unwrap_err()
        {
            ServiceError::Invalid { field, message } => (field, message),
            ServiceError::Conflict { message } => ("", message),
            other => panic!("{other}"),
        };
    let internet = "must be on the internet, not one of this server";
    let port = elsewhere.port;
    for (app, url, field, words) in [
        (&open, "far".to_owned(), "endpoint.url", "That is no address"),
        (&open, "ftp://agent.example.org".into(), "endpoint.url", "That is no address"),
        (&open, format!("http://me:pw@127.0.0.1:{port}"), "endpoint.url", "must be bare"),
        (&open, format!("http://127.0.0.1:{port}/?a"), "endpoint.url", "must be bare"),
        (&open, format!("http://{}", "a".repeat(600)), "endpoint.url", "at most 512"),
        (&open, "http://127.0.0.1:1".into(), "", "Nobody answers at that address"),
        (&open, "https://no-such-name.invalid".into(), "", "Nobody answers at that address"),
        (&open, format!("http://127.0.0.1:{port}/below"), "", "is no agent"),
        (&closed, "http://agent.example.org".into(), "endpoint.url", "must begin with https://"),
        (&closed, format!("https://127.0.0.1:{port}"), "endpoint.url", internet),
        (&closed, format!("https://2130706433:{port}"), "endpoint.url", internet),
        (&closed, "https://[::ffff:10.0.0.1]".into(), "endpoint.url", internet),
        (&closed, "https://169.254.169.254".into(), "endpoint.url", internet),
        (&closed, format!("https://localhost:{port}"), "endpoint.url", internet),
        (&closed, format!("https://a.localhost.:{port}"), "endpoint.url", internet),
    ] {
        let (of, said) = refused(app, endpoint(&url)).await;
        assert!(of == field && said.contains(words), "{url}: {of}: {said}");
    }
    assert_eq!(elsewhere.now().requests, ["GET /below/health"]);

    let url = elsewhere.url();
    let other = |secret: &str| Endpoint { url: url.clone(), secret: secret.to_owned().into() };
    for (secret, words) in [("wrong", "takes another secret"), ("", "1 to 512"), ("two words", "without spaces")] {
        let (field, said) = refused(&open, other(secret)).await;
        assert!(field == "endpoint.secret" && said.contains(words), "{secret:?}: {said}");
    }
    elsewhere.now().base = true;
    assert!(refused(&open, other("wrong")).await.1.contains("takes another secret"));
    assert!(external::look(&open, &new(&open, "Old"), &endpoint(&url)).await.is_ok());
    elsewhere.now().status = "starting";
    assert!(refused(&open, endpoint(&url)).await.1.contains("not well"));
    // To itself, where a client that follows would go on and be content.
    let target = Elsewhere::start().await;
    elsewhere.now().redirect = Some(format!("{}/health", target.url()));
    assert!(refused(&open, endpoint(&url)).await.1.contains("is not followed"));
    assert_eq!(target.now().requests, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_have_no_other_agent_gets_nobody_asked() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").env("MAX_AGENTS_PER_USER", "1").start().await;
    stack.user(OWNER).asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let app = app(&stack, true);
    let nameless = external::look(&app, &new(&app, " "), &endpoint(&elsewhere.url())).await;
    assert!(matches!(nameless, Err(ServiceError::Invalid { field: "name", .. })));
    assert_eq!(elsewhere.now().requests, [""; 0]);
    let found = external::look(&app, &new(&app, "Far"), &endpoint(&elsewhere.url())).await.unwrap();
    taken_in(&stack, &elsewhere, "Far").await;
    elsewhere.now().requests.clear();
    let another = external::look(&app, &new(&app, "Far"), &endpoint(&elsewhere.url())).await;
    assert!(matches!(another, Err(ServiceError::LimitReached { limit: 1 })));
    let mut tx = app.db.begin().await.unwrap();
    let raced = external::take_in(&mut tx, &app, new(&app, "Far"), found.clone()).await;
    assert!(matches!(raced, Err(ServiceError::LimitReached { limit: 1 })));
    drop(tx);
    // Of somebody else, who has a place: one agent says what it has to say to one owner.
    stack.user(44).asks("/start", "Hello").await;
    let others = NewAgent { owner_id: 44, chat_id: 44, ..new(&app, "Mine") };
    let mut tx = app.db.begin().await.unwrap();
    let twice = external::take_in(&mut tx, &app, others, found).await.unwrap_err();
    assert!(twice.to_string().contains("is here already, with number"), "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_take_in_one_agent_at_once_the_second_is_refused_in_words() {
    let stack = open_stack().await;
    let elsewhere = Elsewhere::start().await;
    let app = app(&stack, true);
    for user in [OWNER, 44] {
        stack.user(user).asks("/start", "Hello").await;
    }
    let found = external::look(&app, &new(&app, "Far"), &endpoint(&elsewhere.url())).await.unwrap();
    let mut first = app.db.begin().await.unwrap();
    let agent = external::take_in(&mut first, &app, new(&app, "Far"), found.clone()).await.unwrap();
    let others = NewAgent { owner_id: 44, chat_id: 44, ..new(&app, "Mine") };
    let second = async {
        let mut tx = app.db.begin().await.unwrap();
        external::take_in(&mut tx, &app, others, found).await.unwrap_err()
    };
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                   and database = (select oid from pg_database where datname = current_database())";
    let (refused, ()) = tokio::join!(second, async {
        stack.wait_for_sql(waits, 1_i64).await;
        first.commit().await.unwrap();
    });
    assert!(matches!(refused, ServiceError::Conflict { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&format!("is here already, with number {}", agent.id)), "{refused}");
}

/// Addresses that were allowed once, or were written into the table, lead nowhere either.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_our_own_network_is_never_connected_to() {
    let stack = Stack::builder().env("HEALTH_INTERVAL", "1").env("MAX_AGENTS_PER_USER", "9").start().await;
    let owner = stack.user(OWNER);
    owner.asks("/start", "Hello").await;
    let mut agents = vec![];
    for address in ["http://127.0.0.1", "https://127.0.0.1", "https://localhost", "https://[::ffff:127.0.0.1]"] {
        let elsewhere = Elsewhere::start().await;
        let id = taken_in(&stack, &elsewhere, "Near").await;
        elsewhere.now().requests.clear();
        // Its probes, and whatever listens for what it says, have found the address it had so far barred as well.
        sqlx::query("update agents set url = $2, probed_at = null, health_failures = 0, pull_at = now() where id = $1")
            .bind(id)
            .bind(format!("{address}:{}", elsewhere.port))
            .execute(&stack.db)
            .await
            .unwrap();
        agents.push((id, elsewhere));
    }
    let api = Api::of(&stack);
    for (id, elsewhere) in &agents {
        let said = api.post(&format!("/agents/{id}/chat"), json!({"message": "hi"})).await;
        let why = said.problem(502, "far-side");
        assert!(why.contains("its address is not") || why.contains("no address on the internet"), "{why}");
        owner.asks(&format!("/start agent_{id}"), "talking to Near").await;
        owner.asks("hi", "whoever runs it there has to look after it").await;
        assert_eq!(elsewhere.now().requests, [""; 0]);
    }
    stack.wait_for_sql("select count(*) from agents where health_failures >= 1", 4_i64).await;
    for (_, elsewhere) in &agents {
        assert_eq!(elsewhere.now().requests, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_talks_to_it_as_a_visitor_without_tools() {
    let stack = open_stack().await;
    let owner = stack.user(OWNER);
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let id = taken_in(&stack, &elsewhere, "Far").await;
    let api = Api::of(&stack);
    let answer = api.request(reqwest::Method::POST, &format!("/agents/{id}/chat")).json(&json!({"message": "hi"}));
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert!(answer.text().await.unwrap().contains("From afar: hi"));
    let asked = elsewhere.now().chats.remove(0);
    assert_eq!((&asked["chat_id"], &asked["sender"]["role"]), (&json!("admin:0"), &json!("visitor")));
    assert_eq!(asked["sender"]["tools"], json!(false));

    // An older one would give an administrator its tools.
    sqlx::query("update agents set protocol = 2").execute(&stack.db).await.unwrap();
    let refused = api.post(&format!("/agents/{id}/chat"), json!({"message": "hi"})).await;
    assert!(refused.problem(409, "conflict").contains("can't keep its tools from visitors"));
    let forgotten = api.delete(&format!("/agents/{id}/chat")).await;
    assert_eq!(forgotten.status, StatusCode::NO_CONTENT);
    assert!(elsewhere.now().requests.contains(&"DELETE /chat/admin:0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_to_forget_its_owner_before_nobody_can_tell_it_any_more() {
    let stack = open_stack().await;
    let owner = stack.user(OWNER);
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    taken_in(&stack, &elsewhere, "Far").await;
    owner.wait_for(|m| m.text.contains("Far is one of your agents now")).await;
    owner.asks("are you there?", "From afar: are you there?").await;
    let question = owner.asks("/forgetme", "Forget everything about you?").await;
    owner.presses("Go on").await;
    owner.wait_for(|m| m.message_id == question.message_id && m.text.contains("send the word FORGET")).await;
    owner.says("FORGET").await;
    owner.wait_for(|m| m.text.contains("Done: you are forgotten here")).await;
    assert!(elsewhere.now().requests.contains(&format!("DELETE /chat/{OWNER}")));
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 0);
    assert_eq!(stack.errors(), [""; 0]);
}
