//! How long a machine takes from answering over SSH to an agent that is healthy over HTTPS: `make bench-deploy`.
//!
//! Cold is Debian 12 as it comes; what its archive takes is told apart, for that is not ours. Warm is a machine that was prepared
//! before, as the pool keeps them. The machines are containers on this host, so the network between is as good as none.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use baal::app::App;
use baal::config::Config;
use baal::install::{Kit, on_machine};
use baal::ssh::{self, Address, Key, Session};
use baal_e2e::{Kind, Machine, agent_binary, reaper};
use baal_protocol::AgentConfig;
use uuid::Uuid;

const RUNS: usize = 3;

/// What one deployment took.
struct Figures {
    /// In all.
    total: Duration,
    /// Of that, waiting for Debian's archive and for its packages to be set up.
    packages: (Duration, Duration),
    /// Bytes to the machine and from it.
    bytes: (u64, u64),
}

/// What the library logs, where it tells how long packages took.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Milliseconds behind `what` in what was logged since the last look.
    fn took(text: &str, what: &str) -> Duration {
        let millis = text.split_once(what).map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect());
        let millis: Option<String> = millis;
        Duration::from_millis(millis.and_then(|digits| digits.parse().ok()).unwrap_or(0))
    }

    fn take(&self) -> (Duration, Duration) {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        (Self::took(&text, "fetched in "), Self::took(&text, "set up in "))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Any row's id: no machine here has had another.
const VM: Uuid = Uuid::from_u128(1);

struct Bench {
    app: App,
    kit: Kit,
    key: Key,
    log: Log,
}

impl Bench {
    /// From a connection that is not made yet to an answer of the agent under its public address.
    async fn deploy(&self, machine: &Machine, prepare: bool) -> Figures {
        let address = Address { host: machine.place().unwrap().0.to_string(), port: 22 };
        self.log.take();
        let begun = Instant::now();
        let host_key = ssh::host_key(&address).await.unwrap();
        let mut session = Session::connect(&self.key, &address, &host_key).await.unwrap();
        if prepare {
            self.kit.wait_for_first_boot(&mut session).await.unwrap();
            self.kit.prepare(&mut session, VM, &address.host).await.unwrap();
        }
        self.kit.install(&mut session, VM, &config()).await.unwrap();
        let health =
            self.app.agents_http.to_operators().get(format!("https://{}/health", address.host)).send().await.unwrap();
        assert!(health.status().is_success(), "{health:?}");
        let total = begun.elapsed();
        let bytes = session.traffic();
        session.close().await;
        Figures { total, packages: self.log.take(), bytes }
    }

    /// What the pool does beforehand.
    async fn prepare(&self, machine: &Machine) {
        let address = Address { host: machine.place().unwrap().0.to_string(), port: 22 };
        let host_key = ssh::host_key(&address).await.unwrap();
        let mut session = Session::connect(&self.key, &address, &host_key).await.unwrap();
        self.kit.wait_for_first_boot(&mut session).await.unwrap();
        self.kit.prepare(&mut session, VM, &address.host).await.unwrap();
        session.close().await;
    }
}

fn config() -> AgentConfig {
    on_machine(AgentConfig {
        agent_name: "Ada".into(),
        system_prompt: "You count.".into(),
        model: "qwen3-coder-next".into(),
        libertai_api_key: "no-key".into(),
        libertai_api_base_url: "http://127.0.0.1:9/v1".into(),
        agent_secret: "a-secret-of-this-measurement".into(),
        owner_chat_id: "1".into(),
        heartbeat_interval: 0,
        ..AgentConfig::default()
    })
}

fn bench(authority: &Path, key: &Path, log: Log) -> Bench {
    let status = Command::new(env!("CARGO_BIN_EXE_baal"))
        .args(["ca", "--out"])
        .arg(authority)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "`baal ca` failed");
    let environment: BTreeMap<String, String> = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAAAAAA".to_owned()),
        ("TELEGRAM_MODE", "polling".into()),
        // Nobody connects to it.
        ("DATABASE_URL", "postgres://localhost/none".into()),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".into()),
        ("LIBERTAI_API_KEY", "no-key".into()),
        ("CLOUD", "hosts".into()),
        ("AGENT_ALLOW_PRIVATE", "true".into()),
        ("AGENT_TLS", "internal".into()),
        ("AGENT_CA_FILE", authority.join("ca.pem").display().to_string()),
        ("AGENT_CA_KEY_FILE", authority.join("ca-key.pem").display().to_string()),
        ("ALEPH_SSH_PRIVKEY_PATH", key.display().to_string()),
        ("BAAL_AGENT_BINARY", agent_binary().unwrap().display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let config = Config::from_values(environment, vec![]).unwrap();
    let (kit, key) = (Kit::load(&config).unwrap(), Key::load(key).unwrap());
    Bench { app: App::new(config).unwrap(), kit, key, log }
}

fn row(name: &str, run: usize, figures: &Figures) {
    let seconds = |duration: Duration| format!("{:.2}", duration.as_secs_f64());
    let (fetched, set_up) = figures.packages;
    let ours = figures.total.saturating_sub(fetched + set_up);
    println!(
        "| {name} {run} | {} | {} | {} | {} | {} | {} |",
        seconds(figures.total),
        seconds(fetched),
        seconds(set_up),
        seconds(ours),
        figures.bytes.0 / 1000,
        figures.bytes.1 / 1000,
    );
}

#[tokio::main]
async fn main() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let run = format!("bench-{}", std::process::id());
    reaper(&run).unwrap();
    let authority = tempfile::tempdir().unwrap();
    println!("SSH answers → agent healthy over HTTPS\n");
    println!(
        "| run | total s | archive s | packages s | the rest s | kB sent | kB received |\n|---|---|---|---|---|---|---|"
    );
    let mut bench_of: Option<Bench> = None;
    for (name, warm) in [("cold", false), ("warm", true)] {
        for n in 1..=RUNS {
            let machine = Machine::named(&format!("{run}-{name}-{n}"), Kind::Bare, &run).unwrap();
            let bench = match &mut bench_of {
                Some(bench) => bench,
                none => none.insert(bench(authority.path(), &machine.place().unwrap().1, log.clone())),
            };
            if warm {
                bench.prepare(&machine).await;
            }
            row(name, n, &bench.deploy(&machine, !warm).await);
        }
    }
}
