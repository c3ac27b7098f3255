//! Databases of the Python system, with all their oddities.

mod base_agent;
mod python;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use baal::app::App;
use baal::config::Config;
use baal::database::MIGRATIONS;
use baal::jobs;
use baal::python::{Options, Report, import};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, PgPool};

use self::base_agent::BaseAgent;
use self::python::{Python, hash, token, token_of};
use crate::harness::{Stack, database};

const OTHER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A program with a database of its own, not started.
async fn app() -> App {
    drop(rustls::crypto::ring::default_provider().install_default());
    let environment: BTreeMap<String, String> = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAAAAAA".to_owned()),
        ("TELEGRAM_MODE", "polling".into()),
        ("DATABASE_URL", database().await),
        ("DATABASE_CONNECTIONS", "5".into()),
        ("BOT_ENCRYPTION_KEY", python::KEY.into()),
        ("LIBERTAI_API_KEY", "no-key".into()),
        ("CLOUD", "local".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let app = App::new(Config::from_values(environment, vec![]).unwrap()).unwrap();
    MIGRATIONS.run(&app.db).await.unwrap();
    app
}

fn options(python: &Python) -> Options {
    Options {
        baal_db: python.baal_db(),
        pool_db: Some(python.pool_db()),
        retire_pool: false,
        key_is_lost: false,
        dry_run: false,
        json: false,
    }
}

/// All rows of all tables, in a form that can be compared.
async fn rows(db: &PgPool) -> BTreeMap<String, String> {
    let tables: Vec<String> =
        sqlx::query_scalar("select table_name::text from information_schema.tables where table_schema = 'public'")
            .fetch_all(db)
            .await
            .unwrap();
    let mut all = BTreeMap::new();
    for table in tables {
        let query = format!("select coalesce(string_agg(t::text, E'\\n' order by t::text), '') from \"{table}\" t");
        all.insert(table, sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(db).await.unwrap());
    }
    let last: i64 = sqlx::query_scalar("select last_value from agents_id_seq").fetch_one(db).await.unwrap();
    all.insert("agents_id_seq".into(), last.to_string());
    all
}

async fn run(db: &PgPool, sql: &'static str) {
    sqlx::query(sql).execute(db).await.unwrap();
}

fn says(report: &[baal::python::Line], what: &str, why: &str) -> bool {
    report.iter().any(|line| line.what == what && line.why.contains(why))
}

/// People and agents of every kind that there may be.
fn all_kinds(python: &Python, today: &str) {
    for (id, key) in [
        (1, Some(token("sk-one"))),
        (2, None),
        (3, Some("sk-plain".to_owned())),
        (4, Some(format!("b'{}'\n", token("sk-four")))),
        (5, Some(token(&token("sk-five")))),
        (6, Some(token_of(OTHER_KEY, "sk-six"))),
        (-100, None),
    ] {
        python.user(id, key.as_deref());
    }
    python.db.execute_batch("update users set show_tools = 0 where telegram_id = 2").unwrap();
    for id in 1..=12 {
        let owner = if id == 9 { 99 } else { 1 + (id - 1) % 6 };
        python.agent(id, owner, &hash(id as u8), &format!("https://agent-{id}.2n6.me/"), &format!("secret-{id}"));
    }
    python.set(2, "auth_token", "plain-secret-2");
    python.set(3, "vm_url", None::<String>);
    python.set(4, "deployment_status", "deploying");
    python.set(5, "instance_hash", None::<String>);
    python.set(6, "auth_token", token_of(OTHER_KEY, "x"));
    python.set(7, "is_active", 0);
    python.set(8, "name", "two\nlines \u{202e}".repeat(20));
    python.set(8, "system_prompt", "é".repeat(20_000));
    python.set(8, "model", "hermes-3-8b-tee");
    python.set(10, "instance_hash", hash(1));
    python.set(10, "deployment_status", "failed");
    python.set(11, "deployment_status", "stopped");
    python.set(12, "vm_url", None::<String>);
    python.set(12, "crn_url", None::<String>);
    python.set(12, "deployment_status", "failed");
    // Numbers that were given and are not there any more.
    python.db.execute_batch("update sqlite_sequence set seq = 40 where name = 'agents'").unwrap();
    python.used(2, today, 7);
    python.used(2, "2020-01-01", 9);
    python.used(12345, today, 3);
    python.deployed(
        1,
        "failed",
        Some("instance_creation"),
        Some("No CRNs\nTOKEN=abc sk-xyz"),
        "2026-03-02T10:01:00+00:00",
    );
    python.deployed(1, "success", None, None, "2026-03-02T11:00:00+00:00");
    python.deployed(7, "success", None, None, "2026-03-02T11:00:00+00:00");
    python.deployed(4711, "success", None, None, "2026-03-02T11:00:00+00:00");
    python.pooled(&hash(1), "deployed", Some(1));
    python.pooled(&hash(200), "warm", None);
    python.pooled(&hash(201), "claimed", None);
    python.pooled(&hash(202), "deployed", Some(7));
    python.pooled("pending", "failed", None);
}

async fn today(db: &PgPool) -> String {
    sqlx::query_scalar("select ((now() at time zone 'utc')::date)::text").fetch_one(db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_taken_and_a_second_import_changes_nothing() {
    let (app, dir) = (app().await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    all_kinds(&python, &today(&app.db).await);
    let empty = rows(&app.db).await;
    let dry = import(&app, &Options { dry_run: true, ..options(&python) }).await.unwrap();
    assert_eq!(rows(&app.db).await, empty, "a dry run writes nothing");

    let report = import(&app, &options(&python)).await.unwrap();
    assert_eq!(Report { dry_run: false, notes: vec![], ..dry }, Report { notes: vec![], ..report.clone() });
    let taken = &report.taken;
    assert_eq!((taken.users, taken.keys), (7, 4), "six, and the owner who was not among them: {report}");
    assert_eq!((taken.agents_running, taken.agents_failed, taken.agents_deleted), (4, 6, 2), "{report}");
    assert_eq!((taken.machines, taken.usage_days, taken.deployments), (8, 1, 2), "{report}");
    assert_people(&app).await;
    assert_agents(&app, &report).await;
    assert_machines(&app, &report).await;
    assert_history(&app).await;
    let printed = format!("{report}{}", serde_json::to_string(&report).unwrap());
    for secret in ["sk-", "secret-1", "gAAAA", "TOKEN=abc"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }

    let after = rows(&app.db).await;
    let again = import(&app, &options(&python)).await.unwrap();
    assert!(again.taken.is_nothing() && again.repaired.is_empty(), "{again}");
    assert_eq!(rows(&app.db).await, after);
    assert_eq!((again.known.users, again.known.agents), (6, 12), "{again}");
    assert!(again.to_string().contains("Nothing new"), "{again}");
    app.db.close().await;
}

async fn assert_people(app: &App) {
    let people: Vec<(i64, String, bool, i32, bool, bool)> = sqlx::query_as(
        "select id, name, libertai_key is not null, key_version, tool_lines, key_connected_at is not null from users order by id",
    )
    .fetch_all(&app.db)
    .await
    .unwrap();
    let row = |id: i64, key: bool, lines: bool| (id, format!("User {id}"), key, i32::from(key), lines, key);
    let wanted = [(1, true), (2, false), (3, true), (4, true), (5, true), (6, false), (99, false)];
    let wanted: Vec<_> = wanted.iter().map(|(id, key)| row(*id, *key, ![2, 99].contains(id))).collect();
    assert_eq!(people, wanted);
    let keys: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select id, libertai_key from users where libertai_key is not null order by id")
            .fetch_all(&app.db)
            .await
            .unwrap();
    let open = |sealed: &[u8]| app.config.vault.decrypt_text(sealed).unwrap().expose_secret().to_owned();
    let keys: Vec<_> = keys.iter().map(|(id, sealed)| (*id, open(sealed))).collect();
    let wanted = [(1, "sk-one"), (3, "sk-plain"), (4, "sk-four"), (5, "sk-five")];
    assert_eq!(keys, wanted.map(|(id, key)| (id, key.to_owned())));
    let used: Vec<(i64, i32)> = sqlx::query_as("select user_id, messages from usage").fetch_all(&app.db).await.unwrap();
    assert_eq!(used, [(2, 7)]);
}

async fn assert_agents(app: &App, report: &Report) {
    type Row = (i64, i64, String, String, Option<String>, i32, i32, i32, i32, bool);
    let agents: Vec<Row> = sqlx::query_as(
        "select id, owner_id, status, visibility, url, protocol, deployed_version, wanted_key, deployed_key, may_hold_key
           from agents where imported_at is not null and bot_id = 42 and chat_id = owner_id and wanted_version = 1 order by id",
    )
    .fetch_all(&app.db)
    .await
    .unwrap();
    let statuses: Vec<_> = agents.iter().map(|agent| agent.2.as_str()).collect();
    let (r, f, d) = ("running", "failed", "deleted");
    assert_eq!(statuses, [r, r, f, f, f, f, d, r, r, f, d, f]);
    let first = &agents[0];
    assert_eq!((first.4.as_deref(), first.5, first.6), (Some("https://agent-1.2n6.me"), 1, 1));
    assert_eq!((first.7, first.8, first.9), (1, 1, true), "it was deployed with its owner's key");
    assert_eq!((agents[1].7, agents[1].8, agents[1].9), (0, 0, false));
    assert_eq!((agents[5].7, agents[5].8, agents[5].9), (0, 0, true), "a key that cannot be read may be there");
    assert_eq!((agents[4].5, agents[4].6), (2, 0), "nothing of it is anywhere");
    assert_eq!(agents[8].1, 99);
    let mut conn = app.db.acquire().await.unwrap();
    for (id, secret) in [(1, "secret-1"), (2, "plain-secret-2")] {
        let agent = baal::agents::store::get(&mut conn, id).await.unwrap().unwrap();
        assert_eq!(agent.secret(&app.config.vault).unwrap().expose_secret(), secret);
    }
    let odd = baal::agents::store::get(&mut conn, 8).await.unwrap().unwrap();
    assert_eq!(
        (odd.name.chars().count(), odd.system_prompt.len(), odd.model.as_str()),
        (63, 16_384, "hermes-3-8b-tee")
    );
    let gone: (String, String, bool) =
        sqlx::query_as("select name, system_prompt, deleted_at is not null and secret = '' from agents where id = 7")
            .fetch_one(&mut *conn)
            .await
            .unwrap();
    assert_eq!(gone, (String::new(), String::new(), true));
    let counts: (i64, i64) = sqlx::query_as(
        "select (select count(*) from links where token_hash is null and tools), (select count(*) from agent_versions where version = 1)",
    )
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    assert_eq!(counts, (10, 10));
    for (what, why) in [
        ("user 3", "plain text"),
        ("user 4", "quotes"),
        ("user 5", "more than once"),
        ("user 99", "not among the people"),
        ("agent 2", "plain text"),
        ("agent 3", "without an address"),
        ("agent 4", "\"deploying\""),
        ("agent 5", "without an instance"),
        ("agent 6", "another BOT_ENCRYPTION_KEY"),
        ("agent 8", "its name"),
        ("agent 8", "its personality was too long"),
        ("agent 8", "hermes-3-8b-tee"),
        ("agent 10", "agent 1's"),
    ] {
        assert!(says(&report.repaired, what, why), "{what}: {why} in {report}");
    }
    assert!(says(&report.left_out, "user 6", "another BOT_ENCRYPTION_KEY"), "{report}");
    assert!(says(&report.left_out, "user -100", "no person"), "{report}");
    let next: i64 = sqlx::query_scalar("select nextval('agents_id_seq')").fetch_one(&mut *conn).await.unwrap();
    assert_eq!(next, 41, "numbers of agents that are gone are not given again");
    sqlx::query("select setval('agents_id_seq', 40)").execute(&mut *conn).await.unwrap();
}

async fn assert_machines(app: &App, report: &Report) {
    type Row = (Option<i64>, String, Option<String>, Option<String>, bool);
    let mut conn = app.db.acquire().await.unwrap();
    let rows: Vec<Row> = sqlx::query_as(
        "select agent_id, item_hash, data #>> '{crn,url}', name, touched from vms
          where cloud = 'aleph' and state = 'assigned' and ended_at is null and crn_hash is null order by agent_id",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    let whose: Vec<_> = rows.iter().filter_map(|row| row.0).collect();
    assert_eq!(whose, [1, 2, 3, 4, 6, 8, 9, 12]);
    assert_eq!(rows[0].1, hash(1));
    assert_eq!(
        (rows[0].2.as_deref(), rows[0].3.as_deref(), rows[0].4),
        (Some("https://crn.example.org"), Some("agent-1.2n6.me"), true)
    );
    assert_eq!((rows[7].2.as_deref(), rows[7].4), (Some(""), false), "it never came up");
    // As repair and deletion read them.
    let machine = baal::cloud::store::machines_of(&mut conn, 1).await.unwrap().remove(0);
    assert_eq!(machine.url().as_deref(), Some("https://agent-1.2n6.me"));
    let paid: Vec<_> =
        report.still_paid_for.iter().map(|one| (one.item_hash.clone(), one.exists, one.retired)).collect();
    let wanted = [7, 11, 200, 201, 202].map(|n| (hash(n), None, false));
    assert_eq!(paid, wanted, "{report}");
}

async fn assert_history(app: &App) {
    let mut conn = app.db.acquire().await.unwrap();
    let past = jobs::store::history(&mut conn, 1, 10).await.unwrap();
    let seen: Vec<_> = past.iter().map(|run| (run.kind.as_str(), run.step.as_str(), run.outcome.as_deref())).collect();
    assert_eq!(seen, [("provision", "finish", Some("succeeded")), ("provision", "create", Some("failed"))]);
    assert_eq!(past[1].error.as_deref(), Some("No CRNs … …"));
    assert_eq!((past[1].steps.len(), past[1].steps[0].step.as_str()), (1, "create"));
    let listed = jobs::lookup::list(&mut conn, jobs::lookup::Filter::default(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].id, past[0].id, "newest first by their ids");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_them_here_is_left_alone() {
    let (app, dir) = (app().await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    all_kinds(&python, &today(&app.db).await);
    // One of them was here before, and had messages today.
    run(&app.db, "insert into users (id, name) values (1, 'Ann'), (2, 'Bob')").await;
    run(&app.db, "insert into usage values (2, (now() at time zone 'utc')::date, 4)").await;
    let report = import(&app, &options(&python)).await.unwrap();
    assert_eq!((report.taken.users, report.taken.keys, report.known.users), (5, 4, 2), "{report}");
    let kept: Vec<(String, bool, i32)> = sqlx::query_as(
        "select name, libertai_key is not null, (select messages from usage) from users where id <= 2 order by id",
    )
    .fetch_all(&app.db)
    .await
    .unwrap();
    assert_eq!(kept, [("Ann".into(), true, 11), ("Bob".into(), false, 11)]);

    // Renamed, updated to ours, deleted, logged out, and forgotten with all that is theirs.
    for change in [
        "update agents set name = 'New', wanted_version = 2, deployed_version = 2, protocol = 4, url = 'https://other' where id = 1",
        "update agents set status = 'deleted', deleted_at = now(), url = null, secret = '' where id = 2",
        "update vms set ended_at = now() where agent_id = 2",
        "delete from links where agent_id = 2",
        "update users set libertai_key = null, key_connected_at = null where id = 1",
        "update vms set agent_id = null, state = 'retiring' where agent_id = 3",
        "delete from links where agent_id = 3",
        "delete from agent_versions where agent_id = 3",
        "delete from agents where id = 3",
        "delete from users where id = 3",
        "update usage set messages = 1",
        "delete from jobs",
    ] {
        run(&app.db, change).await;
    }
    let before = rows(&app.db).await;
    let again = import(&app, &options(&python)).await.unwrap();
    assert!(again.taken.is_nothing(), "{again}");
    assert_eq!((again.known.agents, again.known.agents_gone), (11, 1), "{again}");
    assert_eq!((again.known.users, again.known.users_gone), (5, 1), "{again}");
    assert_eq!(rows(&app.db).await, before);

    // What is new there since is taken, though it was written before the first import, after that one's copy was made.
    python
        .db
        .execute_batch("insert into users (telegram_id, created_at) values (50, '2026-03-05T00:00:00+00:00')")
        .unwrap();
    python.agent(41, 50, &hash(41), "https://agent-41.2n6.me", "secret-41");
    python.set(41, "created_at", "2026-03-05T00:00:00+00:00");
    let more = import(&app, &options(&python)).await.unwrap();
    assert_eq!((more.taken.users, more.taken.agents_running, more.taken.machines), (1, 1, 1), "{more}");
    assert!(import(&app, &options(&python)).await.unwrap().taken.is_nothing());
    app.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_nothing_stops_it_and_nothing_is_written() {
    let (app, dir) = (app().await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    python.user(1, Some(&token_of(OTHER_KEY, "sk-one")));
    python.agent(7, 1, &hash(7), "https://a.2n6.me", "x");
    python.set(7, "auth_token", token_of(OTHER_KEY, "x"));
    let empty = rows(&app.db).await;
    for dry_run in [true, false] {
        let refused = import(&app, &Options { dry_run, ..options(&python) }).await.unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("opens none of the 2 keys") && refused.contains("--key-is-lost"), "{refused}");
    }
    assert_eq!(rows(&app.db).await, empty);

    let lost = import(&app, &Options { key_is_lost: true, ..options(&python) }).await.unwrap();
    assert_eq!((lost.taken.users, lost.taken.keys, lost.taken.agents_failed), (1, 0, 1), "{lost}");
    // What was taken is no reason to refuse the same again.
    assert!(import(&app, &options(&python)).await.unwrap().taken.is_nothing());
    app.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_other_agents_stop_it_and_nothing_is_written() {
    let (app, dir) = (app().await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    all_kinds(&python, &today(&app.db).await);
    run(&app.db, "insert into users (id, name) values (70, 'Ann')").await;
    run(
        &app.db,
        "insert into agents (id, owner_id, bot_id, chat_id, name, system_prompt, model, visibility, secret) overriding system value
         select n, 70, 42, 70, 'Ours', '', 'glm-4.7', 'public', '' from generate_series(2, 3) n",
    )
    .await;
    let before = rows(&app.db).await;
    let refused = format!("{:#}", import(&app, &options(&python)).await.unwrap_err());
    assert!(refused.contains("other agents here") && refused.contains(": 2, 3."), "{refused}");
    assert_eq!(rows(&app.db).await, before);
    app.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_such_database_is_said_and_older_ones_are_read() {
    let (app, dir) = (app().await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("text.db"), "hello, this is text and no database at all").unwrap();
    std::fs::write(file("empty.db"), "").unwrap();
    rusqlite::Connection::open(file("other.db")).unwrap().execute_batch("create table t (x)").unwrap();
    let schema = "create table users (name); create table agents (id, owner_id, name); insert into users values ('x')";
    rusqlite::Connection::open(file("odd.db")).unwrap().execute_batch(schema).unwrap();
    for (name, why) in [
        ("none.db", "cannot be opened"),
        ("text.db", "not a SQLite database"),
        ("empty.db", "not a SQLite database"),
        ("other.db", "no table `users`"),
        ("odd.db", "no column `telegram_id`"),
        ("pool.db", "--pool-db"),
    ] {
        let wrong = Options { baal_db: file(name), pool_db: None, ..options(&python) };
        let refused = format!("{:#}", import(&app, &wrong).await.unwrap_err());
        assert!(refused.contains(why) && refused.contains(name), "{refused}");
    }
    let wrong = Options { pool_db: Some(python.baal_db()), ..options(&python) };
    assert!(format!("{:#}", import(&app, &wrong).await.unwrap_err()).contains("pool database"));
    let wrong = Options { retire_pool: true, ..options(&python) };
    assert!(format!("{:#}", import(&app, &wrong).await.unwrap_err()).contains("CLOUD=aleph"));

    // Of before there was a history, a setting for tools, and nodes' addresses.
    let old = rusqlite::Connection::open(file("old.db")).unwrap();
    old.execute_batch(&format!(
        "create table users (telegram_id integer primary key, api_key text, created_at text);
         create table agents (id integer primary key, owner_id integer, name text, system_prompt text, model text,
           instance_hash text, vm_url text, auth_token text, deployment_status text);
         insert into users values (1, null, '2026-01-01 10:00:00');
         insert into agents values (1, 1, 'Ada', 'Be kind.', 'glm-4.7', '{}', 'https://a.2n6.me', '{}', 'running')",
        hash(1),
        token("secret")
    ))
    .unwrap();
    let older = Options { baal_db: file("old.db"), pool_db: None, ..options(&python) };
    let report = import(&app, &older).await.unwrap();
    assert_eq!((report.taken.users, report.taken.agents_running, report.taken.machines), (1, 1, 1), "{report}");
    let row: (i32, bool) = sqlx::query_as("select a.protocol, v.touched from agents a join vms v on v.agent_id = a.id")
        .fetch_one(&app.db)
        .await
        .unwrap();
    assert_eq!(row, (1, true), "it runs, wherever its machine is");
    assert!(import(&app, &older).await.unwrap().taken.is_nothing(), "also without times");
    app.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_still_runs_is_to_be_stopped_and_what_it_wrote_last_is_taken() {
    let (app, dir) = (app().await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    python.user(1, None);
    let (path, pool) = (python.baal_db(), python.pool_db());
    drop(python);
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1])\n\
                  db.execute('pragma journal_mode = wal')\n\
                  db.execute('insert into users (telegram_id) values (2)')\n\
                  db.commit()\n\
                  print('ready', flush=True)\n\
                  sys.stdin.read()\n";
    let mut bot = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 5];
    bot.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let options = Options {
        baal_db: path.clone(),
        pool_db: Some(pool),
        retire_pool: false,
        key_is_lost: false,
        dry_run: false,
        json: false,
    };
    let refused = format!("{:#}", import(&app, &options).await.unwrap_err());
    assert!(refused.contains("stop the Python bot first"), "{refused}");
    let dry = import(&app, &Options { dry_run: true, ..options.clone() }).await.unwrap();
    assert!(dry.taken.users == 2 && dry.to_string().contains("stop the Python bot"), "{dry}");
    // As if the machine had been switched off: what it wrote is in the log beside the database.
    bot.kill().unwrap();
    bot.wait().unwrap();
    drop(bot.stdin.take().map(|mut stdin| stdin.flush()));
    assert!(std::fs::metadata(path.with_extension("db-wal")).unwrap().len() > 0);
    let report = import(&app, &options).await.unwrap();
    assert_eq!(report.taken.users, 2, "{report}");
    assert!(std::fs::metadata(path.with_extension("db-wal")).unwrap().len() > 0, "it is only read");
    app.db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_agents_answer_at_once_and_their_links_stay_good() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").env("FREE_TIER_DAILY_MESSAGES", "10").start().await;
    let (agent, dir) = (BaseAgent::start("the-secret").await, tempfile::tempdir().unwrap());
    let python = Python::new(dir.path());
    python.user(1, None);
    python.user(2, None);
    python.agent(7, 1, &hash(7), &format!("{}/", agent.url), "the-secret");
    python.set(7, "name", "Ada");
    python.used(1, &today(&stack.db).await, 8);
    agent.says(1, "Good morning, I have thought of something.");
    // The Python bot has been stopped.
    let baal_db = python.baal_db();
    drop(python);
    let imported = Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(["import", "--no-env-file", "--json", "--baal-db"])
        .arg(baal_db)
        .env_clear()
        .envs(stack.baal(0).env())
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let report: serde_json::Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert_eq!(report["taken"]["agents_running"], 1, "{report:#}");

    let (owner, visitor) = (stack.user(1), stack.user(2));
    owner.asks("/list", "🟢 Ada · no. 7").await;
    owner.wait_for(|m| m.text.contains("I have thought of something.")).await;
    owner.asks("/start agent_7", "Ada").await;
    owner.asks("Are you there?", "You said: Are you there?").await;
    visitor.asks("/start agent_7", "You are talking to Ada.").await;
    visitor.asks("And for me?", "You said: And for me?").await;
    // In the chats that it knows: what it remembers of them goes on.
    let asked = agent.asked.lock().unwrap().clone();
    assert_eq!(asked, [("1".to_owned(), "Are you there?".to_owned()), ("2".into(), "And for me?".into())]);
    // Eight of ten had been used there.
    owner.asks("/account", "Free messages today: 9 of 10").await;
    owner.asks("Once more?", "You said: Once more?").await;
    owner.asks("And again?", "You have used all 10 messages of today.").await;
    assert_eq!(agent.asked.lock().unwrap().len(), 3);
    let name: String = stack.sql("select name from users where id = 1").await;
    assert!(!name.starts_with("User "), "{name}: their name came with their message");
    stack.simulator.assert_good_manners().await;
    assert_eq!(stack.errors(), Vec::<String>::new());
}
