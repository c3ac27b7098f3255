//! Figures: /metrics, baal status, the dashboard and the alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use baal::eyes::alarms;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::api::Api;
use crate::harness::{Baal, DEADLINE, POLL, Stack, free_port};

/// Metrics of Prometheus' own.
const ITS_OWN: [&str; 2] = ["up", "ALERTS"];

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What promtool says; it must be content.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(deployed("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which scripts/bootstrap installs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "promtool {arguments:?}: {said}");
}

/// The figures as a token of scope read sees them.
async fn scrape(stack: &Stack) -> String {
    let api = Api::of(stack);
    let token = api.post("/tokens", json!({"label": "prometheus", "scope": "read"})).await.is(201);
    let asked = reqwest::Client::new().get(format!("{}/metrics", stack.baal(0).url()));
    let answer = asked.bearer_auth(token["secret"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    answer.text().await.unwrap()
}

/// Samples by their name with labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
}

/// The metrics that an expression names.
fn named(expression: &str) -> BTreeSet<String> {
    let words = Regex::new(r#""[^"]*"|\b(?:by|without|on|ignoring)\s*\([^)]*\)|\{[^}]*\}|\[[^\]]*\]"#).unwrap();
    let bare = words.replace_all(expression, " ");
    let names = Regex::new(r"[A-Za-z_:][A-Za-z0-9_:]*\b").unwrap();
    let called = Regex::new(r"([a-z_]+)\s*\(").unwrap();
    let functions: BTreeSet<_> = called.captures_iter(&bare).map(|found| found[1].to_owned()).collect();
    let found = names.find_iter(&bare).map(|name| name.as_str().to_owned());
    found
        .filter(|name| !functions.contains(name) && !["and", "or", "unless", "bool"].contains(&name.as_str()))
        .collect()
}

/// Everything of this name in a document, however deep.
fn all_of<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| all_of(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| all_of(value, key, found)),
        _ => {}
    }
}

/// A rule of an expression, under a name that no other has. Grafana fills in how far back rates look.
fn rule((number, expression): (usize, &&str)) -> Value {
    json!({"record": format!("dashboard:{number}"), "expr": expression.replace("$__rate_interval", "5m")})
}

/// Names and expressions of the alerts.
fn alerts() -> Vec<(String, String)> {
    let rules = read("deploy/prometheus/alerts.yml");
    let each = Regex::new(r"- alert: (\w+)\n\s+expr: (.*)\n").unwrap();
    let alerts: Vec<_> = each.captures_iter(&rules).map(|rule| (rule[1].to_owned(), rule[2].to_owned())).collect();
    assert_eq!(alerts.len(), rules.matches("alert: ").count());
    alerts
}

/// Waits until this is so.
#[track_caller]
fn until(what: &'static str, is_so: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + DEADLINE;
        while !is_so().await {
            assert!(Instant::now() < deadline, "{caller}: {what}: not in time");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// `baal status` where `baal` works: whether nothing is alarming, and what it prints.
fn status(baal: &Baal, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(["status", "--no-env-file"])
        .args(arguments)
        .env_clear()
        .envs(baal.env())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_sees_what_happens() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    ann.creates_agent("Ada", "You count.").await;
    ann.asks("open sesame", "message 1 of our conversation").await;
    stack.wait_for_sql("select count(*) from updates where not done", 0_i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0_i64).await;
    let text = scrape(&stack).await;
    promtool(&["check", "metrics"], &text);

    let samples = samples(&text);
    let at_least_once = [
        r#"baal_webhook_duration_seconds_count{status="200"}"#,
        r#"baal_updates_total{outcome="handled"}"#,
        r#"baal_turns_total{kind="message",outcome="completed"}"#,
        r#"baal_turn_duration_seconds_count{outcome="completed"}"#,
        "baal_turn_first_token_seconds_count",
        r#"baal_telegram_calls_total{method="sendMessage",status="200"}"#,
        r#"baal_telegram_call_duration_seconds_count{method="sendMessage"}"#,
        r#"baal_database_connections{state="idle"}"#,
    ];
    for name in at_least_once {
        assert!(samples.get(name).is_some_and(|count| *count >= 1.0), "{name} in {text}");
    }
    let exactly = [
        ("baal_database_up", 1.0),
        ("baal_inbox_depth", 0.0),
        ("baal_inbox_dead_letters", 0.0),
        (r#"baal_agents{status="running"}"#, 1.0),
        (r#"baal_replicas{role="worker"}"#, 1.0),
        (r#"baal_jobs_ended_last_hour{kind="provision",outcome="succeeded"}"#, 1.0),
        (r#"baal_vms{cloud="local",state="assigned"}"#, 1.0),
        (r#"baal_jobs{kind="provision",state="running"}"#, 0.0),
        ("baal_leases_lost_total", 0.0),
    ];
    for (name, value) in exactly {
        assert_eq!(samples.get(name), Some(&value), "{name} in {text}");
    }
    assert!(samples["baal_credits_lasting_seconds"].is_nan(), "there is no account");
    // Whose they are, and what was said, is nobody's business here.
    for secret in ["Ada", "sesame", "test-webhook-secret"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_what_there_is() {
    let stack = Stack::start().await;
    stack.user(1).asks("/start", "").await;
    let text = scrape(&stack).await;
    let there: BTreeSet<&str> = samples(&text).into_keys().map(|name| name.split('{').next().unwrap()).collect();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/baal.json")).unwrap();
    let mut expressions = vec![];
    all_of(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 30, "{expressions:?}");
    // Rules are what promtool reads expressions in.
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    let file = stack.dir().join("dashboard.yml");
    std::fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
    let alerts = alerts();
    expressions.extend(alerts.iter().map(|(_, expression)| expression.as_str()));
    let mut used = BTreeSet::new();
    for expression in expressions {
        for name in named(expression) {
            // Series of a histogram or a counter that nothing has happened to yet are there as well.
            assert!(
                ITS_OWN.contains(&name.as_str()) || there.contains(name.as_str()),
                "{name} of {expression}:\n{text}"
            );
            used.insert(name);
        }
    }
    // And nothing is shown for nobody.
    let known = Regex::new(r"# TYPE (\w+)").unwrap();
    for name in known.captures_iter(&text).map(|found| found[1].to_owned()) {
        let looked_at =
            used.iter().any(|used| used == &name || used.strip_prefix(&name).is_some_and(|s| s.starts_with('_')));
        assert!(looked_at || name == "baal_build_info", "nobody looks at {name}");
    }
}

#[test]
fn the_rules_are_good_and_each_alert_has_a_line_in_the_runbook() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["check", "config", "--syntax-only", "prometheus.yml"], "");
    promtool(&["test", "rules", "alerts_test.yml"], "");
    let book = read("docs/operations.md");
    let lines: BTreeSet<_> =
        book.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|line| line.0).collect();
    let names: BTreeSet<_> = alerts().into_iter().map(|alert| alert.0).collect();
    for name in &names {
        assert!(lines.contains(name.as_str()), "{name} has no line in docs/operations.md");
    }
    let gone: Vec<_> = lines.iter().filter(|line| line.starts_with("Baal") && !names.contains(**line)).collect();
    assert!(gone.is_empty(), "there are no such alerts: {gone:?}");
}

#[test]
fn each_alert_is_tried_with_figures_that_are_fine_and_with_such_as_are_not() {
    let tried = read("deploy/prometheus/alerts_test.yml");
    let (fine, wrong) = tried.split_once("name: everything goes wrong").unwrap();
    for (name, _) in alerts() {
        assert!(fine.contains(&format!("alertname: {name}}}\n")), "{name} is not tried with a system that is fine");
        let fires = format!("{{labels: '{{alertname=\"{name}\"}}', value: 1}}\n");
        assert!(wrong.contains(&fires), "{name} is not tried where everything goes wrong");
    }
}

#[test]
fn what_the_terminal_calls_alarming_has_the_alerts_bounds() {
    let alerts: BTreeMap<_, _> = alerts().into_iter().collect();
    let bounds = [
        ("BaalReplicasGone", "< 1".to_owned()),
        ("BaalHeld", "> 0".into()),
        ("BaalCreditsLow", format!("< {} * 3600", alarms::CREDITS_HOURS)),
        ("BaalCreditsUnknown", format!("> {}", alarms::CREDITS_AGE)),
        ("BaalInboxOld", format!("> {}", alarms::INBOX_AGE)),
        ("BaalDeadLetters", "> 0".into()),
        ("BaalOutboxOld", format!("> {}", alarms::OUTBOX_AGE)),
        ("BaalPoolEmpty", "max(baal_pool_warm) == 0 and max(baal_pool_min) > 0".into()),
        ("BaalMachinesFull", "> 0".into()),
        ("BaalAgentsUnwell", "> 0".into()),
        ("BaalJobsFail", format!(">= {}", alarms::JOBS_FAILED)),
        ("BaalReconcileOld", format!("> {} * max(baal_reconcile_interval_seconds)", alarms::RECONCILE_INTERVALS)),
    ];
    let source = read("src/eyes/alarms.rs");
    let known: BTreeSet<_> =
        Regex::new(r#""(Baal\w+)""#).unwrap().captures_iter(&source).map(|found| found[1].to_owned()).collect();
    assert_eq!(known, bounds.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (name, bound) in bounds {
        let expression = alerts.get(name).unwrap_or_else(|| panic!("there is no alert {name}"));
        assert!(expression.ends_with(&bound), "{name}: {expression} has not the bound {bound}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_for_those_who_may_read() {
    let stack = Stack::start().await;
    let url = format!("{}/metrics", stack.baal(0).url());
    let http = reqwest::Client::new();
    let answer = http.get(&url).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (401, &"application/problem+json".parse().unwrap())
    );
    let post = http.post(&url).bearer_auth(&Api::of(&stack).token).send().await.unwrap();
    assert_eq!(post.status(), 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_told_and_its_figures_are_not_those_of_before() {
    let stack = Stack::start().await;
    assert_eq!(samples(&scrape(&stack).await)["baal_database_up"], 1.0);
    let asked = || async {
        let request = reqwest::Client::new().get(format!("{}/metrics", stack.baal(0).url()));
        request.bearer_auth(Api::of(&stack).token).send().await.unwrap().text().await.unwrap()
    };
    // The figures' own table, so that tokens can still be checked.
    sqlx::query("alter table stray_instances rename to away").execute(&stack.db).await.unwrap();
    until("the database's silence is seen", async || samples(&asked().await)["baal_database_up"] == 0.0).await;
    let text = asked().await;
    assert!(samples(&text)["baal_inbox_depth"].is_nan() && samples(&text)[r#"baal_replicas{role="worker"}"#].is_nan());
    promtool(&["check", "metrics"], &text);
    sqlx::query("alter table away rename to stray_instances").execute(&stack.db).await.unwrap();
    until("the database is seen again", async || samples(&asked().await)["baal_inbox_depth"] == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_live_tell_of_those_who_died() {
    let stack = Stack::builder().replicas(2).env("LEASE_SECONDS", 5).start().await;
    let workers = r#"baal_replicas{role="worker"}"#;
    let api = Api::of(&stack);
    let asked = async || {
        let request = reqwest::Client::new().get(format!("{}/metrics", api.base));
        request.bearer_auth(&api.token).send().await.unwrap().text().await.unwrap()
    };
    until("both are seen", async || samples(&asked().await)[workers] == 2.0).await;
    stack.baal(1).kill9();
    until("the dead one is given up", async || {
        let text = asked().await;
        let samples = samples(&text);
        samples[workers] == 1.0 && samples["baal_replicas_given_up_total"] == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_http_shows_its_figures_where_administrators_look() {
    let port = free_port();
    let stack = Stack::start().await;
    let mut env = stack.baal(0).env();
    env.insert("ADMIN_LISTEN_ADDR".into(), format!("127.0.0.1:{port}"));
    let mut worker = Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(["worker", "--no-env-file"])
        .env_clear()
        .envs(env)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let http = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{port}");
    until("the worker listens", async || http.get(format!("{url}/healthz")).send().await.is_ok()).await;
    assert_eq!(http.get(format!("{url}/metrics")).send().await.unwrap().status(), 401);
    let token = Api::of(&stack).token;
    let text =
        async || http.get(format!("{url}/metrics")).bearer_auth(&token).send().await.unwrap().text().await.unwrap();
    until("both are seen", async || samples(&text().await)[r#"baal_replicas{role="worker"}"#] == 2.0).await;
    assert_eq!(http.get(format!("{url}/api/v1/tokens")).bearer_auth(&token).send().await.unwrap().status(), 404);
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_shows_the_same_and_what_is_alarming() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    ann.creates_agent("Ada", "You count.").await;
    ann.asks("open sesame", "message 1 of our conversation").await;
    stack.wait_for_sql("select count(*) from turns where not done", 0_i64).await;
    let (well, text) = status(stack.baal(0), &[]);
    assert!(well, "{text}");
    for line in [
        "replicas             1 work, 0 only listen",
        "messages, last hour  1 completed; half of the answers within ",
        "agents               1 running",
        "Nothing is alarming.",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    sqlx::query(
        "insert into updates (bot_id, update_id, chat_id, body, done, error) values (1, 1, 1, 'x', true, 'unreadable')",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    let (well, text) = status(stack.baal(0), &["--json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert!(!well && told["alarms"][0]["name"] == "BaalDeadLetters", "{text}");
    assert_eq!((&told["updates"]["dead"], &told["agents"]["running"]), (&json!(1), &json!(1)));
    assert_eq!(told["last_hour"]["turns"], json!({"completed": 1}));
    let (well, text) = status(stack.baal(0), &[]);
    assert!(!well && text.contains("  BaalDeadLetters  Updates that could not be handled: 1."), "{text}");
    assert!(!text.contains("unreadable"));
    let samples = scrape(&stack).await;
    assert!(samples.contains("baal_inbox_dead_letters 1\n"), "{samples}");
}
