//! What is measured: a private Postgres, the program, agents.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use baal::config::Config;
use baal::demo::postgres::Postgres;
use baal::vault::Vault;
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

/// Says which of the other processes this program is to be.
pub const ROLE: &str = "BAAL_BENCH_ROLE";
/// What Telegram presents.
pub const SECRET: &str = "the-secret-of-the-webhook";
/// The bot's id, the beginning of its token.
pub const BOT: i64 = 1_000_000_001;
const TOKEN: &str = "1000000001:AAE-abcdefghijklmnopqrstuvwxyz01234";
/// The first user's id; the others follow.
pub const FIRST_USER: i64 = 2_000_000;

/// A process that ends with its owner.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // silent-ok: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts this program again as another; it tells its address on its first line.
pub fn start_role(role: &str, environment: &[(&str, String)]) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, role).stdout(Stdio::piped());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = command.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    Ok(Process { child, address: line.trim().parse().with_context(|| format!("{role} did not start"))? })
}

/// Postgres and what connects to it.
pub struct Stack {
    pub postgres: Postgres,
    pub dir: TempDir,
    /// What the program is told beside the usual.
    pub settings: Vec<(&'static str, String)>,
    key: String,
}

impl Stack {
    /// A new cluster on the disk of the build, with durable commits and its statements counted.
    pub async fn start() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR"))?;
        let data = dir.path().join("postgres");
        let postgres = Postgres::start(&data, true).await?;
        let mut conn = PgConnection::connect(&postgres.url("postgres")).await?;
        for setting in [
            "shared_preload_libraries = 'pg_stat_statements'",
            "max_connections = 300",
            "shared_buffers = '256MB'",
            "max_wal_size = '4GB'",
        ] {
            sqlx::query(AssertSqlSafe(format!("alter system set {setting}"))).execute(&mut conn).await?;
        }
        conn.close().await?;
        postgres.stop().await?;
        let postgres = Postgres::start(&data, true).await?;
        postgres.create_database("bench").await?;
        let stack = Self { postgres, dir, settings: vec![], key: Vault::generate_key().expose_secret().into() };
        let mut conn = stack.conn().await?;
        sqlx::query("create extension pg_stat_statements").execute(&mut conn).await?;
        Ok(stack)
    }

    pub async fn conn(&self) -> anyhow::Result<PgConnection> {
        Ok(PgConnection::connect(&self.postgres.url("bench")).await?)
    }

    /// The server's process.
    pub fn postgres_pid(&mut self) -> anyhow::Result<u32> {
        let pid = self.postgres.server().and_then(|server| server.pid()).context("Postgres does not run")?;
        Ok(pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn environment(&self, telegram: SocketAddr, listen: SocketAddr) -> Vec<(&'static str, String)> {
        let plain = [
            ("TELEGRAM_BOT_TOKEN", TOKEN),
            ("TELEGRAM_WEBHOOK_SECRET", SECRET),
            ("LIBERTAI_API_KEY", "sk-0123456789abcdef"),
            ("CLOUD", "local"),
            ("AGENT_ALLOW_PRIVATE", "true"),
            ("FREE_TIER_DAILY_MESSAGES", "1000000"),
            ("FLOOD_PER_MINUTE", "10000"),
            ("HEALTH_INTERVAL", "86400"),
            ("RUST_LOG", "warn,sqlx::pool::acquire=error"),
        ];
        let mut environment: Vec<_> = plain.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        environment.push(("BOT_ENCRYPTION_KEY", self.key.clone()));
        environment.push(("DATABASE_URL", self.postgres.url("bench")));
        environment.push(("TELEGRAM_API_URL", format!("http://{telegram}")));
        environment.push(("LIBERTAI_API_BASE_URL", format!("http://{telegram}/v1")));
        environment.push(("LISTEN_ADDR", listen.to_string()));
        environment.push(("LOCAL_DIR", self.dir.path().join("agents").display().to_string()));
        environment.extend(self.settings.iter().cloned());
        environment
    }

    /// The program's configuration, for what is called within this process.
    pub fn config(&self) -> anyhow::Result<Config> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let values = self.environment(nowhere, nowhere).into_iter().map(|(name, value)| (name.to_owned(), value));
        Ok(Config::from_values(values.filter(|(name, _)| name != "RUST_LOG").collect(), vec![])?)
    }

    /// Starts the program and waits until it is ready.
    pub async fn baal(&self, telegram: SocketAddr, arguments: &[&str]) -> anyhow::Result<Process> {
        let address = free_address()?;
        let mut command = Command::new(program());
        command.args(arguments).arg("--no-env-file").env_clear().envs(self.environment(telegram, address));
        let process = Process { child: command.current_dir(self.dir.path()).stdin(Stdio::null()).spawn()?, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        let ready = format!("http://{address}/readyz");
        while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
            anyhow::ensure!(Instant::now() < deadline, "baal is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(process)
    }

    /// As many users as this, with those that there are; each of them talks to an agent of their own at this address.
    pub async fn people(&self, count: usize, agents: SocketAddr) -> anyhow::Result<()> {
        let vault = Vault::new(&self.key.clone().into()).context("a key")?;
        sqlx::query(
            "with people as (
               insert into users (id, name) select $1 + n, 'User ' || n from generate_series(0, $2 - 1) n
               on conflict do nothing returning id),
             made as (
               insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, url,
                                   protocol, deployed_version)
               select id, $3, id, 'Ada', 'be kind', 'qwen3-coder-next', 'public', 'running', $4, $5, 3, 1 from people
               returning id, owner_id),
             ways as (insert into links (agent_id) select id from made),
             words as (
               insert into agent_versions (agent_id, version, name, system_prompt, model)
               select id, 1, 'Ada', 'be kind', 'qwen3-coder-next' from made)
             insert into conversations (bot_id, chat_id, agent_id) select $3, owner_id, id from made
             on conflict (bot_id, chat_id) do update set agent_id = excluded.agent_id",
        )
        .bind(FIRST_USER)
        .bind(i32::try_from(count)?)
        .bind(BOT)
        .bind(vault.encrypt(b"the-secret-of-an-agent"))
        .bind(format!("http://{agents}"))
        .execute(&mut self.conn().await?)
        .await?;
        Ok(())
    }
}

/// The program beside this one; cargo builds it with the benchmark.
fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_baal").into()
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
