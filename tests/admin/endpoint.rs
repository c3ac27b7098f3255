//! Taking in agents that run elsewhere, over the API.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::elsewhere::{Elsewhere, SECRET};
use crate::harness::Stack;

const OWNER: i64 = 42;

fn far(elsewhere: &Elsewhere) -> Value {
    json!({"owner_id": OWNER, "name": "Far", "system_prompt": "You are far away.", "visibility": "unlisted",
        "endpoint": {"url": elsewhere.url(), "secret": SECRET}})
}

async fn create(api: &Api, key: &str, new: &Value) -> Answer {
    Answer::of(api.request(Method::POST, "/agents").header("Idempotency-Key", key).json(new)).await
}

/// How often it was asked for what is asked only before it is taken in.
fn looks(elsewhere: &Elsewhere) -> usize {
    elsewhere.now().requests.iter().filter(|request| *request == "GET /version").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_runs_already_is_taken_in_once_and_its_secret_is_nowhere_to_be_read() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").start().await;
    let (api, owner) = (Api::of(&stack), stack.user(OWNER));
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let new = far(&elsewhere);

    // What is refused keeps nothing of the key, so it can be sent again.
    elsewhere.now().status = "starting";
    assert!(create(&api, "one", &new).await.problem(409, "conflict").contains("is not well"));
    elsewhere.now().status = "ok";
    let first = create(&api, "one", &new).await;
    let location = first.headers["location"].to_str().unwrap().to_owned();
    let made = first.is(201);
    let id = made["id"].as_i64().unwrap();
    assert_eq!(location, format!("/api/v1/agents/{id}"));
    assert_eq!(
        (&made["external"], &made["status"], &made["job"], &made["url"], &made["protocol"], &made["visibility"]),
        (&json!(true), &json!("running"), &Value::Null, &json!(elsewhere.url()), &json!(3), &json!("unlisted"))
    );
    owner.wait_for(|m| m.text.contains("Far is one of your agents now")).await;
    owner.asks("are you there?", "From afar: are you there?").await;

    let again = create(&api, "one", &new).await;
    assert_eq!((again.headers["location"].to_str().unwrap(), &again.body), (location.as_str(), &made));
    assert_eq!((again.status.as_u16(), looks(&elsewhere)), (201, 1), "nobody is asked for a repetition");
    let mut other = new.clone();
    other["endpoint"]["secret"] = "another".into();
    assert!(create(&api, "one", &other).await.problem(409, "conflict").contains("was used for another request"));
    let twice = api.post("/agents", new).await.problem(409, "conflict");
    assert!(twice.contains(&format!("is here already, with number {id}")), "{twice}");
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 1);
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 0);

    let read = api.get(&format!("/agents/{id}")).await.is(200);
    let audit = api.get("/audit").await.is(200);
    assert_eq!((audit["items"].as_array().unwrap().len(), &audit["items"][0]["action"]), (1, &json!("agent.create")));
    assert_eq!(audit["items"][0]["after"]["url"], elsewhere.url());
    for shown in [&made, &again.body, &read, &audit] {
        assert!(!shown.to_string().contains(SECRET), "{shown}");
    }
    let kept: Vec<String> = sqlx::query_scalar(
        "select a::text from agents a union all select a::text from audit a
         union all select encode(body, 'escape') from idempotency",
    )
    .fetch_all(&stack.db)
    .await
    .unwrap();
    assert!(kept.len() == 3 && kept.iter().all(|row| !row.contains(SECRET)), "{kept:#?}");
    assert!(stack.logs().iter().all(|log| !String::from_utf8_lossy(&std::fs::read(log).unwrap()).contains(SECRET)));
    assert_eq!(stack.errors(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_its_machine_is_refused_and_the_rest_is_done_at_once() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").start().await;
    let (api, owner) = (Api::of(&stack), stack.user(OWNER));
    owner.asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let id = api.post("/agents", far(&elsewhere)).await.is(201)["id"].as_i64().unwrap();
    let path = format!("/agents/{id}");
    for action in ["stop", "start", "deploy", "deploy?anew=true", "redeploy", "repair"] {
        let words = api.post(&format!("{path}/{action}"), Value::Null).await.problem(409, "conflict");
        assert!(words.contains("Far runs elsewhere") && words.contains("Whoever runs it there"), "{action}: {words}");
    }
    let words = api.patch(&path, json!({"system_prompt": "Be near."})).await.problem(409, "conflict");
    assert!(words.contains("can't be given another personality or model"), "{words}");
    let changed = api.patch(&path, json!({"name": "Farther", "visibility": "private"})).await.is(200);
    assert_eq!(
        (&changed["name"], &changed["visibility"], &changed["status"], &changed["job"]),
        (&json!("Farther"), &json!("private"), &json!("running"), &Value::Null)
    );
    assert_eq!(changed["wanted_version"], changed["deployed_version"]);
    owner.asks("hi", "From afar: hi").await;

    let deleted = api.delete(&path).await.is(202);
    assert_eq!((&deleted["status"], &deleted["job"], &deleted["url"]), (&json!("deleted"), &Value::Null, &Value::Null));
    api.get(&path).await.problem(404, "not-found");
    owner.wait_for(|m| m.text.contains("Farther is deleted here. It runs on where it is")).await;
    let actions = "select string_agg(action, ' ' order by id) from audit";
    assert_eq!(stack.sql::<String>(actions).await, "agent.create agent.change agent.delete");
    assert_eq!(stack.sql::<i64>("select count(*) from jobs").await, 0);
    assert_eq!(stack.errors(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_cannot_be_taken_are_told_by_field_and_those_that_do_not_answer_as_conflicts() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    stack.user(OWNER).asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let refused = async |endpoint: Value| {
        let mut new = far(&elsewhere);
        new["endpoint"] = endpoint;
        api.post("/agents", new).await
    };
    for (endpoint, fields) in [
        (json!({"url": "far", "secret": ""}), vec!["endpoint.url", "endpoint.secret"]),
        (json!({"url": "https://me:pw@agent.example.org", "secret": "s"}), vec!["endpoint.url"]),
        (json!({"url": "https://agent.example.org", "secret": "two words"}), vec!["endpoint.secret"]),
        (json!({"url": "https://agent.example.org", "secret": "s", "port": 1}), vec!["endpoint.port"]),
        (json!({"url": "https://agent.example.org"}), vec!["endpoint"]),
    ] {
        let answer = refused(endpoint.clone()).await;
        let named: Vec<_> = answer.body["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
        assert_eq!(named, fields, "{endpoint}");
        answer.problem(422, "invalid");
    }
    for (url, words) in [
        (elsewhere.url(), "must begin with https://"),
        (format!("https://127.0.0.1:{}", elsewhere.port), "must be on the internet"),
        (format!("https://localhost:{}", elsewhere.port), "must be on the internet"),
    ] {
        let said = refused(json!({"url": url, "secret": SECRET})).await.problem(409, "conflict");
        assert!(said.contains(words), "{url}: {said}");
    }
    assert_eq!(elsewhere.now().requests, [""; 0]);
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_an_owners_words_to_others_or_costs_money_takes_an_admin_token() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").start().await;
    let api = Api::of(&stack);
    stack.user(OWNER).asks("/start", "Hello").await;
    let elsewhere = Elsewhere::start().await;
    let new = far(&elsewhere);
    let token = async |scope: &str| {
        let made = api.post("/tokens", json!({"label": scope, "scope": scope})).await.is(201);
        api.with(made["secret"].as_str().unwrap())
    };
    let (write, admin) = (token("write").await, token("admin").await);
    let words = write.post("/agents", new.clone()).await.problem(403, "forbidden");
    assert!(words.contains("scope `admin`; yours has `write`"), "{words}");
    write.patch(&format!("/users/{OWNER}"), json!({"max_agents": 100})).await.problem(403, "forbidden");
    assert_eq!(elsewhere.now().requests, [""; 0]);
    // A key that was used with another token opens nothing.
    create(&admin, "one", &new).await.is(201);
    create(&write, "one", &new).await.problem(403, "forbidden");
    admin.patch(&format!("/users/{OWNER}"), json!({"max_agents": 100})).await.is(200);
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 1);
}
