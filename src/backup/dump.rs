//! Reading everything that there is, as of one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::mpsc;
use tracing::warn;

use super::file::{FileError, Frame};
use super::keys::Keys;
use super::manifest::{Counter, FORMAT, Manifest, Summary, Table};
use super::schema::{self, NOT_KEPT, listed, quoted};
use crate::vault::Vault;

/// Rows are gathered until they are so many bytes.
const GATHERED: usize = 256 << 10;

/// Between two tries to lock the tables.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Postgres' code for a lock that could not be had in time.
const LOCKED: &str = "55P03";

/// Begins the transaction in which everything is read: what others write meanwhile is not seen.
///
/// Invariant: our tables are locked before the moment that is seen is fixed, so that no migration comes in between: a table that
/// one writes anew after that moment would look empty. The wait is shorter than Postgres' `deadlock_timeout`, a second: of a
/// migration and a backup that wait for each other, the backup lets go.
pub async fn begin(conn: &mut PgConnection) -> sqlx::Result<()> {
    loop {
        let tables = schema::existing(conn).await?;
        sqlx::query("begin transaction isolation level repeatable read, read only").execute(&mut *conn).await?;
        if tables.is_empty() {
            return Ok(());
        }
        sqlx::query("set local lock_timeout = '500ms'").execute(&mut *conn).await?;
        let statement = format!("lock table {} in access share mode", listed(&tables));
        match sqlx::query(AssertSqlSafe(statement)).execute(&mut *conn).await {
            Ok(_) => {
                sqlx::query("set local lock_timeout = 0").execute(&mut *conn).await?;
                return Ok(());
            }
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == LOCKED) => {
                warn!("a table is locked, perhaps by a migration; the backup waits for that");
                sqlx::query("rollback").execute(&mut *conn).await?;
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a backup of this moment has in it, within that transaction.
pub async fn manifest(conn: &mut PgConnection, keys: Keys) -> anyhow::Result<Manifest> {
    // The first statement fixes what is seen; its clock is read after that.
    let (made_at, postgres) =
        sqlx::query_as("select clock_timestamp(), current_setting('server_version')").fetch_one(&mut *conn).await?;
    let schema =
        schema::version(conn).await?.context("there is nothing to save: the database has no schema of Baal's")?;
    if schema > schema::newest() {
        bail!(
            "the database's schema is that of a newer Baal (migration {schema}; this one knows {}): make the backup with that \
             version",
            schema::newest()
        );
    }
    if schema < schema::FIRST {
        bail!("the database's schema is too old for this (migration {schema}): `baal migrate` brings it up to date");
    }
    let summary: Summary = sqlx::query_as(
        "select (select count(*) from users) as users, (select count(*) from agents where deleted_at is null) as agents,
                (select count(*) from vms where ended_at is null) as machines,
                (select count(*) from updates where not done) as updates, (select count(*) from turns where not done) as turns,
                (select count(*) from outbox where not done) as sends, (select count(*) from jobs where not done) as jobs,
                (select count(*) from errands where not done) as errands",
    )
    .fetch_one(&mut *conn)
    .await?;
    check_key(conn, &keys).await?;
    Ok(Manifest {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").into(),
        schema,
        postgres,
        made_at,
        installation: sqlx::query_scalar("select id from installation").fetch_one(&mut *conn).await?,
        tables: tables(conn).await?,
        counters: counters(conn).await?,
        summary,
        keys,
    })
}

/// An error if the keys do not open what was stored last: a backup with them would be of no use.
async fn check_key(conn: &mut PgConnection, keys: &Keys) -> anyhow::Result<()> {
    let stored: Vec<Vec<u8>> = sqlx::query_scalar(
        "(select secret from agents where deleted_at is null and secret <> '' order by id desc limit 1)
         union all (select libertai_key from users where libertai_key is not null order by key_connected_at desc limit 1)",
    )
    .fetch_all(conn)
    .await?;
    let vault = Vault::new(&keys.encryption).context("BOT_ENCRYPTION_KEY cannot be read")?;
    if stored.iter().any(|token| vault.decrypt(token).is_err()) {
        bail!(
            "BOT_ENCRYPTION_KEY does not open what is in the database, and a backup with it would be of no use: make the backup \
             with the configuration that the servers have"
        );
    }
    Ok(())
}

async fn tables(conn: &mut PgConnection) -> anyhow::Result<Vec<Table>> {
    let names: Vec<&str> = schema::ours().into_iter().filter(|name| !NOT_KEPT.contains(name)).collect();
    let found: Vec<(String, Vec<String>)> = sqlx::query_as(
        "select c.relname::text, array_agg(a.attname::text order by a.attnum)
           from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
          where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p') and c.relname = any($1)
          group by c.relname",
    )
    .bind(&names)
    .fetch_all(&mut *conn)
    .await?;
    let references: Vec<(String, String)> = sqlx::query_as(
        "select a.relname::text, b.relname::text from pg_constraint k join pg_class a on a.oid = k.conrelid
           join pg_class b on b.oid = k.confrelid
          where k.contype = 'f' and a.relnamespace = current_schema()::regnamespace and a.oid <> b.oid",
    )
    .fetch_all(conn)
    .await?;
    let order = in_order(found.iter().map(|(name, _)| name.as_str()).collect(), &references)
        .context("tables refer to each other in a circle")?;
    let mut columns: BTreeMap<String, Vec<String>> = found.iter().cloned().collect();
    Ok(order.into_iter().map(|name| Table { columns: columns.remove(&name).unwrap_or_default(), name }).collect())
}

/// The tables so that each comes after those that it refers to; none where there is no such order.
fn in_order(mut left: BTreeSet<&str>, references: &[(String, String)]) -> Option<Vec<String>> {
    let mut order = vec![];
    while !left.is_empty() {
        let waits = |table: &str| references.iter().any(|(from, to)| from == table && left.contains(to.as_str()));
        let next = left.iter().copied().find(|table| !waits(table))?;
        left.remove(next);
        order.push(next.to_owned());
    }
    Some(order)
}

/// All identity columns, also those of tables that are not kept: their numbers stand in rows that are.
async fn counters(conn: &mut PgConnection) -> sqlx::Result<Vec<Counter>> {
    let found: Vec<(String, String, i64)> = sqlx::query_as(
        "select c.relname::text, a.attname::text,
                coalesce(pg_sequence_last_value(pg_get_serial_sequence(quote_ident(c.relname), a.attname)::regclass), 0)
           from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attidentity <> '' and not a.attisdropped
          where c.relnamespace = current_schema()::regnamespace and c.relname = any($1) order by 1, 2",
    )
    .bind(schema::ours())
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().map(|(table, column, last)| Counter { table, column, last }).collect())
}

/// Reads all rows, in the order of the manifest. `told` is called with each table and how many rows it has.
pub async fn rows(
    conn: &mut PgConnection,
    manifest: &Manifest,
    frames: &mpsc::Sender<Frame>,
    told: impl Fn(&str, u64),
) -> anyhow::Result<()> {
    let send = async |frame| frames.send(frame).await.map_err(|_| FileError::Abandoned);
    send(Frame::Manifest(Box::new(manifest.clone()))).await?;
    for table in &manifest.tables {
        send(Frame::Table(table.name.clone())).await?;
        let statement = format!("copy {} ({}) to stdout", quoted(&table.name), listed(&table.columns));
        let reading = || format!("the table {} could not be read", table.name);
        let mut stream = conn.copy_out_raw(&statement).await.with_context(reading)?;
        let (mut gathered, mut count) = (Vec::with_capacity(GATHERED), 0);
        // Each message of the server is a row.
        while let Some(row) = stream.try_next().await.with_context(reading)? {
            count += 1;
            gathered.extend_from_slice(&row);
            if gathered.len() >= GATHERED {
                send(Frame::Rows(std::mem::take(&mut gathered))).await?;
            }
        }
        if !gathered.is_empty() {
            send(Frame::Rows(gathered)).await?;
        }
        let least = manifest.summary.least(&table.name);
        ensure!(
            i64::try_from(count)? >= least,
            "the table {} gave {count} rows and has at least {least}: it was changed meanwhile; make the backup again",
            table.name
        );
        told(&table.name, count);
    }
    send(Frame::End).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_after_those_that_they_refer_to() {
        let references = [("links", "agents"), ("visitors", "links"), ("agents", "users"), ("visitors", "users")];
        let references = references.map(|(from, to)| (from.to_owned(), to.to_owned()));
        let order = in_order(["agents", "links", "users", "visitors"].into(), &references).expect("an order");
        assert_eq!(order, ["users", "agents", "links", "visitors"]);
        let circle = [("a".to_owned(), "b".to_owned()), ("b".to_owned(), "a".to_owned())];
        assert_eq!(in_order(["a", "b"].into(), &circle), None);
    }
}
