//! Jobs, dead letters, and calls that are stuck.

use serde_json::{Value, json};

use crate::api::Api;
use crate::harness::{Baal, Stack};

/// What the harness' program expects of Telegram.
const SECRET: &str = "test-webhook-secret";

async fn deliver(baal: &Baal, body: String) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(format!("{}/telegram/webhook", baal.url())).body(body);
    let answer = request.header("x-telegram-bot-api-secret-token", SECRET).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_without_their_words_retried_and_dropped() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    for id in [900_000_001, 900_000_002, 900_000_003] {
        // A message of another shape than any that Telegram sends.
        deliver(stack.baal(0), json!({"update_id": id, "message": "SECRET WORDS"}).to_string()).await;
    }
    deliver(stack.baal(0), "not even JSON".into()).await;
    const DEAD: &str = "select count(*) from updates where done and error is not null";
    stack.wait_for_sql(DEAD, 4i64).await;
    let depth = api.get("/updates").await.is(200);
    assert_eq!((&depth["open"], &depth["oldest_seconds"], &depth["dead"]), (&json!(0), &Value::Null, &json!(4)));

    let mut seen = vec![];
    let mut path = "/updates/dead?limit=3".to_owned();
    loop {
        let part = api.get(&path).await.is(200);
        seen.extend(part["items"].as_array().unwrap().clone());
        match part["next"].as_str() {
            Some(next) => path = format!("/updates/dead?limit=3&before={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 4);
    assert!(!json!(seen).to_string().contains("SECRET"), "{seen:?}");
    let unreadable = seen.iter().find(|letter| letter["update_id"].as_i64().unwrap() < 0).unwrap();
    assert_eq!(unreadable["kind"], Value::Null);
    let letter = seen.iter().find(|letter| letter["update_id"] == 900_000_002).unwrap();
    assert_eq!((&letter["kind"], &letter["is_whole"]), (&json!("message"), &json!(true)));
    assert!(letter["error"].as_str().unwrap().contains("not an update"), "{letter}");
    let bot = letter["bot_id"].as_i64().unwrap();
    let at = |id: i64| format!("/updates/dead/{bot}/{id}");
    assert_eq!(&api.get(&at(900_000_002)).await.is(200), letter);

    // It cannot be read the second time either.
    api.act(&format!("{}/retry", at(900_000_001))).await.is(202);
    stack.wait_for_sql("select count(*) from updates where update_id = 900000001 and done and attempt = 2", 1i64).await;
    api.get(&at(900_000_001)).await.is(200);
    api.act(&format!("{}/drop", at(900_000_002))).await.is(200);
    api.get(&at(900_000_002)).await.problem(404, "not-found");
    api.act(&format!("{}/drop", at(900_000_002))).await.problem(404, "not-found");
    // Telegram's repetition of it is no new update.
    deliver(stack.baal(0), json!({"update_id": 900_000_002, "message": "SECRET WORDS"}).to_string()).await;
    assert_eq!(stack.sql::<i64>(DEAD).await, 3);

    // One that showed a key has nothing to retry.
    sqlx::query("update updates set body = '' where update_id = 900000003").execute(&stack.db).await.unwrap();
    let why = api.act(&format!("{}/retry", at(900_000_003))).await.problem(409, "conflict");
    assert!(why.contains("key"), "{why}");
    assert_eq!(api.actions().await, ["update.retry", "update.drop"]);
    assert!(api.get("/updates/dead?before=nonsense").await.problem(422, "invalid").contains("next"));
    api.get("/updates/dead?beforr=1:1").await.problem(400, "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_dead_letter_is_handled_in_its_users_chat() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.asks("/help", "/create").await;
    let vault = baal::vault::Vault::new(&stack.baal(0).env()["BOT_ENCRYPTION_KEY"].clone().into()).unwrap();
    let update = json!({"update_id": 900_000_009, "message": {"message_id": 77, "date": 1_700_000_000, "text": "/list",
        "from": {"id": 1, "is_bot": false, "first_name": "Ann"}, "chat": {"id": 1, "type": "private"}}});
    sqlx::query(
        "insert into updates (bot_id, update_id, chat_id, body, done, failures, error)
         select bot_id, 900000009, 1, $1, true, 5, 'the handler took too long' from bots",
    )
    .bind(vault.encrypt(update.to_string().as_bytes()))
    .execute(&stack.db)
    .await
    .unwrap();
    let letter = api.get("/updates/dead").await.is(200)["items"][0].clone();
    assert_eq!((&letter["chat_id"], &letter["kind"], &letter["failures"]), (&json!(1), &json!("message"), &json!(5)));
    let path = format!("/updates/dead/{}/900000009/retry", letter["bot_id"]);
    api.act(&path).await.is(202);
    stack
        .wait_for_sql("select done and error is null and body = '' from updates where update_id = 900000009", true)
        .await;
    assert_eq!(api.get("/updates").await.is(200)["dead"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_not_handled_beside_another_update_of_its_chat_nor_for_another_bot() {
    let stack = Stack::builder().http_apart().start().await;
    let api = Api::of(&stack);
    // Nobody handles anything yet: what is claimed stays so.
    for (bot, update, reclaims, open) in [(1_000_000_001, 1, 5, false), (1_000_000_001, 2, 0, true), (5, 3, 0, false)] {
        sqlx::query(
            "insert into updates (bot_id, update_id, chat_id, body, done, failures, reclaims, error, claimed_by)
             values ($1, $2, 7, 'x', not $4, 4, $3, case when not $4 then 'it died' end, case when $4 then 1 end)",
        )
        .bind(i64::from(bot))
        .bind(i64::from(update))
        .bind(reclaims)
        .bind(open)
        .execute(&stack.db)
        .await
        .unwrap();
    }
    let why = api.act("/updates/dead/5/3/retry").await.problem(409, "conflict");
    assert!(why.contains("bot 5") && why.contains("1000000001 runs here"), "{why}");
    let path = "/updates/dead/1000000001/1/retry";
    assert!(api.act(path).await.problem(409, "conflict").contains("Try again"));
    sqlx::query("update updates set claimed_by = null where update_id = 2").execute(&stack.db).await.unwrap();
    api.act(path).await.is(202);
    // What took processes down is handled alone the next time as well, and has one more try.
    let row: (bool, i32, i32) = sqlx::query_as("select done, failures, reclaims from updates where update_id = 1")
        .fetch_one(&stack.db)
        .await
        .unwrap();
    assert_eq!(row, (false, 0, 5));
    assert_eq!(api.actions().await, ["update.retry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_stuck_are_shown_without_their_words_hurried_and_dropped() {
    let stack = Stack::builder().http_apart().start().await;
    let api = Api::of(&stack);
    // Nobody sends yet. The first waits for its next try, the second because Telegram wants it to; the third is in flight.
    for (id, error, run_at, claimed_by) in [
        (1, "connection refused", "1 hour", None),
        (2, "Telegram wanted us to wait", "1 hour", None),
        (3, "connection refused", "0", Some(1)),
    ] {
        sqlx::query(
            "insert into outbox (bot_id, chat_id, method, payload, kind, failures, error, run_at, claimed_by)
             values (1000000001, $1, 'sendMessage', json_build_object('chat_id', $1::int8, 'text', 'SECRET WORDS'), 'reply', 3, $2,
                     now() + $3::text::interval, $4)",
        )
        .bind(i64::from(id))
        .bind(error)
        .bind(run_at)
        .bind(claimed_by.map(i64::from))
        .execute(&stack.db)
        .await
        .unwrap();
    }
    let depth = api.get("/outbox").await.is(200);
    assert_eq!((&depth["open"], &depth["stuck"], &depth["dead"]), (&json!(3), &json!(3), &json!(0)));
    let calls = api.get("/outbox/calls").await.is(200);
    assert!(!calls.to_string().contains("SECRET"), "{calls}");
    let states: Vec<_> =
        calls["items"].as_array().unwrap().iter().map(|call| call["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["sending", "waiting", "waiting"]);
    let at = |place: usize| format!("/outbox/calls/{}", calls["items"][place]["id"]);
    let (hurried, held, flying) = (at(2), at(1), at(0));
    let call = api.act(&format!("{hurried}/retry")).await.is(200);
    assert!(call["run_at"].as_str().unwrap() < calls["items"][2]["run_at"].as_str().unwrap(), "{call}");
    let why = api.act(&format!("{held}/retry")).await.problem(409, "conflict");
    assert!(why.contains("left alone"), "{why}");
    for action in ["retry", "drop"] {
        api.act(&format!("{flying}/{action}")).await.problem(409, "conflict");
    }
    assert_eq!(api.act(&format!("{held}/drop")).await.is(200)["state"], "dropped");
    for action in ["retry", "drop"] {
        assert!(api.act(&format!("{held}/{action}")).await.problem(409, "conflict").contains("dropped"));
    }
    assert_eq!(stack.sql::<i64>("select count(*) from outbox where done and payload::text = 'null'").await, 1);
    sqlx::query("update outbox set done = true, claimed_by = null, error = 'Bad Request: no' where claimed_by = 1")
        .execute(&stack.db)
        .await
        .unwrap();
    let dead = api.get("/outbox/calls?state=dead").await.is(200);
    assert_eq!((dead["items"].as_array().unwrap().len(), &dead["items"][0]["state"]), (1, &json!("dead")));
    assert!(api.act(&format!("{flying}/retry")).await.problem(409, "conflict").contains("not kept"));
    api.act(&format!("{flying}/drop")).await.is(200);
    assert_eq!(api.get("/outbox/calls?state=dead").await.is(200)["items"], json!([]));
    assert_eq!(api.get("/outbox").await.is(200)["dead"], 0);
    assert_eq!(api.actions().await, ["outbox.retry", "outbox.drop", "outbox.drop"]);
    api.get("/outbox/calls/999999").await.problem(404, "not-found");
}

async fn only_job(api: &Api, query: &str) -> Value {
    let jobs = api.get(&format!("/jobs?{query}")).await.is(200);
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "{jobs:#}");
    jobs["items"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_found_by_state_and_kind_and_read_with_what_was_tried() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.creates_agent("Ada", "You listen.").await;
    stack.wait_for_sql("select count(*) from jobs where done", 1i64).await;
    let job = only_job(&api, "state=done&kind=provision").await;
    assert_eq!((&job["state"], &job["run_at"], &job["error"]), (&json!("succeeded"), &Value::Null, &Value::Null));
    let agent = job["agent_id"].as_i64().unwrap();
    assert_eq!(only_job(&api, &format!("agent_id={agent}&state=succeeded")).await["id"], job["id"]);
    for none in [
        "state=live",
        "state=failed",
        "kind=repair",
        "agent_id=999",
        &format!("before={}", job["id"].as_str().unwrap()),
    ] {
        assert_eq!(api.get(&format!("/jobs?{none}")).await.is(200)["items"], json!([]), "{none}");
    }
    for bad in ["state=asleep", "kind=dance", "before=1", "limit=0", "sate=live"] {
        let status = api.get(&format!("/jobs?{bad}")).await.status.as_u16();
        assert!([400, 422].contains(&status), "{bad}: {status}");
    }
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    let read = api.get(&path).await.is(200);
    let steps: Vec<_> =
        read["attempts"].as_array().unwrap().iter().map(|tried| tried["step"].as_str().unwrap()).collect();
    assert_eq!((steps.first(), steps.last()), (Some(&"place"), Some(&"finish")));
    for action in ["retry", "cancel"] {
        api.act(&format!("{path}/{action}")).await.problem(409, "conflict");
    }
    api.act("/jobs/00000000-0000-0000-0000-000000000000/retry").await.problem(404, "not-found");
    api.act("/jobs/1/retry").await.problem(400, "malformed");
    assert_eq!(api.actions().await, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_of_a_new_agent_takes_away_what_it_made_and_is_retried() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.asks("/help", "/create").await;
    sqlx::query(
        "insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, secret)
         select 1, bot_id, 1, 'Ada', 'You listen.', 'qwen3-coder-next', 'private', '' from bots",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    sqlx::query("insert into agent_versions (agent_id, version, name, system_prompt, model) select id, 1, name, system_prompt, model from agents")
        .execute(&stack.db)
        .await
        .unwrap();
    sqlx::query("insert into jobs (id, kind, agent_id, step, run_at) select gen_random_uuid(), 'provision', id, 'place', now() + interval '1 hour' from agents")
        .execute(&stack.db)
        .await
        .unwrap();
    let job = only_job(&api, "state=waiting").await;
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    let answer = api.act(&format!("{path}/cancel")).await;
    assert_eq!(answer.is(202)["cancel_requested"], true);
    stack.wait_for_sql("select count(*) from jobs where outcome = 'cancelled'", 1i64).await;
    assert_eq!(stack.sql::<String>("select status from agents").await, "failed");
    assert_eq!(stack.sql::<i64>("select count(*) from vms where ended_at is null").await, 0);
    let over = api.get(&path).await.is(200);
    assert_eq!(over["error"], "an operator cancelled it");

    let again = api.act(&format!("{path}/retry")).await;
    let location = again.headers["location"].to_str().unwrap().to_owned();
    let again = again.is(202);
    assert_eq!(location, format!("/api/v1/jobs/{}", again["id"].as_str().unwrap()));
    assert_eq!((&again["kind"], &again["agent_id"]), (&json!("provision"), &job["agent_id"]));
    assert_eq!(api.actions().await, ["job.cancel", "job.retry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_update_or_repair_takes_nothing_from_its_agent() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.creates_agent("Ada", "You listen.").await;
    stack.wait_for_sql("select count(*) from jobs where not done", 0i64).await;
    let there = stack.agent_dirs();
    assert_eq!(there.len(), 1);
    for (kind, step, status) in [("redeploy", "install", "running"), ("repair", "place", "failed")] {
        sqlx::query("insert into jobs (id, kind, agent_id, step, run_at) select gen_random_uuid(), $1, id, $2, now() + interval '1 hour' from agents")
            .bind(kind)
            .bind(step)
            .execute(&stack.db)
            .await
            .unwrap();
        let job = only_job(&api, "state=live").await;
        api.act(&format!("/jobs/{}/cancel", job["id"].as_str().unwrap())).await.is(202);
        stack.wait_for_sql("select count(*) from jobs where not done", 0i64).await;
        let over = api.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await.is(200);
        assert_eq!(over["state"], "cancelled", "{kind}: {over:#}");
        assert_eq!(stack.sql::<String>("select status from agents").await, status, "{kind}");
        assert_eq!(stack.agent_dirs(), there, "{kind}");
        assert_eq!(stack.sql::<i64>("select count(*) from vms where ended_at is null").await, 1);
    }
    // What it remembers is there, so that is what is mended.
    let job = only_job(&api, "kind=repair").await;
    let again = api.act(&format!("/jobs/{}/retry", job["id"].as_str().unwrap())).await.is(202);
    assert_eq!(again["kind"], "repair");
    stack.wait_for_sql("select status from agents", "running".to_owned()).await;
    assert_eq!(stack.agent_dirs(), there);
    // What removes is done to its end.
    sqlx::query("insert into jobs (id, kind, agent_id, step, run_at) select gen_random_uuid(), 'deprovision', id, 'stop', now() + interval '1 hour' from agents")
        .execute(&stack.db)
        .await
        .unwrap();
    let job = only_job(&api, "state=live").await;
    let why = api.act(&format!("/jobs/{}/cancel", job["id"].as_str().unwrap())).await.problem(409, "conflict");
    assert!(why.contains("removing"), "{why}");
}
