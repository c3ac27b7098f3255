//! Growing: Postgres as a service, several processes and several bots on one database, programs of two versions.

mod apart;
mod bots;
mod doors;
mod schema;
mod server;
mod transactions;

use std::collections::BTreeMap;
use std::process::{Command, Output};

use baal::config::Config;

/// Variables of a program that needs nothing but the database.
fn settings(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let least = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("TELEGRAM_API_URL", "http://127.0.0.1:9"),
        ("TELEGRAM_WEBHOOK_SECRET", "test-webhook-secret"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "test-key"),
        ("LIBERTAI_API_BASE_URL", "http://127.0.0.1:9/v1"),
        ("CLOUD", "local"),
        ("LISTEN_ADDR", "127.0.0.1:0"),
    ];
    least.iter().chain(more).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn config(more: &[(&str, &str)]) -> Config {
    Config::from_values(settings(more), vec![]).unwrap()
}

/// Runs `baal` in an empty directory and an environment of these variables alone.
fn baal(arguments: &[&str], more: &[(&str, &str)]) -> Output {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(arguments).arg("--no-env-file").env_clear().envs(settings(more)).current_dir(nowhere.path());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}
