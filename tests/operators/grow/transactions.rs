//! Transactions that are broken off before they have begun.

use std::path::Path;
use std::time::Duration;

use baal::database;
use futures_util::future::join_all;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::harness::database as new_database;

/// Whether the pool's only connection is in a transaction that nobody knows of: there, `now()` stands still.
async fn is_left_open(db: &PgPool) -> bool {
    let now = "select extract(epoch from now())::float8";
    let first: f64 = sqlx::query_scalar(now).fetch_one(db).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second: f64 = sqlx::query_scalar(now).fetch_one(db).await.unwrap();
    first.to_bits() == second.to_bits()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_nobody_waits_for_any_more_is_not_left_open() {
    let db = PgPoolOptions::new().max_connections(1).connect(&new_database().await).await.unwrap();
    for micros in 0..300 {
        // Dropped at some moment between the first word to Postgres and its answer.
        let begun = tokio::time::timeout(Duration::from_micros(micros), database::begin(&db)).await;
        drop(begun);
        assert!(!is_left_open(&db).await, "after {micros} µs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_before_there_is_a_connection_leaves_nothing_to_be_begun() {
    let url = new_database().await;
    let db = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let mut only = db.acquire().await.unwrap();
    let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *only).await.unwrap();
    let all = (0..50).map(|_| tokio::time::timeout(Duration::from_millis(50), database::begin(&db)));
    assert!(join_all(all).await.iter().all(Result::is_err), "a connection came from somewhere");
    drop(only);
    while db.num_idle() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut outside = PgConnection::connect(&url).await.unwrap();
    let newest = "select query from pg_stat_activity where pid = $1";
    let newest: String = sqlx::query_scalar(newest).bind(backend).fetch_one(&mut outside).await.unwrap();
    assert_eq!(newest, "select pg_backend_pid()");
}

#[test]
fn transactions_begin_in_one_way() {
    let (mut directories, mut sources) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")], 0);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let found = ["db.begin()", "Transaction::begin("].map(|way| source.matches(way).count());
            let own = usize::from(path.ends_with("src/database.rs"));
            assert_eq!(found, [0, own], "{}: database::begin", path.display());
            sources += 1;
        }
    }
    assert!(sources > 100, "{sources}");
}
