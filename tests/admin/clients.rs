//! The document, and what other people's programs make of it: a fuzzer, and a generator of clients.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::api::ADMIN_TOKEN;
use crate::harness::{Stack, python};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
const REQUIREMENTS: &str = "tests/admin/requirements.txt";

/// Runs a program of the Python environment; gives what it said. `environment` goes to it beside PATH.
fn run(program: &str, arguments: &[&str], environment: &[(&str, &str)], dir: &Path) -> Result<String, String> {
    let python = python(REQUIREMENTS);
    let bin = python.parent().unwrap();
    // Generators call formatters, which are in the environment too.
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let ran = Command::new(bin.join(program))
        .args(arguments)
        .env("PATH", path)
        .envs(environment.iter().copied())
        .current_dir(dir)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if ran.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn the_document_in_the_repository_is_the_programs() {
    let kept = std::fs::read_to_string(DOCUMENT).unwrap();
    let own = format!("{}\n", baal::http::admin::document().to_pretty_json().unwrap());
    assert!(kept == own, "openapi/openapi.json is not what `baal openapi` prints: run `make generated`");
}

#[test]
fn the_document_explains_everything() {
    let document = serde_json::to_value(baal::http::admin::document()).unwrap();
    let said = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
    let mut ids = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(_, operation)| operation.is_object()) {
            let name = format!("{method} {path}");
            assert!(said(&operation["summary"]) && said(&operation["description"]), "{name} is not explained");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name} has no id of its own");
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name} has not one tag");
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(said(&parameter["description"]), "{name}: nobody says what {} is", parameter["name"]);
                let schema = &parameter["schema"];
                let shown = [
                    &parameter["example"],
                    &schema["example"],
                    &schema["examples"],
                    &schema["enum"],
                    &schema["default"],
                ];
                let is_shown = shown.iter().any(|value| !value.is_null());
                assert!(is_shown, "{name} has no example of {}", parameter["name"]);
            }
            let answers = operation["responses"].as_object().unwrap();
            for status in ["401", "403", "429", "500", "503"] {
                assert!(answers.contains_key(status), "{name} has no {status}");
            }
            assert!(answers.keys().any(|status| status.starts_with('2')), "{name} never does it");
            assert!(answers.values().all(|answer| said(&answer["description"])), "{name} has an answer without words");
            if let Some(body) = operation.get("requestBody") {
                let schema = &body["content"]["application/json"]["schema"];
                let reference = schema["$ref"].as_str().unwrap_or_else(|| panic!("{name} takes a body without a name"));
                let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
                assert_eq!(schema["additionalProperties"], false, "{name} takes unknown fields");
            }
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(reference).is_some(), "{reference} is nowhere");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            // What is an object of its own, or one of a few words, says it there.
            let known = said(&property["description"])
                || property.to_string().contains("$ref")
                || property["format"] == "date-time";
            assert!(known || field == "id", "{name}: nobody says what {field} is");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzer_finds_nothing_that_the_document_does_not_say() {
    // Wrong tokens, which are part of it, would slow one address down: each request comes from another one.
    let stack = Stack::builder().env("TRUSTED_PROXIES", "127.0.0.1/32").start().await;
    // The user of the document's examples, who can have agents.
    let owner = stack.user(123_456_789);
    owner.creates_agent("Ada", "You are a pirate.").await;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/admin/schemathesis");
    let (dir, url) = (stack.dir().to_owned(), stack.baal(0).url());
    let config = scripts.join("schemathesis.toml").display().to_string();
    let hooks = scripts.join("hooks.py").display().to_string();
    let found = tokio::task::spawn_blocking(move || {
        // The one that is served: it names the models that there are.
        let document = format!("{url}/openapi.json");
        let arguments = ["--config-file", &config, "run", &document, "--url", &url];
        run("schemathesis", &arguments, &[("ADMIN_TOKEN", ADMIN_TOKEN), ("SCHEMATHESIS_HOOKS", &hooks)], &dir)
    });
    let said = found.await.unwrap().unwrap_or_else(|said| panic!("{said}"));
    let counted =
        said.split_once(" generated").and_then(|(before, _)| before.rsplit(' ').next()?.replace(',', "").parse().ok());
    let cases: u32 = counted.unwrap_or_else(|| panic!("it does not say how many cases passed:\n{said}"));
    assert!(cases >= 2_000, "{said}");
    println!("{said}");
    assert_eq!(stack.errors(), [""; 0], "answers with 500 would stand there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_generated_from_the_document_works() {
    let stack = Stack::start().await;
    stack.user(1).asks("/start", "Hello").await;
    let (dir, url) = (stack.dir().to_owned(), stack.baal(0).url());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/admin/crud.py").display().to_string();
    let done = tokio::task::spawn_blocking(move || {
        let generated =
            ["generate", "--path", DOCUMENT, "--meta", "none", "--output-path", "baal_client", "--fail-on-warning"];
        run("openapi-python-client", &generated, &[], &dir)?;
        let path = dir.display().to_string();
        run("python", &[&script, &url, "1"], &[("ADMIN_TOKEN", ADMIN_TOKEN), ("PYTHONPATH", &path)], &dir)
    });
    let said = done.await.unwrap().unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("done"), "{said}");
}
