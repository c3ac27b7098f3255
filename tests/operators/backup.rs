//! Backups: made, refused, restored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use baal::cloud::store;
use baal::config::CloudKind;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::harness::{DEADLINE, POLL, Stack};

const PASSPHRASE: &str = "six words that nobody finds";
const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

/// `baal` with the configuration of the servers.
fn command(stack: &Stack, arguments: &[&str], more: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(arguments).arg("--no-env-file").env_clear().envs(stack.baal(0).env());
    command.env("BACKUP_PASSPHRASE", PASSPHRASE).envs(more.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Whether it succeeded, and all that it printed.
fn said(output: &Output) -> (bool, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn succeeds(stack: &Stack, arguments: &[&str]) -> String {
    let (well, text) = said(&command(stack, arguments, &[]).output().unwrap());
    assert!(well, "{arguments:?}: {text}");
    text
}

#[track_caller]
fn fails(stack: &Stack, arguments: &[&str], more: &[(&str, &str)], part: &str) {
    let (well, text) = said(&command(stack, arguments, more).output().unwrap());
    assert!(!well && text.contains(part), "{arguments:?} with {part:?}: {text}");
}

/// Makes a backup and gives its path.
#[track_caller]
fn backup(stack: &Stack, name: &str, more: &[&str]) -> String {
    let path = stack.dir().join(name).display().to_string();
    succeeds(stack, &[&["backup", "--out", &path], more].concat());
    path
}

/// With this passed to its standard input.
fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = input.to_vec();
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

/// The database is lost, and there is an empty one of its name.
async fn lose_database(stack: &Stack) {
    let url = stack.baal(0).env()["DATABASE_URL"].clone();
    let name = url.strip_prefix("postgres:///").unwrap().split('?').next().unwrap();
    let mut server = PgConnection::connect(&url.replacen(name, "postgres", 1)).await.unwrap();
    for statement in [format!("drop database {name} with (force)"), format!("create database {name}")] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut server).await.unwrap();
    }
}

async fn tables(stack: &Stack) -> Vec<String> {
    let all =
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1";
    let mut conn = PgConnection::connect(&stack.baal(0).env()["DATABASE_URL"]).await.unwrap();
    sqlx::query_scalar(all).fetch_all(&mut conn).await.unwrap()
}

/// Rows and a sum of the content of each table that is kept; without what a restore says of its own.
async fn contents(stack: &Stack) -> BTreeMap<String, (i64, Option<String>)> {
    let mut conn = PgConnection::connect(&stack.baal(0).env()["DATABASE_URL"]).await.unwrap();
    let mut contents = BTreeMap::new();
    for table in tables(stack).await {
        let rest = match table.as_str() {
            "replicas" | "leases" | "crns_avoided" | "_sqlx_migrations" => continue,
            "installation" => "- 'held_since' - 'restored_from' - 'report_only' - 'report' - 'reconciled_at'",
            "outbox" => "- 'uncertain'",
            "vms" => "- 'touched'",
            _ => "",
        };
        let only = if table == "audit" { "where action <> 'installation.restore'" } else { "" };
        let row = format!("(to_jsonb(t) {rest})::text");
        let statement =
            format!("select count(*), md5(string_agg({row}, '|' order by {row})) from \"{table}\" t {only}");
        contents.insert(table, sqlx::query_as(AssertSqlSafe(statement)).fetch_one(&mut conn).await.unwrap());
    }
    contents
}

async fn rows_of(stack: &Stack, table: &str) -> i64 {
    let mut conn = PgConnection::connect(&stack.baal(0).env()["DATABASE_URL"]).await.unwrap();
    let statement = AssertSqlSafe(format!("select count(*) from {table}"));
    sqlx::query_scalar(statement).fetch_one(&mut conn).await.unwrap()
}

async fn api(stack: &Stack, path: &str, body: Option<Value>) -> Value {
    let url = format!("{}/api/v1{path}", stack.baal(0).url());
    let http = reqwest::Client::new();
    let request = body.map_or_else(|| http.get(&url), |body| http.post(&url).json(&body));
    let answer = request.bearer_auth(&stack.baal(0).env()["ADMIN_TOKEN"]).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

async fn add_call(stack: &Stack, kind: &str, text: &str) {
    sqlx::query(
        "insert into outbox (bot_id, chat_id, method, payload, kind) values (1000000001, 1, 'sendMessage', $1, $2)",
    )
    .bind(json!({"chat_id": 1, "text": text}))
    .bind(kind)
    .execute(&stack.db)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_installation_knows_everything_and_works_once_that_is_confirmed() {
    let stack = Stack::builder().env("LEASE_SECONDS", 5).start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    let ada = ann.creates_agent("Ada Lovelace", "You count.").await;
    ann.asks("open sesame", "message 1 of our conversation").await;
    bob.asks(&format!("/start agent_{ada}"), "Ada").await;
    bob.asks("good day", "message 1 of our conversation").await;
    let secret = "select encode(secret, 'escape') from agents";
    let token = stack.sql::<String>(secret).await;
    // Killed in the middle of an answer, and with calls that were not made.
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 20_000, "piece_ms": 0})).await;
    ann.says("what was never answered").await;
    stack.wait_for_sql("select count(*) from turns where not done and claimed_by is not null", 1_i64).await;
    stack.wait_for_sql("select count(*) from updates where not done", 0_i64).await;
    stack.baal(0).kill9();
    add_call(&stack, "reply", "A reply that may have been sent.").await;
    add_call(&stack, "notice", "A notice that nobody asked for.").await;
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": 0, "piece_ms": 0})).await;
    let before = contents(&stack).await;

    let text = succeeds(&stack, &["backup", "--out", stack.dir().join("one.baal-backup").to_str().unwrap()]);
    for part in ["users: 2", "Saved: 2 users, 1 agents, 1 machines; unfinished: 0 updates, 1 turns,", "and is good."] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let path = stack.dir().join("one.baal-backup").display().to_string();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&path).unwrap();
    for secret in [PASSPHRASE, KEY, "Ada Lovelace", token.as_str(), "agents", "test-admin-token"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} can be read");
    }
    fails(&stack, &["backup", "--out", &path], &[], "is there already");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    fails(&stack, &["backup", "--out", "-"], &[("BACKUP_PASSPHRASE", "short")], "at least 12");
    fails(
        &stack,
        &["backup"],
        &[("BOT_ENCRYPTION_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")],
        "does not open",
    );
    let text = succeeds(&stack, &["restore", "--check", &path]);
    assert!(text.contains("2 users, 1 agents") && text.contains("The backup is whole"), "{text}");

    // Nothing of a restore that was refused is left. Until it is known that the server is gone, it is refused for that.
    stack.wait_for_sql("select count(*) from replicas where expires_at > now()", 0_i64).await;
    fails(&stack, &["restore", &path], &[], "the database is not empty");
    assert_eq!(contents(&stack).await, before);
    lose_database(&stack).await;
    fails(
        &stack,
        &["restore", &path],
        &[("BACKUP_PASSPHRASE", "six words that nobody knows")],
        "the passphrase is not",
    );
    let other = ("BOT_ENCRYPTION_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    fails(&stack, &["restore", &path], &[other], "--keys-out DIR");
    let damaged = stack.dir().join("damaged").display().to_string();
    std::fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    fails(&stack, &["restore", &damaged], &[], "it was cut or altered");
    assert_eq!(tables(&stack).await, [""; 0], "nothing was touched");
    // What is read only once is given up in the middle.
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    let (well, text) = said(&fed(command(&stack, &["restore", "-"], &[]), &altered));
    assert!(!well && text.contains("it was cut or altered"), "{text}");
    if tables(&stack).await.contains(&"users".to_owned()) {
        assert_eq!(rows_of(&stack, "users").await, 0);
    }

    let (well, text) = said(&fed(command(&stack, &["restore", "-"], &[]), &bytes));
    assert!(well && text.contains("This installation is held"), "{text}");
    assert_eq!(contents(&stack).await, before);
    is_held_and_goes_on(&stack, ada).await;
}

/// What a restored installation does until it is confirmed, and from then on.
async fn is_held_and_goes_on(stack: &Stack, ada: i64) {
    let (ann, bob) = (stack.user(1), stack.user(2));
    let chat = ann.messages().await.len();
    stack.baal(0).start().await;
    bob.says("/list").await;
    stack.wait_for_sql("select count(*) from updates where not done", 1_i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done and claimed_by is not null", 0_i64).await;
    // Long enough for every worker to have looked several times.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(stack.sql::<i64>("select count(*) from updates where not done and attempt = 0").await, 1);
    assert_eq!(stack.sql::<i64>("select count(*) from turns where not done and claimed_by is null").await, 1);
    assert!(stack.sql::<bool>("select bool_and(uncertain) from outbox where not done").await);
    assert_eq!(ann.messages().await.len(), chat, "something was sent");
    let (well, text) = said(&command(stack, &["status"], &[]).output().unwrap());
    assert!(!well && text.contains("BaalHeld") && text.contains("1 work"), "{text}");
    assert!(api(stack, "/system", None).await["held"]["restored_from"].is_string());
    let text = succeeds(stack, &["reconcile"]);
    assert!(text.contains("is held since") && text.contains("turns              1, the oldest"), "{text}");
    assert!(api(stack, "/reconcile", None).await["held"]["since"].is_string());
    let stop = format!("{}/api/v1/agents/{ada}/stop", stack.baal(0).url());
    let refused =
        reqwest::Client::new().post(stop).bearer_auth(&stack.baal(0).env()["ADMIN_TOKEN"]).send().await.unwrap();
    assert_eq!(refused.status(), 409);

    let text = succeeds(stack, &["reconcile", "--confirm"]);
    assert!(text.contains("It is held no longer") && text.contains("not sent again: 1"), "{text}");
    bob.wait_for(|m| m.text.contains("Ada Lovelace")).await;
    ann.wait_for(|m| m.text == "A reply that may have been sent.").await;
    stack.wait_for_sql("select count(*) from turns where not done", 0_i64).await;
    stack.wait_for_sql("select count(*) from outbox where not done", 0_i64).await;
    assert!(!ann.messages().await.iter().any(|m| m.text.contains("A notice that nobody")));
    ann.asks("/list", "Ada Lovelace").await;
    ann.asks("and on", "of our conversation").await;
    stack.user(3).asks(&format!("/start agent_{ada}"), "Ada").await;
    let newer = stack.user(3).creates_agent("Grace", "You compile.").await;
    assert!(newer > ada + 1_000, "numbers of after the backup are not given again: {newer}");
    let (well, text) = said(&command(stack, &["status"], &[]).output().unwrap());
    assert!(well, "{text}");
    let actions = "select string_agg(action, ' ' order by id) from audit";
    assert_eq!(stack.sql::<String>(actions).await, "installation.restore reconcile.confirm");
    assert!(api(stack, "/system", None).await["held"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_busy_installation_is_of_one_moment() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    ann.creates_agent("Ada", "You count.").await;
    let writing = async {
        for number in 0..30 {
            stack.user(100 + number).says("/start").await;
            ann.says(&format!("number {number}")).await;
        }
    };
    let making = async {
        let command = command(&stack, &["backup", "--out", "-"], &[]);
        tokio::task::spawn_blocking(move || { command }.output().unwrap()).await.unwrap()
    };
    let ((), output) = tokio::join!(writing, making);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("and is good."), "{told}");
    // The API's confirmation does the same as the command's, and a running installation refuses a restore.
    let path = stack.dir().join("piped");
    std::fs::write(&path, &output.stdout).unwrap();
    fails(&stack, &["restore", path.to_str().unwrap()], &[], "the database is in use");
    stack.baal(0).stop().await;
    lose_database(&stack).await;
    // A server was started before the restore, and made the newest schema.
    stack.baal(0).start().await;
    stack.baal(0).stop().await;
    succeeds(&stack, &["restore", path.to_str().unwrap()]);
    stack.baal(0).start().await;
    let answer = api(&stack, "/reconcile/run", Some(json!({"confirm": true}))).await;
    assert!(answer["released"]["unfinished"]["turns"]["count"].is_number() && answer["held"].is_null(), "{answer}");
    ann.asks("/list", "Ada").await;
    let left = "select count(*) from pg_database where starts_with(datname, 'baal_verify_' ||
                (select oid from pg_database where datname = current_database()) || '_')";
    assert_eq!(stack.sql::<i64>(left).await, 0);
}

fn restoring(stack: &Stack, path: &Path) -> Child {
    command(stack, &["restore", path.to_str().unwrap()], &[]).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_in_the_middle_leaves_nothing_and_can_be_done_again() {
    let stack = Stack::start().await;
    stack.baal(0).kill9();
    sqlx::query(
        "insert into updates (bot_id, update_id, chat_id, body, done)
         select 1, n, n, convert_to(repeat(md5(n::text), 8), 'utf8'), true from generate_series(1, 40000) n",
    )
    .execute(&stack.db)
    .await
    .unwrap();
    let path = backup(&stack, "large", &["--no-verify"]);
    lose_database(&stack).await;
    let mut child = restoring(&stack, Path::new(&path));
    let deadline = Instant::now() + 3 * DEADLINE;
    let filling = "select count(*) from pg_stat_activity
                    where datname = current_database() and application_name = 'baal restore' and query like 'copy \"updates\"%'";
    while stack.sql::<i64>(filling).await == 0 {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "the restore was not met in the middle"
        );
        tokio::time::sleep(POLL / 5).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    stack.wait_for_sql("select count(*) from pg_stat_activity where application_name = 'baal restore' and datname = current_database()", 0_i64).await;
    assert_eq!((rows_of(&stack, "updates").await, rows_of(&stack, "audit").await), (0, 0));
    let output = restoring(&stack, Path::new(&path)).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output).1);
    assert_eq!(rows_of(&stack, "updates").await, 40_000);
    assert!(stack.sql::<bool>("select held_since is not null and report_only from installation").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_machine_that_was_in_the_pool_when_the_backup_was_made() {
    let stack = Stack::start().await;
    stack.user(1).creates_agent("Ada", "You count.").await;
    stack.baal(0).kill9();
    let mut conn = PgConnection::connect(&stack.baal(0).env()["DATABASE_URL"]).await.unwrap();
    sqlx::raw_sql(
        "insert into vms (id, cloud, state, agent_id, name, warm_since, ended_at)
         select gen_random_uuid(), cloud, state, agent, name, now(), ended from (values
           ('aleph', 'warm', null, 'warm', null), ('hosts', 'warm', null, 'a host', null),
           ('aleph', 'preparing', null, 'preparing', null), ('aleph', 'warm', null, 'gone', now()),
           ('aleph', 'assigned', (select min(id) from agents), 'claimed', null)) v (cloud, state, agent, name, ended)",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    drop(conn);
    let path = backup(&stack, "pool", &["--no-verify"]);
    lose_database(&stack).await;
    succeeds(&stack, &["restore", &path]);
    let mut conn = PgConnection::connect(&stack.baal(0).env()["DATABASE_URL"]).await.unwrap();
    let rows: Vec<(String, String, bool)> =
        sqlx::query_as("select coalesce(name, cloud), state, touched from vms order by 1")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    let expected = [
        ("a host", "retiring", true),
        ("claimed", "assigned", true),
        ("gone", "warm", false),
        ("local", "assigned", true),
        ("preparing", "retiring", true),
        ("warm", "retiring", true),
    ];
    assert_eq!(rows, expected.map(|(name, state, touched)| (name.to_owned(), state.to_owned(), touched)));
    let ada: i64 = sqlx::query_scalar("select min(id) from agents").fetch_one(&mut conn).await.unwrap();
    for cloud in [CloudKind::Aleph, CloudKind::Hosts] {
        assert_eq!(store::claim_warm(&mut conn, cloud, ada).await.unwrap(), None);
    }
    let claimed = sqlx::query_scalar("select id from vms where name = 'claimed'").fetch_one(&mut conn).await.unwrap();
    assert!(!store::release_warm(&mut conn, claimed).await.unwrap(), "it goes back to the pool");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_waits_for_a_migration_that_writes_a_table_anew() {
    let stack = Stack::start().await;
    stack.user(1).says("/start").await;
    stack.wait_for_sql("select count(*) from users", 1_i64).await;
    stack.baal(0).kill9();
    let mut migration = PgConnection::connect(&stack.baal(0).env()["DATABASE_URL"]).await.unwrap();
    sqlx::raw_sql("begin; alter table users add column later uuid not null default gen_random_uuid()")
        .execute(&mut migration)
        .await
        .unwrap();
    let path = stack.dir().join("meanwhile").display().to_string();
    let child = command(&stack, &["backup", "--out", &path, "--no-verify"], &[]).spawn().unwrap();
    let waits = "select count(*) from pg_stat_activity
                  where datname = current_database() and application_name = 'baal backup' and query like 'lock table%'
                    and wait_event_type = 'Lock'";
    stack.wait_for_sql(waits, 1_i64).await;
    sqlx::raw_sql("alter table turns add column later int; commit").execute(&mut migration).await.unwrap();
    let (well, text) = said(&child.wait_with_output().unwrap());
    assert!(well && text.contains("users: 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_backup_are_written_out_where_others_are_configured() {
    let stack = Stack::start().await;
    stack.baal(0).kill9();
    let path = backup(&stack, "one", &["--no-verify"]);
    let out = stack.dir().join("keys").display().to_string();
    let other = [("BOT_ENCRYPTION_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    let look = ["restore", "--check", "--keys-out", &out, &path];
    let (well, text) = said(&command(&stack, &look, &other).output().unwrap());
    assert!(well && text.contains("BOT_ENCRYPTION_KEY_FILE="), "{text}");
    let key = Path::new(&out).join("bot-encryption-key");
    let mut written = String::new();
    File::open(&key).unwrap().read_to_string(&mut written).unwrap();
    assert_eq!((written.as_str(), std::fs::metadata(&key).unwrap().permissions().mode() & 0o777), (KEY, 0o600));
}
