//! Transactions that are broken off before they have begun.

use std::path::Path;
use std::time::Duration;

use baal::database;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

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
            let found = std::fs::read_to_string(&path).unwrap().matches("db.begin()").count();
            assert_eq!(found, usize::from(path.ends_with("src/database.rs")), "{}: database::begin", path.display());
            sources += 1;
        }
    }
    assert!(sources > 100, "{sources}");
}
