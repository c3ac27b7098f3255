//! Trying a backup: it is restored into a database that is made for that and dropped again.

use std::io::Read;

use anyhow::{Context as _, ensure};
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tracing::warn;

use super::file::Counts;
use super::load::{Reading, prepare};
use super::schema::quoted;

/// Postgres' code for what a role may not do.
const NOT_ALLOWED: &str = "42501";

/// How well a backup was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It was restored.
    Restored,
    /// It was read to its end, for this role may make no database.
    Read,
}

/// Restores the backup into a database of its own and counts. An error if it could not be restored, or if other rows came out of
/// it than `saved`.
pub async fn verify(
    options: &PgConnectOptions,
    input: impl Read + Send + 'static,
    passphrase: &SecretString,
    saved: impl Future<Output = anyhow::Result<Counts>>,
) -> anyhow::Result<Tried> {
    let mut main = PgConnection::connect_with(options).await?;
    let of: i64 = sqlx::query_scalar("select oid::bigint from pg_database where datname = current_database()")
        .fetch_one(&mut main)
        .await?;
    let prefix = format!("baal_verify_{of}_");
    drop_left(&mut main, &prefix).await;
    let name = format!("{prefix}{}", uuid::Uuid::new_v4().simple());
    // Of what the backup is encoded in, whatever the server's own databases have. Counting needs no collation.
    let create =
        format!("create database {} encoding 'UTF8' lc_collate 'C' lc_ctype 'C' template template0", quoted(&name));
    let (tried, read) = match sqlx::query(AssertSqlSafe(create)).execute(&mut main).await {
        Ok(_) => {
            let restored = restore_into(&options.clone().database(&name), input, passphrase).await;
            drop_database(&mut main, &name).await;
            (Tried::Restored, restored?)
        }
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == NOT_ALLOWED) => {
            (Tried::Read, Reading::open(input, passphrase).await?.check().await?)
        }
        Err(error) => return Err(error).context("no database could be made to try the backup in"),
    };
    ensure!(read == saved.await?, "other rows came out of the backup than were put into it");
    Ok(tried)
}

async fn restore_into(
    options: &PgConnectOptions,
    input: impl Read + Send + 'static,
    passphrase: &SecretString,
) -> anyhow::Result<Counts> {
    let mut conn = PgConnection::connect_with(options).await?;
    let reading = Reading::open(input, passphrase).await?;
    prepare(&mut conn, &reading.manifest).await?;
    let mut counts = reading.load(&mut conn).await?;
    for (table, count) in &mut counts {
        let statement = AssertSqlSafe(format!("select count(*) from {}", quoted(table)));
        let there: i64 = sqlx::query_scalar(statement).fetch_one(&mut conn).await?;
        // That it was restored is written down besides.
        *count = u64::try_from(there)?.saturating_sub(u64::from(table == "audit"));
    }
    conn.close().await?;
    Ok(counts)
}

/// Those that a backup left that was killed: only one is made at a time.
async fn drop_left(conn: &mut PgConnection, prefix: &str) {
    let left = sqlx::query_scalar::<_, String>("select datname::text from pg_database where starts_with(datname, $1)");
    match left.bind(prefix).fetch_all(&mut *conn).await {
        Ok(names) => {
            for name in names {
                drop_database(conn, &name).await;
            }
        }
        Err(error) => warn!(%error, "databases that former backups were tried in could not be looked for"),
    }
}

async fn drop_database(conn: &mut PgConnection, name: &str) {
    let dropped =
        sqlx::query(AssertSqlSafe(format!("drop database {} with (force)", quoted(name)))).execute(conn).await;
    if let Err(error) = dropped {
        warn!(%error, database = name, "the database that the backup was tried in could not be dropped: drop it by hand");
    }
}
