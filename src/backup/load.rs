//! Filling an empty database from a backup: all of it, or nothing.

use std::io::Read;

use anyhow::{Context as _, bail, ensure};
use secrecy::SecretString;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::file::{self, Counts, FileError, Frame};
use super::held;
use super::manifest::Manifest;
use super::schema::{self, listed, quoted};
use crate::database::MIGRATIONS;

/// Numbers that are not given again after a restore. What was numbered after the backup is known elsewhere: links with agents'
/// numbers in chats, directories of local agents, rows of replicas that may still live. Who comes later must not meet them.
const AHEAD: i64 = 1_000;

/// A backup that is being read.
pub struct Reading {
    /// What it says of itself.
    pub manifest: Manifest,
    frames: mpsc::Receiver<Frame>,
    reader: JoinHandle<Result<Counts, FileError>>,
}

impl Reading {
    /// Begins to read.
    pub async fn open(input: impl Read + Send + 'static, passphrase: &SecretString) -> anyhow::Result<Self> {
        let (sender, mut frames) = mpsc::channel(8);
        let passphrase = passphrase.clone();
        let reader = tokio::task::spawn_blocking(move || {
            file::read(input, &passphrase, |frame| sender.blocking_send(frame).map_err(|_| FileError::Abandoned))
        });
        match frames.recv().await {
            Some(Frame::Manifest(manifest)) => Ok(Self { manifest: *manifest, frames, reader }),
            _ => Err(reader.await?.err().unwrap_or(FileError::NotABackup).into()),
        }
    }

    /// Reads to the end and keeps nothing; the rows of each table.
    pub async fn check(mut self) -> anyhow::Result<Counts> {
        while self.frames.recv().await.is_some() {}
        Ok(self.reader.await??)
    }

    /// Fills the database with it; the rows of each table.
    pub async fn load(mut self, conn: &mut PgConnection) -> anyhow::Result<Counts> {
        let loaded = load(conn, &self.manifest, &mut self.frames).await;
        drop(self.frames);
        match (self.reader.await?, loaded) {
            // What was wrong with the file is why the database got no end of it.
            (Err(error), Err(_)) if !matches!(error, FileError::Abandoned) => Err(error.into()),
            (_, Err(error)) => Err(error),
            (counts, Ok(())) => Ok(counts?),
        }
    }
}

/// Whether this program can restore it.
pub fn refuse_if_newer(manifest: &Manifest) -> anyhow::Result<()> {
    ensure!(
        manifest.schema <= schema::newest(),
        "the backup was made by a newer Baal ({}, migration {}; this one knows {}): restore it with that version or a later one",
        manifest.program,
        manifest.schema,
        schema::newest()
    );
    ensure!(manifest.schema >= schema::FIRST, "the backup is of migration {}, which nothing can hold", manifest.schema);
    Ok(())
}

/// Makes the database's schema that of the backup, provided that nothing is in it. A kill in between leaves it empty.
pub async fn prepare(conn: &mut PgConnection, manifest: &Manifest) -> anyhow::Result<()> {
    refuse_if_newer(manifest)?;
    let found = schema::version(conn).await?;
    ensure!(
        found.is_none_or(|found| found <= schema::newest()),
        "the database's schema is that of a newer Baal: restore into a new database"
    );
    if found.is_some() {
        schema::refuse_if_used(conn).await?;
    }
    if found.is_some_and(|found| found > manifest.schema) {
        // A server was started here before, which is newer than the backup. What it made is empty.
        sqlx::query("begin").execute(&mut *conn).await?;
        schema::lock(conn).await?;
        schema::refuse_if_used(conn).await?;
        let tables = schema::existing(conn).await?;
        let tables = listed(tables.iter().map(String::as_str).chain(["_sqlx_migrations"]));
        sqlx::query(AssertSqlSafe(format!("drop table {tables}"))).execute(&mut *conn).await?;
        sqlx::query("commit").execute(&mut *conn).await?;
    }
    MIGRATIONS.run_to(manifest.schema, &mut *conn).await.context("the backup's schema could not be made")
}

/// Fills the tables, in one transaction that ends only when the file has proved to be whole. Invariant: **a database with a
/// backup's rows is held**, for the same transaction says so; and nobody works on it, for none was registered when our locks
/// were taken, who registers waits for them, and the registered ask whether it is held before they work.
async fn load(conn: &mut PgConnection, manifest: &Manifest, frames: &mut mpsc::Receiver<Frame>) -> anyhow::Result<()> {
    sqlx::query("begin").execute(&mut *conn).await?;
    schema::lock(conn).await?;
    let found = schema::version(conn).await?;
    ensure!(found == Some(manifest.schema), "something else changed the database's schema meanwhile: try again");
    schema::refuse_if_used(conn).await?;
    for table in ["replicas", "bots", "crns_avoided", "installation"] {
        sqlx::query(AssertSqlSafe(format!("delete from {table}"))).execute(&mut *conn).await?;
    }
    let mut next = frames.recv().await;
    while let Some(Frame::Table(name)) = next {
        next = fill(conn, manifest, &name, frames).await?;
    }
    ensure!(matches!(next, Some(Frame::End)), FileError::Abandoned);
    for counter in &manifest.counters {
        sqlx::query("select setval(pg_get_serial_sequence($1, $2)::regclass, $3)")
            .bind(quoted(&counter.table))
            .bind(&counter.column)
            .bind(counter.last + AHEAD)
            .execute(&mut *conn)
            .await?;
    }
    held::hold(conn, manifest.made_at).await?;
    record(conn, manifest).await?;
    sqlx::query("commit").execute(conn).await?;
    Ok(())
}

/// Fills one table; gives the frame that follows.
async fn fill(
    conn: &mut PgConnection,
    manifest: &Manifest,
    name: &str,
    frames: &mut mpsc::Receiver<Frame>,
) -> anyhow::Result<Option<Frame>> {
    let table = manifest.tables.iter().find(|table| table.name == name);
    let table = table.with_context(|| format!("the backup's manifest does not name its table {name}"))?;
    let statement = format!("copy {} ({}) from stdin", quoted(name), listed(&table.columns));
    let filling = || format!("the table {name} could not be filled");
    let mut copy = conn.copy_in_raw(&statement).await.with_context(filling)?;
    let next = loop {
        match frames.recv().await {
            Some(Frame::Rows(bytes)) => {
                copy.send(bytes).await.with_context(filling)?;
            }
            Some(next) => break next,
            None => {
                copy.abort("the backup has no end").await.with_context(filling)?;
                bail!(FileError::Abandoned);
            }
        }
    };
    copy.finish().await.with_context(filling)?;
    Ok(Some(next))
}

/// Into the record of changes. Not by [`record`](crate::admin::audit::record), which may name columns that a backup's older schema
/// has not.
async fn record(conn: &mut PgConnection, manifest: &Manifest) -> sqlx::Result<()> {
    sqlx::query(
        "insert into audit (actor, action, subject_kind, subject_id, after)
         values ('command line', 'installation.restore', 'installation', $1, $2)",
    )
    .bind(manifest.installation.to_string())
    .bind(json!({"made_at": manifest.made_at, "program": manifest.program, "schema": manifest.schema}))
    .execute(conn)
    .await?;
    Ok(())
}
