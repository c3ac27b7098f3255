//! A private Postgres, a directory for agents, and what the tests want to know of both.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baal::agents::service::{self, NewAgent};
use baal::agents::{Agent, Status, store};
use baal::app::App;
use baal::cloud;
use baal::config::{Config, Visibility};
use baal::database::MIGRATIONS;
use baal::demo::postgres::Postgres;
use baal::jobs;
use baal::replica::Replica;
use baal::wake::Queue;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const OWNER: i64 = 7;
const BOT: i64 = 42;

pub struct World {
    pub app: App,
    environment: BTreeMap<String, String>,
    postgres: Option<Postgres>,
    dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().expect("a directory");
        // The server's user must be able to pass.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        let postgres = Postgres::start(&dir.path().join("pg"), false).await.expect("Postgres starts");
        postgres.create_database("jobs").await.expect("a database");
        let program = Self::program();
        let environment: BTreeMap<String, String> = [
            ("TELEGRAM_BOT_TOKEN", format!("{BOT}:AAAAAAAAAAAAAAAAAAAA")),
            // Nobody listens there: these tests look at the outbox.
            ("TELEGRAM_API_URL", "http://127.0.0.1:9".into()),
            ("TELEGRAM_MODE", "polling".into()),
            ("DATABASE_URL", postgres.url("jobs")),
            ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".into()),
            ("LIBERTAI_API_KEY", "no-key".into()),
            ("LIBERTAI_API_BASE_URL", "http://127.0.0.1:9/v1".into()),
            ("CLOUD", "local".into()),
            ("LOCAL_DIR", dir.path().join("agents").display().to_string()),
            ("BAAL_AGENT_BINARY", program),
            ("LEASE_SECONDS", "2".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let app = app(&environment);
        MIGRATIONS.run(&app.db).await.expect("migrations");
        sqlx::query("insert into users (id, name) values ($1, 'Ann')")
            .bind(OWNER)
            .execute(&app.db)
            .await
            .expect("user");
        sqlx::query("insert into bots (bot_id, username) values ($1, 'baal_bot')")
            .bind(BOT)
            .execute(&app.db)
            .await
            .expect("bot");
        Self { app, environment, postgres: Some(postgres), dir }
    }

    /// The agent's program.
    pub fn program() -> String {
        let built = || Path::new(env!("CARGO_BIN_EXE_baal")).with_file_name("baal-agent").display().to_string();
        std::env::var("BAAL_AGENT_BINARY").unwrap_or_else(|_| built())
    }

    /// The same, but with this variable set.
    pub async fn with_setting(name: &str, value: &str) -> Self {
        let mut world = Self::new().await;
        world.environment.insert(name.into(), value.into());
        world.app = app(&world.environment);
        world
    }

    /// The same with a worker, and with an agent that runs.
    pub async fn with_agent() -> (Self, Worker, Agent) {
        let world = Self::new().await;
        let worker = world.worker().await;
        let agent = world.create().await.expect("created");
        let agent = world.wait_for(agent.id, Status::Running).await;
        (world, worker, agent)
    }

    /// The same, but agents are this shell script.
    pub async fn with_program(script: &str) -> Self {
        let mut world = Self::new().await;
        let path = world.dir.path().join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permissions");
        world.environment.insert("BAAL_AGENT_BINARY".into(), path.display().to_string());
        world.app = app(&world.environment);
        world
    }

    /// From now on LOCAL_DIR is another directory, as after a start in another place.
    pub fn use_other_local_dir(&mut self) {
        self.environment.insert("LOCAL_DIR".into(), self.dir.path().join("other").display().to_string());
        self.app = app(&self.environment);
    }

    pub fn agents_dir(&self) -> PathBuf {
        self.dir.path().join("agents")
    }

    /// Directories of agents that exist.
    pub fn directories(&self) -> usize {
        std::fs::read_dir(self.agents_dir()).map_or(0, |entries| {
            entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count()
        })
    }

    /// Agents: processes whose arguments name a configuration below our directory, but for copies that an agent made of
    /// itself, which have its arguments until they become what they are to be.
    pub fn processes(&self) -> Vec<i32> {
        let all = self.running(&format!("--config\0{}/", self.agents_dir().display()));
        all.iter().copied().filter(|pid| parent(*pid).is_none_or(|parent| !all.contains(&parent))).collect()
    }

    /// What an agent's start or a call of its tools began included, which ends a moment after its agent does.
    fn all_processes(&self) -> Vec<i32> {
        self.running(&format!("{}/", self.agents_dir().display()))
    }

    /// Whose arguments contain this; NUL stands between arguments.
    fn running(&self, arguments: &str) -> Vec<i32> {
        let pids = std::fs::read_dir("/proc").expect("proc");
        let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(arguments))
        })
        .collect()
    }

    async fn wait_until_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.all_processes().is_empty() {
            assert!(Instant::now() < deadline, "these outlive their agents: {:?}", self.all_processes());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn conn(&self) -> PgConnection {
        let url = &self.environment["DATABASE_URL"];
        PgConnection::connect(url).await.expect("a connection")
    }

    pub async fn create(&self) -> Result<Agent, service::ServiceError> {
        let mut tx = self.app.db.begin().await?;
        let new = NewAgent {
            owner_id: OWNER,
            bot_id: BOT,
            chat_id: OWNER,
            name: "Ada 🤖 <b>".into(),
            system_prompt: "be kind".into(),
            model: "qwen3-coder-next".into(),
            visibility: Visibility::Public,
        };
        let agent = service::create(&mut tx, &self.app, new).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Jobs);
        Ok(agent)
    }

    pub async fn delete(&self, agent: &Agent) -> Result<Agent, service::ServiceError> {
        let mut tx = self.app.db.begin().await?;
        let agent = service::delete(&mut tx, OWNER, agent.id).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Jobs);
        Ok(agent)
    }

    pub async fn stop(&self, agent: &Agent) -> Result<Agent, service::ServiceError> {
        let mut tx = self.app.db.begin().await?;
        let agent = service::stop(&mut tx, OWNER, agent.id).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Jobs);
        Ok(agent)
    }

    pub async fn start(&self, agent: &Agent) -> Result<Agent, service::ServiceError> {
        let mut tx = self.app.db.begin().await?;
        let agent = service::start(&mut tx, OWNER, agent.id).await?;
        tx.commit().await?;
        self.app.wake.wake(Queue::Jobs);
        Ok(agent)
    }

    pub async fn agent(&self, id: i64) -> Agent {
        let mut conn = self.app.db.acquire().await.expect("a connection");
        store::get(&mut conn, id).await.expect("reads").expect("exists")
    }

    pub async fn wait_for(&self, id: i64, status: Status) -> Agent {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let agent = self.agent(id).await;
            if agent.status == status {
                return agent;
            }
            assert!(Instant::now() < deadline, "{agent:?} should be {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.app.db).await.expect("counts")
    }

    /// The texts of edits that wait in the outbox, oldest first.
    pub async fn edits(&self) -> Vec<serde_json::Value> {
        let payloads: Vec<sqlx::types::Json<serde_json::Value>> =
            sqlx::query_scalar("select payload from outbox where method = 'editMessageText' order by id")
                .fetch_all(&self.app.db)
                .await
                .expect("reads");
        payloads.into_iter().map(|payload| payload.0).collect()
    }

    /// Whether the agent answers as the one that it is.
    pub async fn answers(&self, agent: &Agent) -> bool {
        let Some(url) = &agent.url else { return false };
        match self.app.agents_http.of(false).get(&format!("{url}/health")).expect("allowed").send().await {
            Ok(answer) => {
                answer.json::<baal_protocol::Health>().await.is_ok_and(|health| health.agent_name == agent.name)
            }
            Err(_) => false,
        }
    }

    /// Works at jobs within this process.
    pub async fn worker(&self) -> Worker {
        let stop = CancellationToken::new();
        let replica = Replica::register(&self.app, true).await.expect("registers");
        let (app, token) = (self.app.clone(), stop.clone());
        let task = tokio::spawn(async move {
            tokio::join!(
                baal::serve::stay_alive(&app, &replica, &token),
                jobs::worker::run(&app, &replica, &token),
                cloud::supervisor::supervise(&app, &replica, &token),
            );
            replica.leave(&app.db).await;
        });
        Worker { stop, task }
    }

    /// `baal worker` as a process of its own.
    pub fn process(&self) -> Process {
        let child = Command::new(env!("CARGO_BIN_EXE_baal"))
            .arg("worker")
            .env_clear()
            .envs(&self.environment)
            .env("RUST_LOG", "warn")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("baal worker starts");
        Process(child)
    }

    pub async fn end(mut self) {
        cloud::local::stop_all(&self.agents_dir()).await.expect("agents stop");
        assert_eq!(self.processes(), Vec::<i32>::new());
        self.wait_until_empty().await;
        self.app.db.close().await;
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await.expect("Postgres stops");
        }
    }
}

impl Drop for World {
    /// Nothing of a failed test stays behind.
    fn drop(&mut self) {
        for pid in self.all_processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // silent-ok: it has ended meanwhile.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The parent of a process; none if it has ended.
fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn app(environment: &BTreeMap<String, String>) -> App {
    App::new(Config::from_values(environment.clone(), vec![]).expect("valid")).expect("starts")
}

pub struct Worker {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Worker {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("ends");
    }
}

/// Killed when dropped.
pub struct Process(Child);

impl Process {
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).expect("signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("reaped");
    }
}
