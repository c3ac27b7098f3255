//! `baal rotate-keys`: everything that is stored encrypted is brought under the first of BOT_ENCRYPTION_KEY, while programs run.
//!
//! A value is replaced only where it still is what was read, in one short statement, and nobody who holds a row is waited for: so
//! a concurrent writer wins, no cycle of waiting can arise, and the command can be killed at any line and run again. What it has
//! not come to is under a key that decrypts, as long as that is in the list.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool, Row as _};

use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::config::Config;
use crate::database;
use crate::vault::Vault;

/// Rows that are read, and written, at once.
const PAGE: usize = 500;
/// How often a column is gone through before it is left to another run.
const PASSES: usize = 10;
/// How many of the values that no key opens are named, of each column.
const NAMED: usize = 50;
/// After so many rows it is said how far it is.
const TELL_EVERY: u64 = 100_000;

/// How to.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Change nothing; count what is under which key.
    #[arg(long)]
    check: bool,
}

/// A column of Fernet tokens; empty where what it told is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The table.
    pub table: &'static str,
    /// Of type bytea.
    pub name: &'static str,
    /// The primary key: names and types.
    key: &'static [(&'static str, &'static str)],
}

/// All columns that hold what BOT_ENCRYPTION_KEY encrypts. Every other of type bytea holds hashes.
pub const COLUMNS: [Column; 7] = [
    Column { table: "users", name: "libertai_key", key: &[("id", "int8")] },
    Column { table: "agents", name: "secret", key: &[("id", "int8")] },
    Column { table: "links", name: "token", key: &[("id", "int8")] },
    Column { table: "updates", name: "body", key: &[("bot_id", "int8"), ("update_id", "int8")] },
    Column { table: "turns", name: "request", key: &[("id", "uuid")] },
    Column { table: "errands", name: "request", key: &[("id", "uuid")] },
    Column { table: "idempotency", name: "body", key: &[("token_id", "int8"), ("key", "text")] },
];

/// A stored value, and its row's primary key as texts.
struct Stored {
    key: Vec<String>,
    value: Vec<u8>,
}

/// How the values of a column stand to the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many need which key, by its place in the list, from 0.
    pub under: BTreeMap<usize, u64>,
    /// The rows whose value no key opens, by their primary keys.
    pub unreadable: Vec<String>,
}

impl Standing {
    /// How many values are under a key that is not the first.
    pub fn outdated(&self) -> u64 {
        self.under.iter().filter(|(key, _)| **key > 0).map(|(_, count)| count).sum()
    }

    fn note(&mut self, key: Option<usize>, row: &Stored) {
        match key {
            Some(key) => *self.under.entry(key).or_default() += 1,
            None => self.unreadable.push(named(&row.key)),
        }
    }
}

/// What has become of a column.
#[derive(Debug, Default)]
struct Rotated {
    renewed: u64,
    /// As the last pass found it.
    standing: Standing,
}

/// Does it, and says what was done.
pub async fn run(config: &Config, options: Options) -> anyhow::Result<()> {
    let db = database::connect_lazily(config)?;
    let vault = &config.vault;
    if options.check {
        return check(&db, vault).await;
    }
    let (mut renewed, mut counts) = (0, BTreeMap::new());
    let (mut outdated, mut unreadable) = (0, 0);
    for column in COLUMNS {
        let what = format!("{}.{}", column.table, column.name);
        let done = rotate(&db, vault, column).await.with_context(|| unlooked(column))?;
        let standing = &done.standing;
        println!("{what}: {} encrypted anew, {} under the first key", done.renewed, of(standing, 0));
        tell_unreadable(&what, standing);
        renewed += done.renewed;
        outdated += standing.outdated();
        unreadable += standing.unreadable.len();
        if done.renewed > 0 {
            counts.insert(what, done.renewed);
        }
    }
    if renewed > 0 {
        let after = json!({"encrypted_anew": counts, "unreadable": unreadable});
        let change = Change {
            action: "keys.rotate",
            kind: "installation",
            id: String::new(),
            user_id: None,
            before: serde_json::Value::Null,
            after,
        };
        let mut conn = db.acquire().await.context("the database does not answer")?;
        audit::record(&mut conn, &Caller::command_line(), change)
            .await
            .context("everything is encrypted anew, but the record of changes could not be written")?;
    }
    if unreadable > 0 {
        bail!(unopened(unreadable));
    }
    if outdated > 0 {
        bail!(
            "{outdated} values are still, or again, under another key than the first. Somebody still encrypts under it: restart \
             every program with the new order of BOT_ENCRYPTION_KEY, and run this again."
        );
    }
    println!(
        "Everything is under the first key.{}",
        match vault.size() {
            1 => "",
            _ => " The others can be taken out of BOT_ENCRYPTION_KEY; backups made until now need them.",
        }
    );
    Ok(())
}

async fn check(db: &PgPool, vault: &Vault) -> anyhow::Result<()> {
    let (mut outdated, mut unreadable) = (0, 0);
    for column in COLUMNS {
        let what = format!("{}.{}", column.table, column.name);
        let standing = standing(db, vault, column).await.with_context(|| unlooked(column))?;
        let counts: Vec<_> =
            (0..vault.size()).map(|key| format!("{} under key {}", of(&standing, key), key + 1)).collect();
        println!("{what}: {}", counts.join(", "));
        tell_unreadable(&what, &standing);
        outdated += standing.outdated();
        unreadable += standing.unreadable.len();
    }
    match outdated {
        0 => println!("Nothing is under another key than the first."),
        n => println!("{n} values are under another key than the first; `baal rotate-keys` encrypts them anew."),
    }
    if unreadable > 0 {
        bail!(unopened(unreadable));
    }
    Ok(())
}

fn of(standing: &Standing, key: usize) -> u64 {
    standing.under.get(&key).copied().unwrap_or(0)
}

fn unlooked(column: Column) -> String {
    format!("{} cannot be gone through (run `baal migrate` if the schema is older than this program)", column.table)
}

fn unopened(count: usize) -> String {
    format!(
        "no key opens {count} stored values, named above. If you have the key that they are under, put it behind the others in \
         BOT_ENCRYPTION_KEY and run this again; if it is lost, so are they (docs/keeping.md says what that means for each)."
    )
}

fn tell_unreadable(what: &str, standing: &Standing) {
    for key in standing.unreadable.iter().take(NAMED) {
        println!("  ✘ {what} of {key}: no key opens it");
    }
    if standing.unreadable.len() > NAMED {
        println!("  ✘ and {} more", standing.unreadable.len() - NAMED);
    }
}

/// A primary key in words. What it consists of may have been chosen by others, so it is escaped.
fn named(key: &[String]) -> String {
    match key {
        [one] => one.escape_debug().to_string(),
        several => {
            format!("({})", several.iter().map(|part| part.escape_debug().to_string()).collect::<Vec<_>>().join(", "))
        }
    }
}

/// How all values of a column stand. Reads them in pages, and holds nothing.
pub async fn standing(db: &PgPool, vault: &Vault, column: Column) -> sqlx::Result<Standing> {
    let mut standing = Standing::default();
    let mut after = None;
    loop {
        let rows = page(db, column, after.as_deref(), true, PAGE).await?;
        for row in rows.iter().filter(|row| !row.value.is_empty()) {
            standing.note(vault.key_of(&row.value), row);
        }
        if rows.len() < PAGE {
            return Ok(standing);
        }
        after = rows.into_iter().last().map(|row| row.key);
    }
}

/// How the first and last `some` rows of a column stand, by its primary key.
pub async fn sample(db: &PgPool, vault: &Vault, column: Column, some: usize) -> sqlx::Result<Standing> {
    let mut rows = BTreeMap::new();
    for up in [true, false] {
        rows.extend(page(db, column, None, up, some).await?.into_iter().map(|row| (row.key, row.value)));
    }
    let mut standing = Standing::default();
    for (key, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        standing.note(vault.key_of(&value), &Stored { key, value });
    }
    Ok(standing)
}

/// Goes through a column until nothing of it is under another key, or as often as makes sense.
async fn rotate(db: &PgPool, vault: &Vault, column: Column) -> sqlx::Result<Rotated> {
    let mut done = Rotated::default();
    for pass in 0..PASSES {
        if pass > 1 {
            // Whoever holds a row has let go of it by then.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        done.standing = pass_through(db, vault, column, &mut done.renewed).await?;
        if done.standing.outdated() == 0 {
            break;
        }
    }
    Ok(done)
}

/// One pass; how the column stood before it.
async fn pass_through(db: &PgPool, vault: &Vault, column: Column, renewed: &mut u64) -> sqlx::Result<Standing> {
    let (mut standing, mut seen) = (Standing::default(), 0_u64);
    let mut after = None;
    loop {
        let rows = page(db, column, after.as_deref(), true, PAGE).await?;
        let mut changes = Vec::new();
        for row in rows.iter().filter(|row| !row.value.is_empty()) {
            let key = vault.key_of(&row.value);
            standing.note(key, row);
            if key.is_some_and(|key| key > 0)
                && let Ok(value) = vault.renew(&row.value)
            {
                changes.push((row, value));
            }
        }
        if !changes.is_empty() {
            *renewed += replace(db, column, &changes).await?;
        }
        let before = seen / TELL_EVERY;
        seen += rows.len() as u64;
        if seen / TELL_EVERY > before {
            println!("{}.{}: {seen} rows looked at, {renewed} encrypted anew", column.table, column.name);
        }
        if rows.len() < PAGE {
            return Ok(standing);
        }
        after = rows.into_iter().last().map(|row| row.key);
    }
}

/// The rows behind this key, in the order of the primary key, empty ones too: so each page takes as long as the others.
async fn page(
    db: &PgPool,
    column: Column,
    after: Option<&[String]>,
    up: bool,
    limit: usize,
) -> sqlx::Result<Vec<Stored>> {
    let list = |part: &dyn Fn(usize, &str, &str) -> String| -> String {
        let parts = column.key.iter().enumerate().map(|(index, (name, kind))| part(index, name, kind));
        parts.collect::<Vec<_>>().join(", ")
    };
    let behind = match after {
        Some(_) => format!(
            "where ({}) > ({})",
            list(&|_, name, _| name.into()),
            list(&|index, _, kind| format!("${}::text::{kind}", index + 1))
        ),
        None => String::new(),
    };
    let order = if up { "" } else { " desc" };
    // Made of the constants above alone.
    let statement = format!(
        "select {}, coalesce({}, '') as value from {} {behind} order by {} limit {limit}",
        list(&|index, name, _| format!("{name}::text as key_{index}")),
        column.name,
        column.table,
        list(&|_, name, _| format!("{name}{order}")),
    );
    let mut query = sqlx::query(AssertSqlSafe(statement));
    for part in after.into_iter().flatten() {
        query = query.bind(part);
    }
    let rows = query.fetch_all(db).await?;
    rows.into_iter()
        .map(|row| {
            let key = (0..column.key.len()).map(|index| row.try_get(index)).collect::<sqlx::Result<_>>()?;
            Ok(Stored { key, value: row.try_get("value")? })
        })
        .collect()
}

/// Puts new values into the place of what was read, where it still is that and nobody holds the row. How many were replaced.
async fn replace(db: &PgPool, column: Column, changes: &[(&Stored, Vec<u8>)]) -> sqlx::Result<u64> {
    let keys = column.key.len();
    let parts = |part: &dyn Fn(usize, &str, &str) -> String, between: &str| -> String {
        let parts = column.key.iter().enumerate().map(|(index, (name, kind))| part(index, name, kind));
        parts.collect::<Vec<_>>().join(between)
    };
    let (table, name) = (column.table, column.name);
    // The lock asks again whether the value is the one that was read: a writer may have been at it.
    let statement = format!(
        "with n as materialized (select * from unnest({}, ${}::bytea[], ${}::bytea[]) n ({}, read, renewed)),
         held as materialized (
           select {} from n join {table} t on {} where t.{name} = n.read for no key update of t skip locked)
         update {table} t set {name} = n.renewed from held, n where {} and {} and t.{name} = n.read",
        parts(&|index, _, _| format!("${}::text[]", index + 1), ", "),
        keys + 1,
        keys + 2,
        parts(&|index, _, _| format!("key_{index}"), ", "),
        parts(&|index, name, _| format!("t.{name} as key_{index}"), ", "),
        parts(&|index, name, kind| format!("t.{name} = n.key_{index}::{kind}"), " and "),
        parts(&|index, name, _| format!("t.{name} = held.key_{index}"), " and "),
        parts(&|index, name, kind| format!("t.{name} = n.key_{index}::{kind}"), " and "),
    );
    let mut query = sqlx::query(AssertSqlSafe(statement));
    for index in 0..keys {
        query = query.bind(changes.iter().map(|(row, _)| row.key[index].as_str()).collect::<Vec<_>>());
    }
    let read: Vec<&[u8]> = changes.iter().map(|(row, _)| row.value.as_slice()).collect();
    let renewed: Vec<&[u8]> = changes.iter().map(|(_, renewed)| renewed.as_slice()).collect();
    Ok(query.bind(read).bind(renewed).execute(db).await?.rows_affected())
}
