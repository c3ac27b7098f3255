//! The Python system's databases, read. Columns are looked up by name and read whatever type SQLite kept in them: older versions
//! have fewer columns, and people edit databases by hand.
//!
//! What is known of them is from Baal's public source (github.com/Libertai/baal, `database/db.py` and
//! `services/pool_manager.py`): tables `users`, `agents`, `daily_usage`, `deployment_history`, and `vm_pool` in a file of its own.

use std::path::Path;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, NaiveDate, Utc};

use super::sqlite::{columns, open, rows};

/// A person.
#[derive(Debug, Default)]
pub struct User {
    /// Telegram's number.
    pub id: i64,
    /// Meant to be a Fernet token.
    pub api_key: Option<String>,
    /// Whether answers keep the lines that tell of tool calls.
    pub show_tools: bool,
    /// When they first wrote.
    pub created_at: Option<DateTime<Utc>>,
}

/// An agent.
#[derive(Debug, Default)]
pub struct Agent {
    /// The number in its link.
    pub id: i64,
    /// Telegram's number of its owner.
    pub owner_id: i64,
    /// Any text.
    pub name: String,
    /// Any text.
    pub system_prompt: String,
    /// A model's id.
    pub model: Option<String>,
    /// Whether it was not deleted.
    pub is_active: bool,
    /// Its instance at Aleph Cloud.
    pub instance_hash: Option<String>,
    /// Where it is reached.
    pub vm_url: Option<String>,
    /// The compute node that its instance is on.
    pub crn_url: Option<String>,
    /// Its bearer secret; meant to be a Fernet token.
    pub auth_token: Option<String>,
    /// `pending`, `deploying`, `running`, `failed`, `stopped`, or of other versions.
    pub status: String,
    /// When it was created.
    pub created_at: Option<DateTime<Utc>>,
}

/// Somebody's messages of a day.
#[derive(Debug)]
pub struct Usage {
    /// Telegram's number.
    pub user_id: i64,
    /// By the clock of the server that it ran on.
    pub day: NaiveDate,
    /// How many.
    pub messages: i64,
}

/// What was noted of a deployment: its end, where nothing else is.
#[derive(Debug, Default, Clone)]
pub struct Event {
    /// The row.
    pub id: i64,
    /// Whose.
    pub agent_id: i64,
    /// `success` or `failed`.
    pub status: String,
    /// At which step it failed.
    pub step: Option<String>,
    /// Of what.
    pub error: Option<String>,
    /// How long it had taken.
    pub seconds: Option<i64>,
    /// When it was noted.
    pub at: Option<DateTime<Utc>>,
}

/// A machine of the pool.
#[derive(Debug, Default)]
pub struct Pooled {
    /// Its instance at Aleph Cloud; `pending` until it has one.
    pub instance_hash: String,
    /// The compute node that it is on.
    pub crn_url: Option<String>,
    /// Whose it is, once it is deployed.
    pub agent_id: Option<i64>,
    /// `provisioning`, `warm`, `claimed`, `deployed`, `failed`.
    pub status: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Source {
    /// By number.
    pub users: Vec<User>,
    /// By number, deleted ones among them.
    pub agents: Vec<Agent>,
    /// In no order.
    pub usage: Vec<Usage>,
    /// In the order in which they were noted.
    pub history: Vec<Event>,
    /// In the order in which they were made.
    pub pool: Vec<Pooled>,
    /// The largest number that an agent ever had.
    pub last_agent_id: i64,
    /// Rows that could not be read, by table.
    pub unreadable: Vec<(&'static str, u64)>,
}

/// Reads both databases; each as it was at one moment.
pub fn read(database: &Path, pool: Option<&Path>) -> anyhow::Result<Source> {
    let mut source = Source::default();
    let conn = open(database)?;
    let what = || format!("{} cannot be read", database.display());
    let is_pool = columns(&conn, "vm_pool").with_context(what)?.iter().any(|column| column == "instance_hash");
    for (table, needed) in [("users", &["telegram_id"][..]), ("agents", &["id", "owner_id", "name"])] {
        let there = columns(&conn, table).with_context(what)?;
        let hint = if is_pool { " It is the pool's, which belongs after --pool-db." } else { "" };
        ensure!(
            !there.is_empty(),
            "{} is not the Python system's database: it has no table `{table}`.{hint}",
            database.display()
        );
        for column in needed {
            ensure!(
                there.iter().any(|known| known == column),
                "{} is not the Python system's database: its table `{table}` has no column `{column}`",
                database.display()
            );
        }
    }
    rows(&conn, "users", &mut source.users, &mut source.unreadable, |row| {
        Some(User {
            id: row.integer("telegram_id")?,
            api_key: row.text("api_key"),
            show_tools: row.truth("show_tools").unwrap_or(false),
            created_at: row.time("created_at"),
        })
    })
    .with_context(what)?;
    rows(&conn, "agents", &mut source.agents, &mut source.unreadable, |row| {
        Some(Agent {
            id: row.integer("id")?,
            owner_id: row.integer("owner_id")?,
            name: row.text("name").unwrap_or_default(),
            system_prompt: row.text("system_prompt").unwrap_or_default(),
            model: row.text("model"),
            // A column that is not there, or says nothing, does not delete anything.
            is_active: row.truth("is_active").unwrap_or(true),
            instance_hash: row.text("instance_hash"),
            vm_url: row.text("vm_url"),
            crn_url: row.text("crn_url"),
            auth_token: row.text("auth_token"),
            status: row.text("deployment_status").unwrap_or_default(),
            created_at: row.time("created_at"),
        })
    })
    .with_context(what)?;
    rows(&conn, "daily_usage", &mut source.usage, &mut source.unreadable, |row| {
        Some(Usage {
            user_id: row.integer("telegram_id")?,
            day: row.text("date")?.trim().parse().ok()?,
            messages: row.integer("message_count")?,
        })
    })
    .with_context(what)?;
    rows(&conn, "deployment_history", &mut source.history, &mut source.unreadable, |row| {
        Some(Event {
            id: row.integer("id")?,
            agent_id: row.integer("agent_id")?,
            status: row.text("status")?,
            step: row.text("step"),
            error: row.text("error_message"),
            seconds: row.integer("duration_seconds"),
            at: row.time("created_at"),
        })
    })
    .with_context(what)?;
    let last = conn.query_row("select seq from sqlite_sequence where name = 'agents'", [], |row| row.get(0));
    // silent-ok: a database without the table, or without a row in it, has given no number that is not in its rows
    source.last_agent_id = source.agents.iter().map(|agent| agent.id).chain(last.ok()).max().unwrap_or(0);
    if let Some(pool) = pool {
        read_pool(pool, &mut source)?;
    }
    source.users.sort_by_key(|user| user.id);
    source.agents.sort_by_key(|agent| agent.id);
    source.history.sort_by_key(|event| event.id);
    Ok(source)
}

fn read_pool(path: &Path, source: &mut Source) -> anyhow::Result<()> {
    let conn = open(path)?;
    let what = || format!("{} cannot be read", path.display());
    let there = columns(&conn, "vm_pool").with_context(what)?;
    ensure!(
        ["instance_hash", "status"].iter().all(|column| there.iter().any(|known| known == column)),
        "{} is not the Python system's pool database: it has no table `vm_pool` with `instance_hash` and `status`",
        path.display()
    );
    rows(&conn, "vm_pool", &mut source.pool, &mut source.unreadable, |row| {
        Some(Pooled {
            instance_hash: row.text("instance_hash")?,
            crn_url: row.text("crn_url"),
            agent_id: row.integer("agent_id"),
            status: row.text("status").unwrap_or_default(),
        })
    })
    .with_context(what)
}
