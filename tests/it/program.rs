//! The program's commands and its configuration, as an operator meets them.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Stack, database};

const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

/// Runs `baal` in an empty environment and directory.
fn baal(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let nowhere = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(nowhere.path())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[test]
fn five_things_wrong_in_the_environment_are_told_at_once_and_no_value_shown() {
    let output = baal(
        &["serve"],
        &[
            ("TELEGRAM_BOT_TOKEN", "hunter2"),
            ("TELEGRAM_MODE", "pigeon"),
            ("DATABASE_URL", "mysql://hunter2@db/baal"),
            ("BOT_ENCRYPTION_KEY", "hunter2"),
            ("LISTEN_ADDR", "everywhere"),
            ("LIBERTAI_API_KEY", "fine"),
        ],
    );
    let said = said(&output);
    assert!(!output.status.success());
    assert!(said.contains("5 problems"), "{said}");
    for name in ["TELEGRAM_BOT_TOKEN", "TELEGRAM_MODE", "DATABASE_URL", "BOT_ENCRYPTION_KEY", "LISTEN_ADDR"] {
        let line = said
            .lines()
            .find(|line| line.contains(&format!("- {name} ")))
            .unwrap_or_else(|| panic!("{name} in {said}"));
        assert!(line.contains("(example: "), "{line}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn help_explains_every_variable_and_the_example_file_names_it() {
    let help = said(&baal(&["serve", "--help"], &[]));
    let example = said(&baal(&["env-example"], &[]));
    for variable in baal::config::VARIABLES {
        assert!(help.contains(&format!("  {}", variable.name)), "{} in the help", variable.name);
        assert!(example.contains(&format!("{}=", variable.name)), "{} in .env.example", variable.name);
    }
    let kept = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example")).unwrap();
    assert_eq!(kept, example, ".env.example is out of date: run `make generated`");
}

#[test]
fn new_keys_make_a_working_configuration() {
    let keys = said(&baal(&["keygen"], &[]));
    let of = |name: &str| {
        let line = keys
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")))
            .unwrap_or_else(|| panic!("{name} in {keys}"));
        line.to_owned()
    };
    let names = ["BOT_ENCRYPTION_KEY", "TELEGRAM_WEBHOOK_SECRET"];
    let mut values: std::collections::BTreeMap<String, String> = names.map(|name| (name.to_owned(), of(name))).into();
    for (name, value) in [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("DATABASE_URL", "postgres://x/y"),
        ("LIBERTAI_API_KEY", "k"),
        ("CLOUD", "local"),
    ] {
        values.insert(name.into(), value.into());
    }
    baal::config::Config::from_values(values, vec![]).unwrap();
    assert!(of("ADMIN_TOKEN").len() >= 40);
    assert_ne!(keys, said(&baal(&["keygen"], &[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_doctor_and_migrate_do_what_they_say() {
    let stack = Stack::start().await;
    let empty = database().await;
    let simulator = &stack.simulator;
    let base = format!("{}/v1", simulator.libertai);
    let agents = stack.dir().join("agents").display().to_string();
    let url = database_url(&stack).await;
    let run = |arguments: &[&str], database: &str| {
        let environment = [
            ("TELEGRAM_BOT_TOKEN", simulator.bot_token()),
            ("TELEGRAM_API_URL", &simulator.telegram),
            ("TELEGRAM_WEBHOOK_SECRET", "test-webhook-secret"),
            ("PUBLIC_URL", "http://127.0.0.1:9"),
            ("DATABASE_URL", database),
            ("BOT_ENCRYPTION_KEY", KEY),
            ("LIBERTAI_API_KEY", "test-key"),
            ("LIBERTAI_API_BASE_URL", &base),
            ("CLOUD", "local"),
            ("LOCAL_DIR", &agents),
        ];
        tokio::task::block_in_place(|| baal(arguments, &environment))
    };
    // The doctor finds what is wrong and says what to do.
    let ill = run(&["doctor"], &empty);
    assert!(!ill.status.success());
    let words = said(&ill);
    assert!(words.contains("✘ schema") && words.contains("baal migrate"), "{words}");
    assert!(words.contains("✘ updates") && words.contains("baal webhook set"), "{words}");
    assert!(words.contains("✔ telegram: @"), "{words}");

    assert!(run(&["migrate"], &empty).status.success());
    assert!(run(&["migrate"], &empty).status.success(), "a second time changes nothing");
    let set = run(&["webhook", "set"], &url);
    assert!(set.status.success(), "{}", said(&set));
    let info = said(&run(&["webhook", "info"], &url));
    assert!(info.contains("http://127.0.0.1:9/telegram/webhook"), "{info}");
    let well = run(&["doctor"], &empty);
    assert!(well.status.success(), "{}", said(&well));
    assert!(run(&["webhook", "delete"], &url).status.success());
    assert!(!said(&run(&["webhook", "info"], &url)).contains("127.0.0.1:9"));
}

async fn database_url(stack: &Stack) -> String {
    let name: String = stack.sql("select current_database()::text").await;
    let other = database().await;
    let (server, query) = other.split_once('?').map_or((other.as_str(), ""), |(server, query)| (server, query));
    let (server, _) = server.rsplit_once('/').unwrap();
    if query.is_empty() { format!("{server}/{name}") } else { format!("{server}/{name}?{query}") }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_alone_takes_updates_in_and_a_worker_elsewhere_handles_them() {
    let stack = Stack::builder().http_apart().start().await;
    stack.simulator.post("/sim/users/1/messages", json!({"text": "/help"})).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let update = crate::updates::update(900_000_001, 1, "/help").to_string();
    assert_eq!(crate::updates::deliver(stack.baal(0), Some(crate::updates::SECRET), update).await, 200);
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/", 200), ("/nothing", 404)] {
        let answer = http.get(format!("{}{path}", stack.baal(0).url())).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(stack.sql::<i64>("select count(*) from updates where done").await, 0, "nobody works");
    stack.baal(1).start().await;
    stack.wait_for_sql("select count(*) from updates where not done", 0i64).await;
    stack.user(1).wait_for(|m| m.text.contains("What you can do here")).await;
    let mut waits = Vec::new();
    for id in 0..9 {
        let began = std::time::Instant::now();
        let update = crate::updates::update(900_000_100 + id, 1, "/list").to_string();
        crate::updates::deliver(stack.baal(0), Some(crate::updates::SECRET), update).await;
        while stack.sql::<i64>("select count(*) from updates where not done").await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        waits.push(began.elapsed());
    }
    waits.sort();
    println!("from the webhook of one process to the end in another: {waits:?}");
}
