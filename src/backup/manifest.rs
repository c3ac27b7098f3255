//! What a backup says of itself.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys::Keys;

/// The form of the file that this program writes and reads.
pub const FORMAT: u32 = 1;

/// A backup's description of itself, its first part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of the program that made it.
    pub program: String,
    /// The last migration of the schema that it is of.
    pub schema: i64,
    /// The server's version.
    pub postgres: String,
    /// Of when its content is, by the database's clock: everything in it is older.
    pub made_at: DateTime<Utc>,
    /// `installation.id`.
    pub installation: Uuid,
    /// In an order in which each refers only to those before it.
    pub tables: Vec<Table>,
    /// Where columns that count by themselves stand.
    pub counters: Vec<Counter>,
    /// What it holds, for people.
    pub summary: Summary,
    /// What opens it.
    pub keys: Keys,
}

/// A table and those of its columns that have rows' values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// In the order in which its rows have them.
    pub columns: Vec<String>,
}

/// An identity column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its table.
    pub table: String,
    /// Its name.
    pub column: String,
    /// The last number that was given; 0 where none was.
    pub last: i64,
}

/// What a backup holds, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct Summary {
    /// People.
    pub users: i64,
    /// Agents that are not deleted.
    pub agents: i64,
    /// Machines that are not certainly gone.
    pub machines: i64,
    /// Updates that are not handled.
    pub updates: i64,
    /// Turns that have not ended.
    pub turns: i64,
    /// Calls to Telegram that are not made.
    pub sends: i64,
    /// Jobs that have not ended.
    pub jobs: i64,
    /// Errands that have not ended.
    pub errands: i64,
}

impl Summary {
    /// How many rows a table has at least, by this.
    pub fn least(&self, table: &str) -> i64 {
        match table {
            "users" => self.users,
            "agents" => self.agents,
            "vms" => self.machines,
            "updates" => self.updates,
            "turns" => self.turns,
            "outbox" => self.sends,
            "jobs" => self.jobs,
            "errands" => self.errands,
            _ => 0,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { users, agents, machines, updates, turns, sends, jobs, errands } = self;
        write!(
            f,
            "{users} users, {agents} agents, {machines} machines; unfinished: {updates} updates, {turns} turns, {sends} sends, \
             {jobs} jobs, {errands} errands"
        )
    }
}

#[cfg(test)]
pub mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    /// The key in it.
    pub const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

    /// One of a small backup.
    pub fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            program: "0.1.0".into(),
            schema: 5,
            postgres: "17.1".into(),
            made_at: DateTime::UNIX_EPOCH,
            installation: Uuid::nil(),
            tables: vec![Table { name: "users".into(), columns: vec!["id".into(), "name".into()] }],
            counters: vec![Counter { table: "agents".into(), column: "id".into(), last: 7 }],
            summary: Summary::default(),
            keys: Keys {
                encryption: KEY.to_owned().into(),
                ssh: None,
                ca: None,
                ca_key: Some("pem".to_owned().into()),
            },
        }
    }

    #[test]
    fn keys_are_kept_and_not_shown() {
        let manifest = manifest();
        let json = serde_json::to_string(&manifest).expect("JSON");
        let again: Manifest = serde_json::from_str(&json).expect("reads");
        assert_eq!(again.keys.encryption.expose_secret(), KEY);
        assert_eq!(again.keys.ca_key.as_ref().map(|key| key.expose_secret()), Some("pem"));
        assert!(!format!("{again:?}").contains(KEY));
    }
}
