//! Links and visitors over the API.

use reqwest::Method;
use serde_json::{Value, json};

use crate::agents::insert_agent;
use crate::api::{Answer, Api};
use crate::harness::Stack;

/// What a link's URL makes a client send.
fn start(link: &Value) -> String {
    let (_, payload) = link["url"].as_str().unwrap().split_once("?start=").unwrap();
    format!("/start {payload}")
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_made_changed_and_revoked() {
    let stack = Stack::start().await;
    let (api, bob) = (Api::of(&stack), stack.user(2));
    let id = insert_agent(&stack, 1, "Ada", "unlisted", "running").await;
    let path = format!("/agents/{id}/links");
    let number = api.get(&path).await.is(200)["items"][0].clone();
    assert!(number["is_number"] == true && start(&number) == format!("/start agent_{id}"), "{number}");

    let make = || {
        let request = api.request(Method::POST, &path).header("Idempotency-Key", "friends");
        Answer::of(request.json(&json!({"label": " _Friends_ ", "per_day": 5, "expires_at": "2099-01-01T00:00:00Z"})))
    };
    // The end is further away than links may go.
    assert!(make().await.problem(409, "conflict").contains("within the next ten years"));
    let make = || {
        let request = api.request(Method::POST, &path).header("Idempotency-Key", "friends");
        Answer::of(request.json(&json!({"label": " _Friends_ ", "per_day": 5})))
    };
    let (first, second) = (make().await, make().await.is(201));
    let location = first.headers["location"].to_str().unwrap().to_owned();
    let made = first.is(201);
    assert_eq!(made, second);
    let link = format!("{path}/{}", made["id"]);
    assert_eq!(location, format!("/api/v1{link}"));
    assert_eq!((&made["label"], &made["tools"], &made["per_day"]), (&json!("_Friends_"), &json!(false), &json!(5)));
    let entered = bob.asks(&start(&made), "You are talking to Ada.").await;
    assert!(entered.text.ends_with("chat only, 5 messages a day."), "{}", entered.text);

    // Its text is shown once, and to nobody else.
    let read = api.get(&link).await;
    let etag = read.headers["etag"].to_str().unwrap().to_owned();
    let read = read.is(200);
    assert_eq!((&read["url"], &read["visitors"]), (&Value::Null, &json!(1)));
    let listed = api.get(&path).await.is(200);
    assert_eq!((&listed["items"][1], listed["items"].as_array().unwrap().len()), (&read, 2));

    let patch = |body: Value| Answer::of(api.request(Method::PATCH, &link).header("If-Match", &etag).json(&body));
    let changed = patch(json!({"tools": true, "per_day": null})).await.is(200);
    assert_eq!(
        (&changed["tools"], &changed["per_day"], &changed["label"]),
        (&json!(true), &Value::Null, &json!("_Friends_"))
    );
    patch(json!({"label": ""})).await.problem(412, "changed-meanwhile");
    bob.asks(&start(&made), "with its tools").await;
    for wrong in [json!({"per_day": 0}), json!({"per_day": 10_001}), json!({"label": "a\nb"}), json!({"tools": null})] {
        api.patch(&link, wrong).await.problem(422, "invalid");
    }
    let past = api.patch(&link, json!({"expires_at": "2020-01-01T00:00:00Z"})).await;
    past.problem(409, "conflict");
    let numbered = format!("{path}/{}", number["id"]);
    let never = api.patch(&numbered, json!({"expires_at": "2035-01-01T00:00:00Z"})).await;
    assert!(never.problem(409, "conflict").contains("no end of its own"));
    assert!(api.delete(&numbered).await.problem(409, "conflict").contains("can't be taken back"));

    api.delete(&link).await.is(200);
    let gone = format!("Agent {id} has no link {}.", made["id"]);
    assert_eq!(api.get(&link).await.problem(404, "not-found"), gone);
    assert_eq!(api.delete(&link).await.problem(404, "not-found"), gone);
    bob.asks(&start(&made), "This link doesn't work any more: it was taken back.").await;
    // Of another agent it is no link.
    let other = insert_agent(&stack, 1, "Bea", "unlisted", "running").await;
    api.get(&format!("/agents/{other}/links/{}", number["id"])).await.problem(404, "not-found");

    let actions = "select string_agg(action || ' ' || coalesce(after::text, ''), '; ' order by id) from audit";
    let actions: String = stack.sql(actions).await;
    assert!(actions.starts_with("link.create {") && actions.ends_with("link.revoke "), "{actions}");
    assert!(actions.contains(r#"link.change {"tools": true, "per_day": null}"#), "{actions}");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_are_let_in_and_shut_out() {
    let stack = Stack::start().await;
    let (api, bob) = (Api::of(&stack), stack.user(2));
    stack.user(1).asks("/start", "Hello").await;
    let id = insert_agent(&stack, 1, "Ada", "private", "running").await;
    let link = api.post(&format!("/agents/{id}/links"), json!({})).await.is(201);
    let visitor = format!("/agents/{id}/visitors/2");
    assert_eq!(api.get(&visitor).await.problem(404, "not-found"), format!("User 2 has never opened agent {id}."));
    bob.asks(&start(&link), "Its owner has been asked to let you in").await;
    let waiting = api.get(&visitor).await.is(200);
    assert_eq!(
        (&waiting["waits"], &waiting["shut_out"], &waiting["link_id"]),
        (&json!(true), &json!("asked"), &link["id"])
    );

    let decide = async |verdict: &str| api.post(&format!("{visitor}/{verdict}"), Value::Null).await;
    let admitted = decide("admit").await.is(200);
    assert_eq!((&admitted["admitted"], &admitted["shut_out"]), (&json!(true), &Value::Null));
    bob.wait_for(|m| m.text == "✅ The owner of Ada has let you in.").await;
    // Again: nothing happens, and nothing is told.
    decide("admit").await.is(200);
    assert_eq!(decide("block").await.is(200)["shut_out"], "blocked");
    bob.asks(&start(&link), "isn't open to you").await;
    assert_eq!(decide("unblock").await.is(200)["blocked"], false);
    bob.asks(&start(&link), "You are talking to Ada.").await;
    decide("refuse").await.is(200);
    decide("embrace").await.problem(400, "malformed");
    api.post(&format!("/agents/{id}/visitors/3/admit"), Value::Null).await.problem(404, "not-found");
    let list = api.get(&format!("/agents/{id}/visitors?limit=1")).await.is(200);
    assert_eq!((&list["items"][0]["user_id"], &list["next"]), (&json!(2), &Value::Null));
    let actions =
        "select string_agg(action, ' ' order by id) from audit where subject_kind = 'visitor' and user_id = 2";
    assert_eq!(stack.sql::<String>(actions).await, "visitor.admit visitor.block visitor.unblock");
    stack.simulator.assert_good_manners().await;
}
