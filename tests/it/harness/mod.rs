//! Everything that a test of the whole program needs: a database of its own, simulators, and one or more `baal serve`,
//! all on free ports, all gone when the test ends.

mod browser;
mod cluster;
pub mod count;
mod ports;
mod program;
mod python;
mod simulator;
mod transcript;
mod user;

use std::path::PathBuf;
use std::time::Duration;

use baal::demo::supervised::tail;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

#[allow(unused_imports, reason = "only some tests look at pages")]
pub use browser::Browser;
pub use cluster::database;
pub use ports::free_port;
pub use program::Baal;
#[allow(unused_imports, reason = "only some tests start programs of other packages, or name messages")]
pub use program::built;
#[allow(unused_imports, reason = "as above")]
pub use python::python;
pub use simulator::Simulator;
#[allow(unused_imports, reason = "as above")]
pub use transcript::Transcript;
pub use user::User;
#[allow(unused_imports, reason = "as above")]
pub use user::{Message, Upload};

/// How long anything may take to happen. Far more than it takes, because test machines are busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at again.
pub const POLL: Duration = Duration::from_millis(25);

/// How a [`Stack`] differs from the usual one.
#[derive(Default)]
pub struct Builder {
    replicas: usize,
    env: Vec<(String, String)>,
    /// Of one program alone.
    own_env: Vec<(usize, String, String)>,
    http_apart: bool,
    simulators: Vec<String>,
    patience: Option<Duration>,
    database: Option<String>,
}

impl Builder {
    /// The URL of an empty database, instead of one of the harness' own server.
    pub fn database(mut self, url: impl Into<String>) -> Self {
        self.database = Some(url.into());
        self
    }

    /// The first program only serves HTTP, and a second one, not started yet, does the work.
    pub fn http_apart(mut self) -> Self {
        self.http_apart = true;
        self.replicas(2)
    }

    /// How many `baal serve` share the database; one unless said otherwise.
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// Sets a variable of the program's environment, instead of the harness' own value if there is one.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.into(), value.to_string()));
        self
    }

    /// Sets a variable of the `index`th program's environment alone.
    pub fn env_of(mut self, index: usize, name: &str, value: impl ToString) -> Self {
        self.own_env.push((index, name.into(), value.to_string()));
        self
    }

    /// An argument for the simulators, instead of the harness' own where it is the same option.
    pub fn simulators(mut self, option: &str, value: impl ToString) -> Self {
        self.simulators.extend([option.into(), value.to_string()]);
        self
    }

    /// How long the users wait for something, instead of [`DEADLINE`].
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    pub async fn start(self) -> Stack {
        // silent-ok: the provider is installed already, by another test of this process
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let database_url = match self.database {
            Some(url) => url,
            None => database().await,
        };
        let simulator = Simulator::start(dir.path(), &self.simulators, self.patience.unwrap_or(DEADLINE)).await;
        let replicas = self.replicas.max(1);
        let ports: Vec<u16> = (0..replicas).map(|_| free_port()).collect();
        let baals = (0..replicas).map(|index| {
            let mut env = vec![
                ("TELEGRAM_BOT_TOKEN".into(), simulator.bot_token().to_owned()),
                ("TELEGRAM_API_URL".into(), simulator.telegram.clone()),
                ("TELEGRAM_WEBHOOK_SECRET".into(), "test-webhook-secret".into()),
                ("ADMIN_TOKEN".into(), "test-admin-token-of-more-than-32-characters".into()),
                ("ADMIN_RATE_PER_MINUTE".into(), "100000".into()),
                // Telegram knows one address; the first replica takes all updates in.
                ("PUBLIC_URL".into(), format!("http://127.0.0.1:{}", ports[0])),
                ("LISTEN_ADDR".into(), format!("127.0.0.1:{}", ports[index])),
                ("DATABASE_URL".into(), database_url.clone()),
                // Several replicas and several tests share the server's connections.
                ("DATABASE_CONNECTIONS".into(), "10".into()),
                ("BOT_ENCRYPTION_KEY".into(), "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".into()),
                ("LIBERTAI_API_KEY".into(), "test-key".into()),
                ("LIBERTAI_API_BASE_URL".into(), format!("{}/v1", simulator.libertai)),
                ("CLOUD".into(), "local".into()),
                ("LOCAL_DIR".into(), dir.path().join("agents").display().to_string()),
                ("FREE_TIER_DAILY_MESSAGES".into(), "1000".into()),
                ("FLOOD_PER_MINUTE".into(), "10000".into()),
                ("RUST_LOG".into(), "info,baal=debug".into()),
            ];
            let own = self.own_env.iter().filter(|(of, ..)| *of == index).map(|(_, name, value)| (name, value));
            for (name, value) in self.env.iter().map(|(name, value)| (name, value)).chain(own) {
                env.retain(|(known, _)| known != name);
                env.push((name.clone(), value.clone()));
            }
            let mut arguments = vec!["serve", "--no-env-file"];
            if self.http_apart && index == 0 {
                arguments.push("--no-worker");
            }
            Baal::new(ports[index], env, dir.path().join(format!("baal-{index}.log")), arguments)
        });
        let baals: Vec<Baal> = baals.collect();
        let db = PgPoolOptions::new().max_connections(2).connect_lazy(&database_url).unwrap();
        // Held from here on, so that a failing start shows the logs as well.
        let stack = Stack { baals, simulator, db, dir };
        for baal in stack.baals.iter().take(if self.http_apart { 1 } else { replicas }) {
            baal.start().await;
        }
        stack
    }
}

/// A running system.
pub struct Stack {
    // Dropped in this order.
    baals: Vec<Baal>,
    pub simulator: Simulator,
    /// The program's database.
    pub db: PgPool,
    dir: TempDir,
}

impl Stack {
    /// One `baal serve`, ready.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The `index`th program, from 0.
    pub fn baal(&self, index: usize) -> &Baal {
        &self.baals[index]
    }

    /// How many programs there are.
    pub fn replicas(&self) -> usize {
        self.baals.len()
    }

    /// What each running program has in memory, in KiB.
    pub fn memory(&self) -> Vec<u64> {
        self.baals.iter().filter_map(Baal::memory).collect()
    }

    /// A Telegram user, who has a private chat with the bot.
    pub fn user(&self, id: i64) -> User<'_> {
        self.simulator.user(id)
    }

    /// A new group of these users with the bot; gives its number, for [`User::within`].
    #[track_caller]
    pub fn group(&self, title: &str, members: &[i64]) -> impl Future<Output = i64> + use<> {
        let made = self.simulator.post("/sim/groups", json!({ "title": title, "members": members }));
        async move { made.await["chat_id"].as_i64().unwrap() }
    }

    /// What happens in a user's chat from here on, for a snapshot.
    pub fn transcript<'a>(&'a self, user: User<'a>) -> Transcript<'a> {
        Transcript::new(self, user)
    }

    /// The one value that a query gives.
    #[track_caller]
    pub fn sql<T>(&self, query: &'static str) -> impl Future<Output = T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let caller = std::panic::Location::caller();
        async move {
            let value = sqlx::query_scalar(query).fetch_one(&self.db).await;
            value.unwrap_or_else(|error| panic!("{caller}: {query}: {error}"))
        }
    }

    /// Waits until a query gives this value.
    #[track_caller]
    pub fn wait_for_sql<T>(&self, query: &'static str, wanted: T) -> impl Future<Output = ()>
    where
        T: Send + Unpin + PartialEq + std::fmt::Debug,
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.wait_for_sql_within(DEADLINE, query, wanted)
    }

    /// Waits for longer until a query gives this value.
    #[track_caller]
    pub fn wait_for_sql_within<T>(&self, limit: Duration, query: &'static str, wanted: T) -> impl Future<Output = ()>
    where
        T: Send + Unpin + PartialEq + std::fmt::Debug,
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + limit;
            loop {
                let value: T = self.sql(query).await;
                if value == wanted {
                    return;
                }
                if tokio::time::Instant::now() > deadline {
                    panic!("{caller}: {query} gives {value:?} and never became {wanted:?}");
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Where this test keeps its files: logs, agents.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The directories of the local agents.
    pub fn agent_dirs(&self) -> Vec<PathBuf> {
        // Before the first agent there is none.
        let entries = std::fs::read_dir(self.dir.path().join("agents")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    }

    /// Lines of the programs' logs that report errors of their own.
    pub fn errors(&self) -> Vec<String> {
        let logs = self.logs().into_iter().filter(|log| log.file_name().is_some_and(|n| n != "simulators.log"));
        let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
        let lines = logs.flat_map(|log| {
            let text = std::fs::read(log).unwrap();
            String::from_utf8_lossy(&text).lines().filter(bad).map(str::to_owned).collect::<Vec<_>>()
        });
        lines.collect()
    }

    pub fn logs(&self) -> Vec<PathBuf> {
        let mut logs: Vec<PathBuf> = std::fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        logs
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for baal in &self.baals {
            baal.kill9();
        }
        if std::thread::panicking() {
            for log in self.logs() {
                eprintln!("── the end of {}\n{}", log.display(), tail(&log, 60));
            }
        }
        // Agents outlive the program by design. The test's own runtime can't be waited on here.
        let agents = self.dir.path().join("agents");
        let stopping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            if let Err(error) = runtime.block_on(baal::cloud::local::stop_all(&agents)) {
                eprintln!("the agents can't be stopped: {error}");
            }
        });
        let _ = stopping.join(); // silent-ok: it panics only if no runtime can be made
    }
}
