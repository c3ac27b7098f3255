//! One Postgres server for all tests of this process, a database for each.

use std::fs::{self, File};
use std::path::Path;

use baal::demo::postgres::Postgres;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::OnceCell;

struct Cluster {
    postgres: Postgres,
    /// Keeps other test processes off the directory.
    _slot: File,
}

/// Never dropped; the server ends with the process.
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The URL of a new, empty database.
pub async fn database() -> String {
    let cluster = CLUSTER.get_or_init(start).await;
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    cluster.postgres.create_database(&name).await.unwrap();
    cluster.postgres.url(&name)
}

/// The data stays in the target directory, because making a cluster takes longer than most tests.
async fn start() -> Cluster {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(root).unwrap();
    for slot in 0.. {
        let lock = root.join(format!("postgres-{slot}.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(lock).unwrap();
        if lock.try_lock().is_err() {
            continue;
        }
        let dir = root.join(format!("postgres-{slot}"));
        let postgres = Postgres::start(&dir, false).await.unwrap_or_else(|error| panic!("{error:#}"));
        drop_databases(&postgres).await;
        return Cluster { postgres, _slot: lock };
    }
    unreachable!("the slots have no end")
}

/// Removes what earlier runs left.
async fn drop_databases(postgres: &Postgres) {
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    let names: Vec<String> = sqlx::query_scalar("select datname from pg_database where datname like 'test\\_%'")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    for name in names {
        let statement = AssertSqlSafe(format!("drop database \"{name}\" with (force)"));
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
}
