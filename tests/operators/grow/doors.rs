//! TLS, certificates and passwords on the way to Postgres.

use baal::database;
use sqlx::{Connection as _, PgConnection};

use super::server::{PASSWORD, Server};
use super::{baal, config, said};
use crate::harness::Stack;

/// Whoever comes by TCP needs TLS and the password.
const HBA: &str = "hostssl all all all scram-sha-256";

#[tokio::test(flavor = "multi_thread")]
async fn the_program_works_over_tls_that_checks_the_name_with_the_password_apart() {
    let server = Server::start(HBA).await;
    let url = server.url("localhost", &format!("sslmode=verify-full&sslrootcert={}", server.file("ca.pem").display()));
    let stack = Stack::builder()
        .database(server.whole_url())
        .env("DATABASE_URL", &url)
        .env("DATABASE_PASSWORD", PASSWORD)
        .start()
        .await;
    let alice = stack.user(1);
    alice.says("/start").await;
    alice.wait_for(|m| m.text.contains("Hello")).await;
    let plain: i64 = stack
        .sql("select count(*) from pg_stat_activity a join pg_stat_ssl s using (pid) where a.application_name like 'baal%' and not s.ssl")
        .await;
    assert_eq!(plain, 0);
    // The settings hold for sessions of the pool, which is not told apart by anything else.
    stack.wait_for_sql("select count(*) from pg_stat_activity where application_name = 'baal listen'", 1i64).await;
    for log in stack.logs() {
        assert!(!std::fs::read_to_string(&log).unwrap().contains("hunter2"), "{}", log.display());
    }
    let environment = stack.baal(0).env();
    let given: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for command in [&["status"][..], &["migrate"], &["token", "list"], &["doctor"]] {
        let output = said(&baal(command, &given));
        assert!(!output.contains("the database:") && !output.contains("✘ database"), "{command:?}: {output}");
        assert!(!output.contains("hunter2"), "{command:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_way_to_the_database_is_said_and_stops_the_start() {
    let server = Server::start(HBA).await;
    let (ca, other) = (server.file("ca.pem"), server.file("other.pem"));
    let (ca, other) = (ca.display(), other.display());
    let cases = [
        (
            server.url("localhost", &format!("sslmode=verify-full&sslrootcert={other}")),
            PASSWORD,
            "authority that is not trusted",
        ),
        (
            server.url("localhost", &format!("sslmode=verify-ca&sslrootcert={other}")),
            PASSWORD,
            "authority that is not trusted",
        ),
        // As libpq: who names an authority wants it asked.
        (
            server.url("localhost", &format!("sslmode=require&sslrootcert={other}")),
            PASSWORD,
            "authority that is not trusted",
        ),
        (server.url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={ca}")), PASSWORD, "for another name"),
        (server.url("localhost", "sslmode=disable"), PASSWORD, "refuses connections without TLS"),
        (server.url("localhost", "sslmode=require"), "hunter3", "takes another password"),
    ];
    for (url, password, expected) in &cases {
        let given = [("DATABASE_URL", url.as_str()), ("DATABASE_PASSWORD", *password)];
        for command in ["serve", "worker", "migrate", "doctor", "status"] {
            let output = baal(&[command], &given);
            let said = said(&output);
            assert!(!output.status.success() && said.contains(expected), "{command} with {url}: {said}");
            assert!(!said.contains("hunter"), "{said}");
        }
    }
    let fine = [
        server.url("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={ca}")),
        server.url("localhost", "sslmode=require"),
        server.url("localhost", ""),
    ];
    for url in &fine {
        let output = baal(&["migrate"], &[("DATABASE_URL", url), ("DATABASE_PASSWORD", PASSWORD)]);
        assert!(output.status.success(), "{url}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_takes_the_place_of_the_password() {
    let server = Server::start("hostssl all all all cert").await;
    let file = |name: &str| server.file(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let with = server.url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}&sslcert={cert}&sslkey={key}"));
    let output = baal(&["migrate"], &[("DATABASE_URL", &with)]);
    assert!(output.status.success(), "{}", said(&output));
    let without = server.url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}"));
    let output = baal(&["migrate"], &[("DATABASE_URL", &without)]);
    assert!(!output.status.success() && said(&output).contains("sslcert"), "{}", said(&output));
}

#[test]
fn a_password_in_two_places_stops_the_start() {
    let url = "postgres://baal:hunter2@localhost/baal";
    let output = baal(&["serve"], &[("DATABASE_URL", url), ("DATABASE_PASSWORD", "hunter3")]);
    let said = said(&output);
    assert!(!output.status.success() && said.contains("keep one") && !said.contains("hunter"), "{said}");
}

/// What sessions of the pool are given at their start, or else by their role.
#[tokio::test]
async fn sessions_have_their_settings_and_a_direct_one_waits_for_locks_without_end() {
    let url = crate::harness::database().await;
    let config = config(&[("DATABASE_URL", &url)]);
    let pool = database::connect_lazily(&config).unwrap();
    assert_eq!(database::unsettled(&config, &pool).await.unwrap(), Vec::<String>::new());
    let mut own = PgConnection::connect_with(&database::session(&config, "test").unwrap()).await.unwrap();
    let timeout: String = sqlx::query_scalar("show lock_timeout").fetch_one(&mut own).await.unwrap();
    assert_eq!(timeout, "0");
}
