//! The line to hold it against from below: `pgbench` with the row writes of one message, or of one delivery alone.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::stack::Stack;

/// The rows that one message writes, in three transactions as the program does at its best: the update comes; it is handled; the
/// turn has ended and its reply was sent.
const MESSAGE: &str = "
\\set id random(1, 1000000000000)
\\set chat random(1, 256)
begin;
insert into bench_updates (id, chat_id, body) values (:id, :chat, repeat('x', 600)::bytea) on conflict do nothing;
commit;
begin;
insert into bench_turns (id, chat_id, request) values (:id, :chat, repeat('x', 400)::bytea) on conflict do nothing;
update bench_updates set done = true, body = '' where id = :id;
commit;
begin;
insert into bench_outbox (id, chat_id, payload) values (:id, :chat, '{\"text\":\"words\"}') on conflict do nothing;
update bench_turns set done = true, request = '' where id = :id;
update bench_outbox set done = true, payload = '{}' where id = :id;
commit;
";
const DELIVERY: &str = "
\\set id random(1, 1000000000000)
insert into bench_updates (id, chat_id, body) values (:id, 1, repeat('x', 600)::bytea) on conflict do nothing;
";
const TABLES: &str = "
create table if not exists bench_updates (id bigint primary key, chat_id bigint not null, body bytea not null, done bool not null default false);
create index if not exists bench_updates_open on bench_updates (chat_id, id) where not done;
create table if not exists bench_turns (id bigint primary key, chat_id bigint not null, request bytea not null, done bool not null default false);
create index if not exists bench_turns_open on bench_turns (chat_id, id) where not done;
create table if not exists bench_outbox (id bigint primary key, chat_id bigint not null, payload json not null, done bool not null default false);
create index if not exists bench_outbox_open on bench_outbox (chat_id, id) where not done;";

/// Which rows.
#[derive(Clone, Copy)]
pub enum Script {
    Message,
    Delivery,
}

/// Scripts a second, and milliseconds of each.
pub async fn run(stack: &Stack, script: Script, clients: usize, length: Duration) -> anyhow::Result<(f64, f64)> {
    sqlx::raw_sql(TABLES).execute(&mut stack.conn().await?).await?;
    let file = stack.dir.path().join("script.sql");
    std::fs::write(
        &file,
        match script {
            Script::Message => MESSAGE,
            Script::Delivery => DELIVERY,
        },
    )?;
    let url = stack.postgres.url("bench");
    let (clients, length) = (clients.to_string(), length.as_secs().to_string());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(program()?)
            .args(["-n", "-M", "prepared", "-j", "1", "-c", &clients, "-T", &length, "-f"])
            .arg(file)
            .arg(url)
            .output()
            .context("pgbench does not start")
    })
    .await??;
    ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let figure = |name: &str| -> anyhow::Result<f64> {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}: {text}"))?;
        line.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| format!("no figure: {line}"))
    };
    Ok((figure("tps = ")?, figure("latency average = ")?))
}

fn program() -> anyhow::Result<PathBuf> {
    let mut places: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/pgbench")))
        .collect();
    places.sort();
    places.into_iter().rfind(|place| place.is_file()).context("pgbench is missing: it comes with Debian's postgresql")
}
