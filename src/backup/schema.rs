//! The schema as backups see it: which tables are ours, and whether they hold anything.

use anyhow::{Context as _, bail};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::database::MIGRATIONS;

/// Tables that are not kept: they say who works and what is avoided at the moment, and are of no use later.
pub const NOT_KEPT: [&str; 3] = ["replicas", "leases", "crns_avoided"];

/// Tables that have rows as soon as a server has started, and are not anybody's yet.
const OF_A_NEW_ONE: [&str; 2] = ["installation", "bots"];

/// The first migration whose schema knows that an installation can be held; an earlier one is brought up to date first.
pub const FIRST: i64 = 5;

/// The newest migration that this program knows.
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// All tables that any migration makes.
pub fn ours() -> Vec<&'static str> {
    let lines = MIGRATIONS.iter().flat_map(|migration| migration.sql.as_str().lines());
    lines.filter_map(|line| line.strip_prefix("create table ")?.split([' ', '(']).next()).collect()
}

/// A name as a statement has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as a statement lists them.
pub fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| quoted(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The last migration that was applied; none where there is no schema of ours yet.
pub async fn version(conn: &mut PgConnection) -> sqlx::Result<Option<i64>> {
    let exists = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *conn).await?;
    if exists {
        sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(conn).await
    } else {
        Ok(None)
    }
}

/// Those of our tables that there are.
pub async fn existing(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select relname::text from pg_class
          where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p') and relname = any($1) order by 1",
    )
    .bind(ours())
    .fetch_all(conn)
    .await
}

/// An error, in words for whoever restores, unless nothing works on this database and nothing is in it.
pub async fn refuse_if_used(conn: &mut PgConnection) -> anyhow::Result<()> {
    let tables = existing(conn).await?;
    if tables.iter().any(|table| table == "replicas") {
        let live: Vec<String> = sqlx::query_scalar("select name from replicas where expires_at > now() order by id")
            .fetch_all(&mut *conn)
            .await?;
        if !live.is_empty() {
            bail!(
                "the database is in use: {} {} registered. Stop every `baal serve` and `baal worker` first; one that was killed \
                 is forgotten within a minute",
                live.join(", "),
                if live.len() == 1 { "is" } else { "are" }
            );
        }
    }
    let mut used = vec![];
    for table in tables.iter().filter(|table| ![&NOT_KEPT[..], &OF_A_NEW_ONE].concat().contains(&table.as_str())) {
        let statement = AssertSqlSafe(format!("select exists (select from {})", quoted(table)));
        if sqlx::query_scalar(statement).fetch_one(&mut *conn).await? {
            used.push(table.as_str());
        }
    }
    if !used.is_empty() {
        bail!(
            "the database is not empty: there are rows in {}. A backup is restored into an empty database only: create a new one \
             and name it in DATABASE_URL",
            used.join(", ")
        );
    }
    Ok(())
}

/// Keeps everybody else out of our tables until the transaction ends. Who comes meanwhile waits, and then finds an installation
/// that is held.
pub async fn lock(conn: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("set local lock_timeout = '60s'").execute(&mut *conn).await?;
    let tables = existing(conn).await?;
    if !tables.is_empty() {
        let statement = format!("lock table {} in access exclusive mode", listed(&tables));
        let locked = sqlx::query(AssertSqlSafe(statement)).execute(conn).await;
        locked.context("the tables could not be locked: something else uses the database")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_tables_are_those_that_the_migrations_make() {
        let ours = ours();
        for table in ["replicas", "users", "installation", "agent_versions", "links", "idempotency"] {
            assert!(ours.contains(&table), "{table} in {ours:?}");
        }
        assert!(newest() >= FIRST);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(listed(["a", "b\"c"]), "\"a\", \"b\"\"c\"");
    }
}
