//! Agents over the API.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::harness::Stack;

/// An agent without a machine, for what needs none.
pub async fn insert_agent(stack: &Stack, owner: i64, name: &str, visibility: &str, status: &str) -> i64 {
    sqlx::query_scalar(
        "with owner as (insert into users (id, name) values ($1, 'Owner') on conflict do nothing)
         insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, deleted_at)
         values ($1, 1000000001, $1, $2, 'You wait.', 'glm-4.7', $3, $4, '', case when $4 = 'deleted' then now() end)
         returning id",
    )
    .bind(owner)
    .bind(name)
    .bind(visibility)
    .bind(status)
    .fetch_one(&stack.db)
    .await
    .unwrap()
}

fn ada(owner: i64) -> Value {
    json!({"owner_id": owner, "name": "Ada", "system_prompt": "You count.", "model": "glm-4.7", "visibility": "public"})
}

/// Waits until the agent runs and nothing is under way.
async fn settles(stack: &Stack, deployed: i32) {
    stack
        .wait_for_sql(
            "select array[wanted_version, case when status = 'running' then deployed_version end,
                         (select count(*) from jobs where not done)::int] from agents",
            vec![Some(deployed), Some(deployed), Some(0)],
        )
        .await;
}

fn numbers(list: &Value) -> Vec<i64> {
    list["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_created_changed_and_deleted_for_its_owner() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.asks("/start", "Hello").await;
    let made = api.post("/agents", ada(1)).await;
    let location = made.headers["location"].to_str().unwrap().to_owned();
    let made = made.is(201);
    let id = made["id"].as_i64().unwrap();
    assert_eq!(location, format!("/api/v1/agents/{id}"));
    assert_eq!((&made["status"], &made["job"]["kind"]), (&json!("provisioning"), &json!("provision")));
    assert_eq!(made["system_prompt"], "You count.");
    ann.wait_for(|m| m.text.contains("Ada is ready!")).await;
    settles(&stack, 1).await;
    ann.asks("hello", "message 1 of our conversation").await;

    let path = format!("/agents/{id}");
    let read = api.get(&path).await;
    let etag = read.headers["etag"].to_str().unwrap().to_owned();
    let read = read.is(200);
    assert_eq!((&read["status"], &read["job"], &read["unwell_since"]), (&json!("running"), &Value::Null, &Value::Null));
    assert_eq!((&read["last_job"]["kind"], &read["last_job"]["outcome"]), (&json!("provision"), &json!("succeeded")));
    assert!(read["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{read}");

    // What is changed, and by whom.
    let patch = |etag: &str, body: Value| {
        let request = api.request(Method::PATCH, &path).header("If-Match", etag);
        Answer::of(request.json(&body))
    };
    Answer::of(api.request(Method::PATCH, &path).json(&json!({}))).await.problem(428, "precondition-required");
    let changed = patch(&etag, json!({"visibility": "unlisted", "name": " Bea "})).await;
    let newer = changed.headers["etag"].to_str().unwrap().to_owned();
    let changed = changed.is(200);
    assert_eq!((&changed["visibility"], &changed["name"]), (&json!("unlisted"), &json!("Bea")));
    assert_eq!(changed["job"]["kind"], "redeploy");
    patch(&etag, json!({"visibility": "private"})).await.problem(412, "changed-meanwhile");
    settles(&stack, 2).await;
    // What is so already installs nothing.
    let same = patch(&newer, json!({"name": "Bea", "system_prompt": "You count.", "visibility": "unlisted"})).await;
    assert_eq!((same.headers["etag"].to_str().unwrap(), &same.body["job"]), (newer.as_str(), &Value::Null));
    same.is(200);
    ann.asks("/list", "🟢 Bea").await;

    let deployments = api.get(&format!("{path}/deployments")).await.is(200);
    let seen: Vec<_> =
        deployments["items"].as_array().unwrap().iter().map(|job| job["kind"].as_str().unwrap()).collect();
    assert_eq!((seen, &deployments["next"]), (vec!["redeploy", "provision"], &Value::Null));
    let mut steps: Vec<_> =
        deployments["items"][1]["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    steps.dedup();
    assert_eq!(steps, ["place", "install", "start", "health", "finish"]);
    let first = api.get(&format!("{path}/deployments?limit=1")).await.is(200);
    let rest = api.get(&format!("{path}/deployments?before={}", first["next"].as_str().unwrap())).await.is(200);
    assert_eq!((&rest["items"][0]["kind"], rest["items"].as_array().unwrap().len()), (&json!("provision"), 1));

    let deleted = api.delete(&path).await.is(202);
    assert_eq!(
        (&deleted["status"], &deleted["url"], &deleted["job"]["kind"]),
        (&json!("deleting"), &Value::Null, &json!("deprovision"))
    );
    for gone in [api.get(&path).await, api.delete(&path).await, api.get(&format!("{path}/links")).await] {
        let words = gone.problem(404, "not-found");
        assert!(
            words == format!("Agent {id} is being deleted.") || words == format!("There is no agent {id}."),
            "{words}"
        );
    }
    stack.wait_for_sql("select status from agents", "deleted".to_owned()).await;
    assert_eq!(api.get(&path).await.problem(404, "not-found"), format!("There is no agent {id}."));
    ann.asks("/list", "You have no agents yet.").await;

    let audit = api.get("/audit?subject_kind=agent").await.is(200);
    let entries = audit["items"].as_array().unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["agent.delete", "agent.change", "agent.create"]);
    assert_eq!(entries[1]["before"], json!({"name": "Ada", "visibility": "public"}));
    assert_eq!(entries[1]["after"], json!({"name": "Bea", "visibility": "unlisted"}));
    assert_eq!(entries[2]["after"]["system_prompt"]["bytes"], 10);
    assert!(!audit.to_string().contains("You count."));
    assert_eq!(stack.sql::<i64>("select count(*) from audit where user_id = 1").await, 3);
    assert_eq!(stack.errors(), [""; 0]);
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_sent_twice_makes_one_agent() {
    let stack = Stack::builder().env("MAX_AGENTS_PER_USER", 1).start().await;
    let api = Api::of(&stack);
    stack.user(1).asks("/start", "Hello").await;
    let create = || Answer::of(api.request(Method::POST, "/agents").header("Idempotency-Key", "one").json(&ada(1)));
    let (first, second) = tokio::join!(create(), create());
    assert_eq!(first.is(201), second.is(201));
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 1);
    assert_eq!(stack.sql::<i64>("select count(*) from audit").await, 1);
    for key in ["", "two words", "a\tb", &"x".repeat(256)] {
        let request = api.request(Method::POST, "/agents").header("Idempotency-Key", key).json(&ada(1));
        let words = Answer::of(request).await.problem(400, "malformed");
        assert!(words.contains("1 to 255 visible ASCII characters"), "{words}");
    }
    // Without a key it is another one.
    api.post("/agents", ada(1)).await.problem(409, "conflict");
    settles(&stack, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_told_field_by_field() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let never = api.post("/agents", ada(1)).await.problem(409, "conflict");
    assert_eq!(never, "User 1 has never talked to the bot. Ask them to open it and to press Start.");
    stack.user(1).asks("/start", "Hello").await;

    let wrong = json!({"owner_id": 1, "name": "a\u{0}b", "system_prompt": "", "model": "gpt-9"});
    let answer = api.post("/agents", wrong).await;
    let fields: Vec<_> = answer.body["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
    assert_eq!(fields, ["name", "system_prompt", "model"]);
    answer.problem(422, "invalid");
    for (field, value) in [
        ("owner_id", json!(0)),
        ("owner_id", json!(1_i64 << 53)),
        ("owner_id", json!("1")),
        ("name", json!(null)),
        ("name", json!(format!("{}Ada", " ".repeat(62)))),
        ("visibility", json!("secret")),
        ("colour", json!("red")),
    ] {
        let mut new = ada(1);
        new[field] = value;
        let answer = api.post("/agents", new).await;
        assert_eq!(answer.body["errors"][0]["field"], field, "{:#}", answer.body);
        answer.problem(422, "invalid");
    }
    let id = insert_agent(&stack, 1, "Ada", "public", "failed").await;
    for body in
        [json!({"name": null}), json!({"owner_id": 2}), json!({"visibility": "none"}), json!({"model": "gpt-9"})]
    {
        api.patch(&format!("/agents/{id}"), body).await.problem(422, "invalid");
    }
    // An agent that does not run takes it up later.
    let changed = api.patch(&format!("/agents/{id}"), json!({"name": "Bea"})).await.is(200);
    assert_eq!(
        (&changed["name"], &changed["job"], &changed["wanted_version"]),
        (&json!("Bea"), &Value::Null, &json!(2))
    );

    for query in ["limit=0", "limit=201", "name=%00", &format!("model={}", "x".repeat(101))] {
        api.get(&format!("/agents?{query}")).await.problem(422, "invalid");
    }
    for query in ["status=asleep", "status=deleted", "colour=red", "before=x", "owner_id=99999999999999999999"] {
        api.get(&format!("/agents?{query}")).await.problem(400, "malformed");
    }
    assert_eq!(api.get("/agents/999").await.problem(404, "not-found"), "There is no agent 999.");
    api.get("/agents/x").await.problem(400, "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_come_in_parts() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    let ann = insert_agent(&stack, 1, "Ann's 100% _Ada_", "public", "failed").await;
    let bob = insert_agent(&stack, 2, "Bob", "private", "failed").await;
    let gone = insert_agent(&stack, 2, "Gone", "private", "deleted").await;
    let cat = insert_agent(&stack, 2, "ÉMILE", "unlisted", "provisioning").await;
    for (query, found) in [
        ("", vec![cat, bob, ann]),
        ("?owner_id=2", vec![cat, bob]),
        ("?status=failed", vec![bob, ann]),
        ("?visibility=unlisted", vec![cat]),
        ("?model=glm-4.7&owner_id=1", vec![ann]),
        ("?model=other", vec![]),
        ("?name=_ada", vec![ann]),
        ("?name=%25", vec![ann]),
        ("?name=mile", vec![cat]),
    ] {
        let list = api.get(&format!("/agents{query}")).await.is(200);
        assert_eq!((numbers(&list), &list["next"]), (found, &Value::Null), "{query}");
        assert!(!list.to_string().contains("You wait."));
    }
    let first = api.get("/agents?limit=2").await.is(200);
    assert_eq!(numbers(&first), [cat, bob]);
    let rest = api.get(&format!("/agents?limit=2&before={}", first["next"].as_str().unwrap())).await.is(200);
    assert_eq!((numbers(&rest), &rest["next"]), (vec![ann], &Value::Null));
    api.get(&format!("/agents/{gone}")).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_set_to_work_anew() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.asks("/start", "Hello").await;
    let id = insert_agent(&stack, 1, "Ada", "public", "failed").await;
    let act = async |what: &str| api.post(&format!("/agents/{id}/{what}"), Value::Null).await;
    assert!(act("redeploy").await.problem(409, "conflict").contains("isn't running, so there is nothing to update"));
    let begun = act("deploy").await.is(202);
    assert_eq!((&begun["status"], &begun["job"]["kind"]), (&json!("provisioning"), &json!("provision")));
    ann.wait_for(|m| m.text.contains("Ada is ready!")).await;
    settles(&stack, 1).await;
    ann.asks(&format!("/start agent_{id}"), "You are talking to Ada").await;
    ann.asks("hello", "message 1 of our conversation").await;

    assert!(act("deploy").await.problem(409, "conflict").contains("Ada is running already"));
    assert!(act("deploy?anew=true").await.problem(409, "conflict").contains("nothing was thrown away"));
    assert_eq!(act("redeploy").await.is(202)["job"]["kind"], "redeploy");
    settles(&stack, 2).await;
    assert_eq!(act("repair").await.is(202)["job"]["kind"], "repair");
    settles(&stack, 2).await;
    // Neither costs it what it remembers.
    ann.asks("and now?", "message 2 of our conversation").await;

    sqlx::query("update agents set status = 'failed', url = null").execute(&stack.db).await.unwrap();
    let anew = act("deploy?anew=true").await.is(202);
    assert_eq!((&anew["job"]["kind"], &anew["deployed_version"]), (&json!("provision"), &json!(0)));
    stack.wait_for_sql("select array_agg(distinct status) from agents", vec!["running".to_owned()]).await;
    stack.wait_for_sql("select count(*) from jobs where not done", 0i64).await;
    ann.asks("who are you?", "message 1 of our conversation").await;
    for (what, status) in [("deploy?anew=perhaps", 400), ("deploy?how=well", 400)] {
        act(what).await.problem(status, "malformed");
    }
    api.post("/agents/999/repair", Value::Null).await.problem(404, "not-found");
    let actions = "select string_agg(action, ' ' order by id) from audit";
    assert_eq!(stack.sql::<String>(actions).await, "agent.deploy agent.redeploy agent.repair agent.deploy_anew");
    assert_eq!(stack.errors(), [""; 0]);
}
