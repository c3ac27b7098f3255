//! The whole program behind PgBouncer in transaction mode, where every transaction may meet another session: `make e2e`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod pgbouncer;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../operators/grow/server.rs"]
mod server;

use std::process::{Command, Output};
use std::time::Duration;

use baal::config::Config;
use baal::database;
use futures_util::future::join_all;
use sqlx::postgres::PgListener;
use sqlx::{Connection as _, PgConnection};

use self::harness::{Builder, Stack};
use self::pgbouncer::PgBouncer;
use self::server::{PASSWORD, ROLE, Server};

const HBA: &str = "host all all all scram-sha-256";

/// The programs reach Postgres by the pooler, and by the direct way what needs it.
fn behind(pooler: &PgBouncer, server: &Server) -> Builder {
    Stack::builder()
        .database(server.whole_url())
        .env("DATABASE_URL", pooler.url())
        .env("DATABASE_DIRECT_URL", server.url("localhost", ""))
        .env("DATABASE_PASSWORD", PASSWORD)
}

/// As `baal migrate` does before the first start: sessions that the pooler opens earlier are without the role's settings.
async fn settle(server: &Server) {
    let url = server.url("localhost", "");
    let values = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("TELEGRAM_WEBHOOK_SECRET", "test-webhook-secret"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "test-key"),
        ("CLOUD", "local"),
        ("DATABASE_URL", &url),
        ("DATABASE_DIRECT_URL", &url),
        ("DATABASE_PASSWORD", PASSWORD),
    ];
    let values = values.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    database::migrate(&Config::from_values(values, vec![]).unwrap()).await.unwrap();
}

fn config(stack: &Stack) -> Config {
    Config::from_values(stack.baal(0).env(), vec![]).unwrap()
}

fn baal(stack: &Stack, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(arguments).arg("--no-env-file").env_clear().envs(stack.baal(0).env()).current_dir("/");
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_answer_behind_a_pooler_and_wake_each_other() {
    const USERS: i64 = 8;
    let server = Server::start(HBA).await;
    settle(&server).await;
    let pooler = PgBouncer::start(server.port).await;
    let stack = behind(&pooler, &server).replicas(2).start().await;
    let alice = stack.user(1);
    let ada = alice.creates_agent("Ada", "You are a pirate.").await;
    let talks = (1..=USERS).map(|id| {
        let user = stack.user(id);
        async move {
            user.says(&format!("/start agent_{ada}")).await;
            user.wait_for(|m| m.text.contains("You are talking to Ada")).await;
            for number in 1..=5 {
                user.says("What is one and one?").await;
                let expected = format!("message {number} of our conversation");
                user.wait_for(|m| m.text.contains(&expected)).await;
            }
        }
    });
    join_all(talks).await;
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
    assert_eq!(
        stack.sql::<i64>("select count(*) from turns where kind = 'message' and status = 'completed'").await,
        USERS * 5
    );
    assert_eq!(stack.sql::<i64>("select count(*) from turns where attempt <> 1").await, 0, "turns claimed twice");

    // Fewer sessions than the replicas have connections: they have been sharing them.
    let pooled: i64 = stack.sql("select count(*) from pg_stat_activity where application_name = 'baal'").await;
    assert!((1..=pgbouncer::SESSIONS).contains(&pooled), "{pooled} sessions");
    stack.wait_for_sql("select count(*) from pg_stat_activity where application_name = 'baal listen'", 2i64).await;
    // What one replica takes in, it tells the others of.
    let mut listener = PgListener::connect(&server.whole_url()).await.unwrap();
    listener.listen("baal_wake").await.unwrap();
    alice.says("/help").await;
    tokio::time::timeout(Duration::from_secs(20), listener.recv()).await.expect("a wake-up").unwrap();

    let config = config(&stack);
    let pool = database::connect_lazily(&config).unwrap();
    assert_eq!(database::unsettled(&config, &pool).await.unwrap(), Vec::<String>::new());
    for (setting, wanted) in [("show enable_seqscan", "off"), ("show jit", "off"), ("show lock_timeout", "20s")] {
        assert_eq!(sqlx::query_scalar::<_, String>(setting).fetch_one(&pool).await.unwrap(), wanted, "{setting}");
    }
    // What the role has now is no limit for migrations.
    let mut session = PgConnection::connect_with(&database::session(&config, "test").unwrap()).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>("show lock_timeout").fetch_one(&mut session).await.unwrap(), "0");
    let doctor = said(&baal(&stack, &["doctor"]));
    assert!(doctor.contains("✔ database") && doctor.contains("✔ direct way to the database"), "{doctor}");
    for command in [&["migrate"][..], &["status"], &["token", "list"], &["token", "create", "test", "--scope", "read"]]
    {
        let output = said(&baal(&stack, command));
        assert!(!output.contains("database:") && !output.contains("prepared"), "{command:?}: {output}");
    }
    for log in stack.logs() {
        let text = std::fs::read_to_string(&log).unwrap();
        for trouble in ["prepared statement", "startup parameter", "could not be woken", "not listening", "hunter2"] {
            assert!(!text.contains(trouble), "{}: {trouble}", log.display());
        }
    }
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_was_not_told_of_is_named_and_settings_go_with_the_lease() {
    let server = Server::start(HBA).await;
    let pooler = PgBouncer::start(server.port).await;
    let stack = behind(&pooler, &server).start().await;
    let mut environment = stack.baal(0).env();
    environment.remove("DATABASE_DIRECT_URL");
    let mut command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(["doctor", "--no-env-file"]).env_clear().envs(&environment).current_dir("/");
    let without = said(&command.output().unwrap());
    assert!(without.contains("✘ database") && without.contains("DATABASE_DIRECT_URL"), "{without}");

    // Without clients, the pooler has only sessions that it opened before what follows.
    stack.baal(0).stop().await;
    // Another lease, another time-out: of the role, in this database alone.
    environment = stack.baal(0).env();
    environment.insert("LEASE_SECONDS".into(), "20".into());
    command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(["migrate", "--no-env-file"]).env_clear().envs(&environment).current_dir("/");
    assert!(command.output().unwrap().status.success());
    let mut fresh = PgConnection::connect(&server.whole_url()).await.unwrap();
    let shown: String =
        sqlx::query_scalar("show idle_in_transaction_session_timeout").fetch_one(&mut fresh).await.unwrap();
    assert_eq!(shown, "10s");
    let elsewhere: i64 = sqlx::query_scalar(
        "select count(*) from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole
           left join pg_database d on d.oid = s.setdatabase
          where r.rolname is distinct from $1 or d.datname is distinct from current_database()",
    )
    .bind(ROLE)
    .fetch_one(&mut fresh)
    .await
    .unwrap();
    assert_eq!(elsewhere, 0);
    // Sessions that the pooler has had open are as they were, and that is told.
    environment.insert("LEASE_SECONDS".into(), "20".into());
    command = Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(["doctor", "--no-env-file"]).env_clear().envs(&environment).current_dir("/");
    let doctor = said(&command.output().unwrap());
    assert!(doctor.contains("idle_in_transaction_session_timeout"), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_and_its_sessions_may_go_away_and_nothing_is_lost() {
    let server = Server::start(HBA).await;
    let mut pooler = PgBouncer::start(server.port).await;
    let stack = behind(&pooler, &server).http_apart().start().await;
    stack.baal(1).start().await;
    let alice = stack.user(1);
    for round in 0..3 {
        alice.says("/help").await;
        alice
            .wait_until(|all| {
                (all.iter().filter(|m| m.text.contains("What you can do here")).count() > round).then_some(())
            })
            .await;
        pooler.restart().await;
    }
    alice.says("/list").await;
    alice.wait_for(|m| m.text.contains("no agents yet")).await;
}
