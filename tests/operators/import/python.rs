//! The Python system's databases, made by its schema, with whatever a test puts in.

use std::path::{Path, PathBuf};

use baal::vault::Vault;
use rusqlite::{Connection, params};

/// The key that both systems share in the tests.
pub const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

/// `baal.db` and `pool.db` in a directory.
pub struct Python {
    dir: PathBuf,
    pub db: Connection,
    pub pool: Connection,
}

/// A Fernet token as Python's cryptography makes it, under the key of both.
pub fn token(plain: &str) -> String {
    token_of(KEY, plain)
}

pub fn token_of(key: &str, plain: &str) -> String {
    let vault = Vault::new(&key.to_owned().into()).unwrap();
    String::from_utf8(vault.encrypt(plain.as_bytes())).unwrap()
}

/// The hash of an instance.
pub fn hash(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

impl Python {
    pub fn new(dir: &Path) -> Self {
        let db = Connection::open(dir.join("baal.db")).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        db.execute_batch(
            "create table users (telegram_id integer primary key, api_key text, show_tools boolean default 1,
               created_at text not null default (datetime('now')));
             create table agents (id integer primary key autoincrement, owner_id integer not null references users(telegram_id),
               name text not null, system_prompt text not null, model text default 'hermes-3-8b-tee', is_active boolean default 1,
               instance_hash text, vm_ipv6 text, vm_url text, crn_url text, auth_token text,
               deployment_status text default 'pending', created_at text not null default (datetime('now')),
               updated_at text not null default (datetime('now')));
             create table daily_usage (telegram_id integer not null, date text not null, message_count integer default 0,
               primary key (telegram_id, date));
             create table deployment_history (id integer primary key autoincrement,
               agent_id integer not null references agents(id), status text not null, step text, error_message text,
               duration_seconds integer, created_at text not null default (datetime('now')));
             pragma foreign_keys = off;",
        )
        .unwrap();
        let pool = Connection::open(dir.join("pool.db")).unwrap();
        pool.execute_batch(
            "create table vm_pool (id integer primary key autoincrement, instance_hash text not null, vm_ip text not null,
               vm_url text not null, crn_url text not null, ssh_port integer not null default 22, created_at text not null,
               claimed_at text, agent_id integer, status text not null default 'warm')",
        )
        .unwrap();
        Self { dir: dir.to_owned(), db, pool }
    }

    pub fn baal_db(&self) -> PathBuf {
        self.dir.join("baal.db")
    }

    pub fn pool_db(&self) -> PathBuf {
        self.dir.join("pool.db")
    }

    pub fn user(&self, id: i64, api_key: Option<&str>) {
        self.db
            .execute(
                "insert into users (telegram_id, api_key, created_at) values (?1, ?2, '2026-03-01T10:00:00.123456+00:00')",
                params![id, api_key],
            )
            .unwrap();
    }

    /// An agent as it is there after a deployment that went well, at this address.
    pub fn agent(&self, id: i64, owner: i64, instance_hash: &str, url: &str, secret: &str) {
        self.db
            .execute(
                "insert into agents (id, owner_id, name, system_prompt, model, instance_hash, vm_ipv6, vm_url, crn_url, auth_token,
                   deployment_status, created_at)
                 values (?1, ?2, 'Agent ' || ?1, 'You answer.', 'glm-4.7', ?3, '203.0.113.7', ?4, 'https://crn.example.org', ?5,
                   'running', '2026-03-02T10:00:00.123456+00:00')",
                params![id, owner, instance_hash, url, token(secret)],
            )
            .unwrap();
    }

    /// Changes a column of an agent.
    pub fn set(&self, id: i64, column: &str, value: impl rusqlite::ToSql) {
        let changed = self.db.execute(&format!("update agents set {column} = ?2 where id = ?1"), params![id, value]);
        assert_eq!(changed.unwrap(), 1);
    }

    pub fn used(&self, user: i64, day: &str, messages: i64) {
        self.db.execute("insert into daily_usage values (?1, ?2, ?3)", params![user, day, messages]).unwrap();
    }

    pub fn deployed(&self, agent: i64, status: &str, step: Option<&str>, error: Option<&str>, at: &str) {
        self.db
            .execute(
                "insert into deployment_history (agent_id, status, step, error_message, duration_seconds, created_at)
                 values (?1, ?2, ?3, ?4, 90, ?5)",
                params![agent, status, step, error, at],
            )
            .unwrap();
    }

    pub fn pooled(&self, instance_hash: &str, status: &str, agent: Option<i64>) {
        self.pool
            .execute(
                "insert into vm_pool (instance_hash, vm_ip, vm_url, crn_url, ssh_port, created_at, status, agent_id)
                 values (?1, '203.0.113.8', '', 'http://127.0.0.1:9', 24001, '2026-11-23T08:00:00+00:00', ?2, ?3)",
                params![instance_hash, status, agent],
            )
            .unwrap();
    }
}
