//! The demo's processes: started in order, watched, stopped in order.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::Options;
use super::postgres::Postgres;
use super::secrets::Secrets;
use super::supervised::{Spec, Supervised, tail};
use crate::health::reachable;

/// A debug build on a busy machine takes a few seconds, most of them for migrations.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// How long `baal serve` may take to finish or hand back what it is doing.
const SERVE_GRACE: Duration = Duration::from_secs(15);

/// Where things are below the state directory.
pub(super) struct Places {
    pub root: PathBuf,
}

impl Places {
    pub fn log(&self) -> PathBuf {
        self.root.join("baal.log")
    }

    fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }
}

/// What a user of the demo opens.
pub(super) struct Addresses {
    /// The chat page.
    pub chat: String,
    /// The program.
    pub program: String,
}

/// The line that the simulators print when they are ready.
#[derive(Deserialize)]
struct Simulated {
    telegram: String,
    libertai: String,
}

/// What is running.
#[derive(Default)]
pub(super) struct Stack {
    serve: Option<Supervised>,
    simulators: Option<Supervised>,
    postgres: Option<Postgres>,
}

impl Stack {
    /// Starts everything and waits until the program is ready. What was started before a failure stays in `self`, to be
    /// stopped.
    pub async fn start(&mut self, options: &Options, secrets: &Secrets, places: &Places) -> anyhow::Result<Addresses> {
        let database_url = match &options.database_url {
            Some(url) => url.expose_secret().to_owned(),
            None => {
                let postgres = self.postgres.insert(Postgres::start(&places.root.join("postgres"), true).await?);
                postgres.create_database("baal").await?;
                postgres.url("baal")
            }
        };
        let simulated = self.start_simulators(options, secrets, places).await?;
        // Those that outlived a killed demo still know the address of its simulators; `baal serve` starts them anew.
        crate::cloud::local::stop_all(&places.agents()).await.context("can't stop the agents of an earlier run")?;
        let program = format!("http://{}", reachable(options.listen_addr));
        self.start_serve(options, secrets, places, &database_url, &simulated, &program)?;
        self.wait_until_ready(&program).await?;
        let chat = simulated.telegram.replacen("//127.0.0.1:", "//localhost:", 1);
        Ok(Addresses { chat, program })
    }

    async fn start_simulators(
        &mut self,
        options: &Options,
        secrets: &Secrets,
        places: &Places,
    ) -> anyhow::Result<Simulated> {
        let program = beside_this("baal-simulators")?;
        let listen = SocketAddr::new(options.demo_addr, options.demo_port).to_string();
        let state = places.root.join("telegram.json");
        let args = ["--telegram-listen", &listen, "--libertai-listen", "127.0.0.1:0", "--state"];
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([state.as_os_str()]).collect();
        let simulators = Supervised::spawn(&Spec {
            name: "the simulators",
            program: program.as_os_str(),
            args: &args,
            env: &[("SIM_BOT_TOKEN", OsStr::new(&secrets.bot_token))],
            log: &places.root.join("simulators.log"),
            speaks: true,
            signal: "TERM",
            grace: Duration::from_secs(5),
        })
        .context("can't start baal-simulators")?;
        let simulators = self.simulators.insert(simulators);
        let line = tokio::time::timeout(READY_DEADLINE, simulators.first_line());
        match line.await.context("the simulators don't become ready")?? {
            Some(line) => {
                let mut simulated: Simulated =
                    serde_json::from_str(&line).context("the simulators said something else than their addresses")?;
                // They say where they listen, which may be everywhere.
                if let Some(listens) = simulated.telegram.strip_prefix("http://").and_then(|it| it.parse().ok()) {
                    simulated.telegram = format!("http://{}", reachable(listens));
                }
                Ok(simulated)
            }
            None => bail!("the simulators didn't start; their last words:\n{}", tail(simulators.log(), 15)),
        }
    }

    fn start_serve(
        &mut self,
        options: &Options,
        secrets: &Secrets,
        places: &Places,
        database_url: &str,
        simulated: &Simulated,
        public_url: &str,
    ) -> anyhow::Result<()> {
        let listen_addr = options.listen_addr.to_string();
        let agents = places.agents();
        let mut env: Vec<(&str, &OsStr)> = vec![
            ("TELEGRAM_BOT_TOKEN", secrets.bot_token.as_ref()),
            ("TELEGRAM_API_URL", simulated.telegram.as_ref()),
            ("TELEGRAM_WEBHOOK_SECRET", secrets.webhook_secret.as_ref()),
            ("ADMIN_TOKEN", secrets.admin_token.as_ref()),
            ("PUBLIC_URL", public_url.as_ref()),
            ("LISTEN_ADDR", listen_addr.as_ref()),
            ("DATABASE_URL", database_url.as_ref()),
            ("BOT_ENCRYPTION_KEY", secrets.encryption_key.as_ref()),
            ("CLOUD", "local".as_ref()),
            ("LOCAL_DIR", agents.as_os_str()),
        ];
        // Without a key of the user's own the agents talk to the simulator.
        let simulated_base = format!("{}/v1", simulated.libertai.trim_end_matches('/'));
        let passed_on: &[&str] = match &options.libertai_api_key {
            Some(key) => {
                env.push(("LIBERTAI_API_KEY", key.expose_secret().as_ref()));
                &["RUST_LOG", "LOG_FORMAT", "LIBERTAI_API_BASE_URL", "MODELS", "DEFAULT_MODEL"]
            }
            None => {
                env.push(("LIBERTAI_API_KEY", secrets.libertai_api_key.as_ref()));
                env.push(("LIBERTAI_API_BASE_URL", simulated_base.as_ref()));
                &["RUST_LOG", "LOG_FORMAT"]
            }
        };
        let of_the_database = ["DATABASE_PASSWORD", "DATABASE_DIRECT_URL"];
        let mut passed_on: Vec<_> =
            passed_on.iter().filter_map(|&name| Some((name, std::env::var_os(name)?))).collect();
        if options.database_url.is_some() {
            passed_on.extend(of_the_database.iter().filter_map(|&name| Some((name, std::env::var_os(name)?))));
        }
        env.extend(passed_on.iter().map(|(name, value)| (*name, value.as_os_str())));
        let program = std::env::current_exe()?;
        let serve = Supervised::spawn(&Spec {
            name: "baal serve",
            program: program.as_os_str(),
            args: &["serve", "--no-env-file"].map(OsStr::new),
            env: &env,
            log: &places.log(),
            speaks: false,
            signal: "TERM",
            grace: SERVE_GRACE,
        })
        .context("can't start baal serve")?;
        self.serve = Some(serve);
        Ok(())
    }

    async fn wait_until_ready(&mut self, program: &str) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let readyz = format!("{program}/readyz");
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if http.get(&readyz).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                let words = self.serve.as_ref().map(|serve| tail(serve.log(), 15)).unwrap_or_default();
                bail!("baal serve doesn't become ready; its last words:\n{words}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Fails when a process has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let postgres = self.postgres.as_mut().and_then(Postgres::server);
        // Postgres first: when it ends, the others may follow.
        for process in [postgres, self.simulators.as_mut(), self.serve.as_mut()].into_iter().flatten() {
            if let Some(status) = process.ended()? {
                let (name, log) = (process.name(), process.log());
                bail!("{name} ended unexpectedly ({status}); the end of {}:\n{}", log.display(), tail(log, 15));
            }
        }
        Ok(())
    }

    /// Stops everything that runs, each after those that need it. Goes on after a failure and returns the first.
    pub async fn stop(mut self, places: &Places) -> anyhow::Result<()> {
        let serve = match self.serve.take() {
            Some(serve) => serve.stop().await.context("can't stop baal serve"),
            None => Ok(()),
        };
        // They outlive `baal serve` by design.
        let agents = crate::cloud::local::stop_all(&places.agents()).await.context("can't stop the agents");
        let simulators = match self.simulators.take() {
            Some(simulators) => simulators.stop().await.context("can't stop the simulators"),
            None => Ok(()),
        };
        let postgres = match self.postgres.take() {
            Some(postgres) => postgres.stop().await.context("can't stop Postgres"),
            None => Ok(()),
        };
        serve.and(agents).and(simulators).and(postgres)
    }
}

/// A program that is built with this one.
fn beside_this(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !Path::new(&path).exists() {
        bail!("{} is missing: build it with `make build`", path.display());
    }
    Ok(path)
}
