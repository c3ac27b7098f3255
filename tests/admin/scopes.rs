//! Which token may do what: every operation of the document, tried with a token of every scope.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Answer, Api};
use crate::harness::Stack;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// An operation of the document.
struct Operation {
    method: Method,
    path: String,
    scope: String,
    has_body: bool,
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for name in METHODS {
            let Some(operation) = item.get(name) else { continue };
            all.push(Operation {
                method: name.to_uppercase().parse().unwrap(),
                path: path.clone(),
                scope: operation["security"][0]["bearer"][0].as_str().unwrap().to_owned(),
                has_body: operation.get("requestBody").is_some(),
            });
        }
    }
    all
}

impl Operation {
    /// Asks for it about something that is not there, with a body that nothing takes: what is let in changes nothing.
    async fn tried(&self, api: &Api) -> Answer {
        let mut path = self.path.strip_prefix("/api/v1").unwrap().to_owned();
        while let (Some(start), Some(end)) = (path.find('{'), path.find('}')) {
            path.replace_range(start..=end, "999999999");
        }
        let request = api.request(self.method.clone(), &path);
        let request = if self.has_body { request.json(&json!({"unheard_of": true})) } else { request };
        Answer::of(request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_open_to_its_scope_and_those_above_it_and_to_nobody_else() {
    let stack = Stack::start().await;
    let admin = Api::of(&stack);
    let document: Value = reqwest::get(format!("{}/openapi.json", admin.base)).await.unwrap().json().await.unwrap();
    let operations = operations(&document);
    assert!(!operations.is_empty());
    let scopes = ["read", "write", "admin"];
    let mut tokens = Vec::new();
    for scope in scopes {
        let made = admin.post("/tokens", json!({"label": scope, "scope": scope})).await.is(201);
        tokens.push(admin.with(made["secret"].as_str().unwrap()));
    }
    let mut table = String::new();
    for operation in &operations {
        let line = format!("{:<7}{:<58}", operation.method.as_str(), operation.path);
        let mut line = format!("{line} none 401");
        let without = admin.request(operation.method.clone(), operation.path.strip_prefix("/api/v1").unwrap());
        let (client, request) = without.build_split();
        let mut request = request.unwrap();
        request.headers_mut().remove("authorization");
        let refused = client.execute(request).await.unwrap();
        assert_eq!(refused.status(), 401, "{line}");
        assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{line}");
        for (rank, (scope, token)) in scopes.iter().zip(&tokens).enumerate() {
            let answer = operation.tried(token).await;
            let needed = scopes.iter().position(|scope| *scope == operation.scope).unwrap();
            if rank < needed {
                let words = answer.problem(403, "forbidden");
                assert!(words.contains(&operation.scope) && words.contains(scope), "{line}: {words}");
                write!(line, "  {scope} 403").unwrap();
            } else {
                let status = answer.status.as_u16();
                assert!(![401, 403, 405, 429].contains(&status) && status < 500, "{line}: {:#}", answer.body);
                write!(line, "  {scope} {status}").unwrap();
            }
        }
        writeln!(table, "{}", line.trim_end()).unwrap();
    }
    // Guarded like the others, and no part of the document.
    let mut line = format!("{:<7}{:<58} none 401", "GET", "/metrics");
    let metrics = reqwest::Client::new().get(format!("{}/metrics", admin.base));
    assert_eq!(metrics.try_clone().unwrap().send().await.unwrap().status(), 401);
    for (scope, token) in scopes.iter().zip(&tokens) {
        let answer = metrics.try_clone().unwrap().bearer_auth(&token.token).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{scope}");
        write!(line, "  {scope} 200").unwrap();
    }
    writeln!(table, "{line}").unwrap();
    // Kept, so that an operation that is opened to more callers is seen by whoever reviews it.
    insta::assert_snapshot!("scopes", table);
}
