//! Machines, the pool, and the reconciler.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::harness::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_shown_and_those_of_the_pool_are_retired() {
    let stack = Stack::start().await;
    let (api, ann) = (Api::of(&stack), stack.user(1));
    ann.creates_agent("Ada", "You listen.").await;
    stack.wait_for_sql("select count(*) from jobs where not done", 0i64).await;
    let all = api.get("/vms").await.is(200);
    let vm = all["items"][0].clone();
    assert_eq!((&vm["state"], &vm["cloud"], &vm["job_id"]), (&json!("assigned"), &json!("local"), &Value::Null));
    let path = format!("/vms/{}", vm["id"].as_str().unwrap());
    assert_eq!(api.get(&path).await.is(200), vm);
    let why = api.act(&format!("{path}/retire")).await.problem(409, "conflict");
    assert!(why.contains(&format!("agent {}", vm["agent_id"])) && why.contains("Delete the agent"), "{why}");

    // Three of the pool: one waits there, one is being made by a job, one by none any more.
    for (id, state) in [(1, "warm"), (2, "preparing"), (3, "preparing")] {
        sqlx::query(
            "insert into vms (id, cloud, data, state, host_key, created_at)
             select ('00000000-0000-4000-8000-00000000000' || $1)::uuid, 'local', jsonb_set(data, '{port}', '9'), $2,
                    case when $2 = 'warm' then 'ssh-ed25519 AAAA' end, now() + make_interval(secs => $1) from vms where agent_id is not null",
        )
        .bind(id)
        .bind(state)
        .execute(&stack.db)
        .await
        .unwrap();
    }
    sqlx::query(
        "insert into jobs (id, kind, step, state, run_at)
         values (gen_random_uuid(), 'prepare', 'store', '{\"vm\": \"00000000-0000-4000-8000-000000000002\"}', now() + interval '1 hour')",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    let first = api.get("/vms?limit=2").await.is(200);
    let rest = api.get(&format!("/vms?limit=2&before={}", first["next"].as_str().unwrap())).await.is(200);
    assert_eq!((first["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 2));
    assert_eq!((&rest["items"][1], &rest["next"]), (&vm, &Value::Null));
    let warm = api.get("/vms?state=warm&cloud=local").await.is(200)["items"][0].clone();
    assert!(warm["host_key_fingerprint"].as_str().unwrap().starts_with("SHA256:"), "{warm}");
    assert_eq!(api.get("/vms?cloud=aleph").await.is(200)["items"], json!([]));
    for n in 1..=3 {
        let path = format!("/vms/00000000-0000-4000-8000-00000000000{n}");
        api.act(&format!("{path}/retire")).await.is(202);
    }
    stack.wait_for_sql("select count(*) from vms where ended_at is null", 1i64).await;
    stack.wait_for_sql("select outcome from jobs where kind = 'prepare'", Some("cancelled".to_owned())).await;
    let ended = api.get("/vms?state=ended").await.is(200);
    assert_eq!(ended["items"].as_array().unwrap().len(), 3);
    let why = api.act("/vms/00000000-0000-4000-8000-000000000001/retire").await.problem(409, "conflict");
    assert!(why.contains("gone"), "{why}");
    api.act("/vms/00000000-0000-4000-8000-000000000009/retire").await.problem(404, "not-found");
    assert_eq!(api.actions().await, ["vm.retire"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pools_size_is_changed_while_it_runs() {
    let stack = Stack::builder().env("POOL_MIN_SIZE", 2).env("POOL_MAX_SIZE", 4).env("OPERATOR_IDS", 9).start().await;
    let api = Api::of(&stack);
    let read = api.get("/pool").await;
    let etag = read.headers["etag"].to_str().unwrap().to_owned();
    let pool = read.is(200);
    assert_eq!((&pool["enabled"], &pool["min"], &pool["max"]), (&json!(false), &json!(2), &json!(4)));
    let change =
        |tag: &str, body: Value| Answer::of(api.request(Method::PATCH, "/pool").header("If-Match", tag).json(&body));
    let changed = change(&etag, json!({"max_size": 7})).await;
    let newer = changed.headers["etag"].to_str().unwrap().to_owned();
    let changed = changed.is(200);
    assert_eq!((&changed["min"], &changed["max"], &changed["max_size"]), (&json!(2), &json!(7), &json!(7)));
    change(&etag, json!({"min_size": 5})).await.problem(412, "changed-meanwhile");
    assert_eq!(change(&newer, json!({"min_size": 5})).await.is(200)["min"], 5);
    assert!(change("*", json!({"max_size": 4})).await.problem(409, "conflict").contains("5 machines"));
    for (bad, field) in
        [(json!({"max_size": 1_001}), "max_size"), (json!({"min_size": -1}), "min_size"), (json!({"size": 1}), "size")]
    {
        let answer = change("*", bad).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["field"]),
            (422, &json!(field)),
            "{:#}",
            answer.body
        );
    }
    Answer::of(api.request(Method::PATCH, "/pool").json(&json!({}))).await.problem(428, "precondition-required");
    let back = change("*", json!({"min_size": null, "max_size": null})).await.is(200);
    assert_eq!((&back["min"], &back["max"], &back["min_size"]), (&json!(2), &json!(4), &Value::Null));
    assert_eq!(api.actions().await, ["pool.change"; 3]);
    let entry = &api.get("/audit").await.is(200)["items"][1];
    assert_eq!((&entry["before"]["min_size"], &entry["after"]["min_size"]), (&Value::Null, &json!(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reconciler_is_run_and_told_to_act_again() {
    let stack = Stack::start().await;
    let api = Api::of(&stack);
    assert_eq!(
        api.get("/reconcile").await.is(200),
        json!({"report_only": false, "held": null, "released": null, "age_seconds": null, "report": null})
    );
    let dry = api.post("/reconcile/run", json!({"dry_run": true})).await.is(200);
    assert_eq!((&dry["report"]["dry_run"], &dry["report"]["compared"]), (&json!(true), &json!(false)));
    assert_eq!(api.get("/reconcile").await.is(200)["report"], Value::Null);
    api.post("/reconcile/run", json!({"report_only": true})).await.is(200);
    let last = api.get("/reconcile").await.is(200);
    assert_eq!((&last["report_only"], &last["report"]["report_only"]), (&json!(true), &json!(true)));
    assert!(last["age_seconds"].is_number(), "{last}");
    assert_eq!(api.post("/reconcile/run", json!({"confirm": true})).await.is(200)["report_only"], false);
    api.post("/reconcile/run", json!({"confirm": true, "dry_run": true})).await.problem(409, "conflict");
    api.post("/reconcile/run", json!({"sure": true})).await.problem(422, "invalid");
    let seen = api.actions().await;
    assert_eq!(seen, ["reconcile.report_only", "reconcile.run", "reconcile.confirm", "reconcile.run"]);
}
