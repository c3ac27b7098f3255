//! A whole installation: `baal serve`, its far sides, and machines that the simulated cloud rents out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use baal::app::App;
use baal::config::Config;
use baal_e2e::{Machine, agent_binary};
use tempfile::TempDir;

use crate::aleph::Cloud;
use crate::harness::{Baal, Builder, Stack};
use crate::machines::{self, Host};

/// How long a user waits for something that takes a machine.
pub const PATIENCE: Duration = Duration::from_secs(150);

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What tests usually start with: no pool, everything quick.
const QUICK: [(&str, &str); 12] = [
    ("AGENT_ALLOW_PRIVATE", "true"),
    ("POOL_REPLENISH_INTERVAL", "1"),
    ("HEALTH_INTERVAL", "1"),
    ("RECONCILE_INTERVAL", "1"),
    ("RECONCILE_GRACE_SECONDS", "3"),
    ("LEASE_SECONDS", "5"),
    ("VM_START_SECONDS", "10"),
    ("SSH_WAIT_SECONDS", "20"),
    ("GATEWAY_WAIT_SECONDS", "30"),
    ("CRN_AVOID_SECONDS", "600"),
    ("MAX_AGENTS_PER_USER", "20"),
    ("RUST_LOG", "info,baal=debug"),
];

/// A running system on an Aleph of its own. Machines and programs are gone when it is dropped.
pub struct Field {
    // Dropped in this order.
    pub stack: Stack,
    pub cloud: Arc<Cloud>,
    pub hosts: Arc<Vec<Host>>,
    /// What `baal` runs with.
    pub env: BTreeMap<String, String>,
    _authority: Authority,
}

impl Field {
    /// An installation that can rent so many machines.
    pub async fn start(hosts: u32) -> Self {
        Self::build(hosts, |builder| builder).await
    }

    /// The same, with differences.
    pub async fn build(hosts: u32, differences: impl FnOnce(Builder) -> Builder) -> Self {
        provider();
        let hosts = Arc::new(machines::take(hosts).await);
        let cloud = Arc::new(Cloud::start(ANY_PORT, 3, hosts.clone()).await);
        Self::within(cloud, hosts, differences).await
    }

    /// An installation that shares a cloud with others.
    pub async fn within(
        cloud: Arc<Cloud>,
        hosts: Arc<Vec<Host>>,
        differences: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let authority = Authority::new();
        let mut builder = builder(hosts[0].machine());
        let account = [
            // Any key will do, and all installations may have the same.
            ("CLOUD".into(), "aleph".into()),
            ("ALEPH_PRIVATE_KEY".into(), "5a".repeat(32)),
        ];
        for (name, value) in authority.env().into_iter().chain(account).chain(cloud.env()) {
            builder = builder.env(&name, value);
        }
        let stack = differences(builder).start().await;
        let env = stack.baal(0).env();
        Self { stack, cloud, hosts, env, _authority: authority }
    }

    /// The program's parts, to be called from the test.
    pub fn app(&self) -> App {
        App::new(self.config()).unwrap()
    }

    pub fn config(&self) -> Config {
        Config::from_values(self.env.clone(), vec![]).unwrap()
    }

    /// Runs `baal` with these arguments; what it printed.
    pub async fn baal(&self, arguments: &[&str]) -> String {
        run(self.stack.baal(0), arguments).await
    }
}

/// Runs `baal` with these arguments in a program's environment; what it printed.
pub async fn run(program: &Baal, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_baal"));
    command.args(arguments).arg("--no-env-file").env_clear().envs(program.env()).env("RUST_LOG", "warn");
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "baal {arguments:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// A stack whose model can be reached from machines, with what all clouds of machines share of the environment.
pub fn builder(machine: &Machine) -> Builder {
    let model = format!("{}:0", machine.host);
    let mut builder = Stack::builder().patience(PATIENCE).simulators("--libertai-listen", model);
    for (name, value) in QUICK {
        builder = builder.env(name, value);
    }
    builder
        .env("BAAL_AGENT_BINARY", agent_binary().unwrap().display())
        .env("ALEPH_SSH_PRIVKEY_PATH", machine.place().unwrap().1.display())
}

/// The cloud of a test is started before its program.
pub fn provider() {
    // silent-ok: the provider is installed already, by another test of this process
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A certificate authority for agents, made by `baal ca`.
pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_baal"))
            .args(["ca", "--out"])
            .arg(dir.path())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success(), "`baal ca` failed");
        Self(dir)
    }

    /// The variables that name it.
    pub fn env(&self) -> [(String, String); 3] {
        let file = |name: &str| self.path(name).display().to_string();
        [
            ("AGENT_TLS".into(), "internal".into()),
            ("AGENT_CA_FILE".into(), file("ca.pem")),
            ("AGENT_CA_KEY_FILE".into(), file("ca-key.pem")),
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
