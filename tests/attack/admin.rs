//! Every operation of the administrators' API with malformed paths, queries and bodies: refused in words, never a failure.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::Api;
use crate::harness::Stack;
use crate::{counted, mutate, scaled, seed};

/// A value that a schema describes, of the examples within.
fn sample(document: &Value, schema: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return sample(document, document.pointer(&name[1..]).unwrap());
    }
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    if let Some(properties) = schema["properties"].as_object() {
        return properties.iter().map(|(name, schema)| (name.clone(), sample(document, schema))).collect();
    }
    for of in ["oneOf", "anyOf", "allOf"] {
        let choices = schema[of].as_array().into_iter().flatten();
        if let Some(choice) = choices.rev().find(|choice| choice["type"] != "null") {
            return sample(document, choice);
        }
    }
    schema["enum"].get(0).cloned().unwrap_or_else(|| match schema["type"].as_str() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([sample(document, &schema["items"])]),
        _ => json!("words"),
    })
}

/// What stands in a path or a query, percent-encoded.
const WORDS: [&str; 14] = [
    "1",
    "0",
    "-1",
    "999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999",
    "%00",
    "%ff%fe",
    "..%2f..",
    "'%20or%201=1--",
    "1000000001",
    "00000000-0000-0000-0000-000000000000",
    "%f0%9f%98%80",
];

fn path(rng: &mut StdRng, template: &str, parameters: &Value) -> String {
    let mut path = template.strip_prefix("/api/v1").unwrap().to_owned();
    while let (Some(start), Some(end)) = (path.find('{'), path.find('}')) {
        let word = if rng.random() { "1" } else { WORDS.choose(rng).unwrap() };
        path.replace_range(start..=end, word);
    }
    path.push('?');
    for parameter in parameters.as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query") {
        if rng.random_ratio(1, 3) {
            path.push_str(&format!("{}={}&", parameter["name"].as_str().unwrap(), WORDS.choose(rng).unwrap()));
        }
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_to_the_api_is_answered_by_a_failure() {
    let mut rng = StdRng::seed_from_u64(seed());
    let builder = Stack::builder().env("MAX_VMS", 1).env("ADMIN_RATE_PER_MINUTE", 100_000_000);
    let stack = builder.env("RUST_LOG", "info").start().await;
    let api = Api::of(&stack);
    sqlx::query(
        "with owner as (insert into users (id, name) values (1, 'Owner'))
         insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret)
         values (1, 1000000001, 1, 'Ada', 'You wait.', 'glm-4.7', 'public', 'stopped', '')",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    let document: Value = reqwest::get(format!("{}/openapi.json", api.base)).await.unwrap().json().await.unwrap();
    let mut statuses = BTreeMap::<u16, usize>::new();
    let mut asked = 0;
    for (template, item) in document["paths"].as_object().unwrap() {
        for name in ["get", "post", "put", "patch", "delete"] {
            let Some(operation) = item.get(name) else { continue };
            let method: Method = name.to_uppercase().parse().unwrap();
            let schema = operation.pointer("/requestBody/content/application~1json/schema");
            let good = schema.map(|schema| sample(&document, schema));
            for _ in 0..scaled(if good.is_some() { 80 } else { 12 }) {
                let path = path(&mut rng, template, &operation["parameters"]);
                let mut request = api.request(method.clone(), &path).timeout(Duration::from_secs(60));
                for (header, values) in [
                    ("If-Match", &["*", "\"1\"", "W/\"x\"", "\""][..]),
                    ("Idempotency-Key", &["k1", "k2", "%00"][..]),
                    ("Last-Event-ID", &["-1", "x", "99999999999999999999"][..]),
                ] {
                    if rng.random_ratio(1, 3) {
                        request = request.header(header, *values.choose(&mut rng).unwrap());
                    }
                }
                let mut said = String::new();
                if let Some(good) = &good {
                    let body = mutate::mutated(&mut rng, good);
                    said = String::from_utf8_lossy(&body).chars().take(2_000).collect();
                    let kind = if rng.random_ratio(1, 20) { "text/plain" } else { "application/json" };
                    request = request.header("Content-Type", kind).body(body);
                }
                // A connection that was kept may be closed just as it is used again; the next one is new.
                let again = request.try_clone().unwrap();
                let answer = match request.send().await {
                    Ok(answer) => answer,
                    Err(_) => again.send().await.unwrap_or_else(|error| panic!("{method} {path} {said}: {error}")),
                };
                let status = answer.status().as_u16();
                *statuses.entry(status).or_default() += 1;
                asked += 1;
                // A far side that does not answer is told as such where the document says so; a 500 never.
                let documented = status > 500 && operation["responses"].get(status.to_string()).is_some();
                let words = answer.text().await.unwrap_or_default();
                assert!(status < 500 || documented, "{method} {path} {said}: {status} {words}");
            }
        }
    }
    let panics: Vec<String> = stack.errors().into_iter().filter(|line| line.contains("panicked")).collect();
    assert_eq!(panics, Vec::<String>::new());
    stack.user(2).asks("/help", "What you can do here").await;
    counted("mutated admin requests", format!("{asked}, {statuses:?}"), "no 500, no panic");
}
