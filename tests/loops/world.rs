//! A private Postgres and the rows that the tests begin with.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use baal::app::App;
use baal::cloud::aleph::{Crn, Instance};
use baal::cloud::store::{self, Machine, Vm, VmState};
use baal::config::Config;
use baal::database::MIGRATIONS;
use baal::demo::postgres::Postgres;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

pub const OWNER: i64 = 7;
pub const OPERATOR: i64 = 9;
pub const BOT: i64 = 42;

pub struct World {
    pub app: App,
    postgres: Postgres,
    _dir: TempDir,
}

impl World {
    /// With these variables beside those that every test has.
    pub async fn new(variables: &[(&str, &str)]) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().expect("a directory");
        // The server's user must be able to pass.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        let postgres = Postgres::start(&dir.path().join("pg"), false).await.expect("Postgres starts");
        postgres.create_database("loops").await.expect("a database");
        let (key, program) = (dir.path().join("key"), dir.path().join("baal-agent"));
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen runs").success());
        std::fs::write(&program, static_program()).expect("a program");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("permissions");
        let mut environment: BTreeMap<String, String> = [
            ("TELEGRAM_BOT_TOKEN", format!("{BOT}:AAAAAAAAAAAAAAAAAAAA")),
            ("TELEGRAM_API_URL", "http://127.0.0.1:9".into()),
            ("TELEGRAM_MODE", "polling".into()),
            ("DATABASE_URL", postgres.url("loops")),
            ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".into()),
            ("LIBERTAI_API_KEY", "no-key".into()),
            ("LIBERTAI_API_BASE_URL", "http://127.0.0.1:9/v1".into()),
            ("CLOUD", "aleph".into()),
            ("ALEPH_PRIVATE_KEY", "11".repeat(32)),
            ("ALEPH_SSH_PRIVKEY_PATH", key.display().to_string()),
            ("BAAL_AGENT_BINARY", program.display().to_string()),
            ("OPERATOR_IDS", OPERATOR.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let app = App::new(Config::from_values(environment, vec![]).expect("valid")).expect("starts");
        MIGRATIONS.run(&app.db).await.expect("migrations");
        let world = Self { app, postgres, _dir: dir };
        world.run("insert into users (id, name) values (7, 'Ann')").await;
        world.run("insert into bots (bot_id, username) values (42, 'baal_bot')").await;
        world
    }

    pub async fn end(self) {
        self.app.db.close().await;
        self.postgres.stop().await.expect("Postgres stops");
    }

    pub async fn run(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.app.db).await.expect(sql);
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.app.db).await.expect(sql)
    }

    pub async fn installation(&self) -> Uuid {
        store::installation_id(&mut self.app.db.acquire().await.expect("a connection")).await.expect("reads")
    }

    /// A row of an instance with this hash.
    pub async fn vm(&self, item_hash: &str, state: VmState, agent_id: Option<i64>) -> Uuid {
        let crn = Crn { hash: "cc".repeat(32), url: "http://127.0.0.1:9".into(), name: "node".into() };
        let instance = Instance { item_hash: item_hash.to_owned(), crn, message: Value::Null };
        let vm = Vm {
            id: Uuid::now_v7(),
            agent_id,
            state,
            machine: Machine::Aleph(Box::new(instance)),
            host_key: None,
            name: None,
            touched: false,
        };
        let mut conn = self.app.db.acquire().await.expect("a connection");
        store::insert_machine(&mut conn, &vm).await.expect("inserted");
        sqlx::query("update vms set warm_since = now() where id = $1 and state = 'warm'")
            .bind(vm.id)
            .execute(&mut *conn)
            .await
            .expect("set");
        vm.id
    }

    /// A running agent at this address.
    pub async fn agent(&self, url: &str) -> i64 {
        sqlx::query_scalar(
            "insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, secret, status, url)
             values (7, 42, 7, 'Ada <b>', '', 'm', 'public', '', 'running', $1) returning id",
        )
        .bind(url)
        .fetch_one(&self.app.db)
        .await
        .expect("inserted")
    }

    /// What Telegram is to be told: chat and text, oldest first.
    pub async fn notices(&self) -> Vec<(i64, String)> {
        sqlx::query_as("select chat_id, payload ->> 'text' from outbox where kind = 'notice' order by id")
            .fetch_all(&self.app.db)
            .await
            .expect("reads")
    }
}

/// The head of a static program: ELF, 64 bits, x86-64, one segment. Nobody runs it here.
fn static_program() -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, value) in [(16, 3), (18, 62), (32, 64), (54, 56), (56, 1), (64, 1)] {
        file[at] = value;
    }
    file
}
