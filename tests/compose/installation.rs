//! An installation as operators make one: the repository's files and a filled `.env` in a directory of their own, and
//! `docker compose up`. Beyond it, on the host: Telegram and the model; and a machine for an agent.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use baal_e2e::{Kind, Machine, agent_binary};
use reqwest::{Certificate, Client};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;

use crate::docker::{fleet, inspect, reaper, run, said, script};
use crate::harness::{Simulator, free_port};

/// How long a user waits for something that takes a machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What nobody outside may see, as it stands in `.env`; the bot's token is the simulator's.
const SECRETS: [(&str, &str); 5] = [
    ("TELEGRAM_WEBHOOK_SECRET", "a-webhook-secret-that-nobody-may-see"),
    ("ADMIN_TOKEN", "an-admin-token-of-more-than-32-characters"),
    ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
    ("LIBERTAI_API_KEY", "a-model-key-that-nobody-may-see"),
    ("DATABASE_PASSWORD", "a-database-password-that-nobody-may-see"),
];

/// Where administrators find the API.
pub const ADMIN_DOMAIN: &str = "admin.localhost";

/// What the test wants otherwise than most operators.
const DIFFERENCES: [(&str, &str); 10] = [
    ("CADDY_TLS", "internal"),
    ("ADMIN_DOMAIN", ADMIN_DOMAIN),
    ("CLOUD", "hosts"),
    ("AGENT_TLS", "internal"),
    ("AGENT_ALLOW_PRIVATE", "true"),
    ("LEASE_SECONDS", "8"),
    // Without optimisation it takes a tenth of a second of a processor to log in to Postgres, and all do at once after its kill.
    ("DATABASE_CONNECTIONS", "8"),
    ("FREE_TIER_DAILY_MESSAGES", "1000"),
    ("FLOOD_PER_MINUTE", "10000"),
    ("RUST_LOG", "info,baal=debug"),
];

/// Removed with everything in it when it is dropped.
pub struct Installation {
    /// Telegram and the model.
    pub simulator: Simulator,
    machine: Option<Machine>,
    /// Compose's project, and the image's name.
    project: String,
    dir: TempDir,
    http_port: u16,
    https_port: u16,
}

impl Installation {
    /// `docker compose up --wait` of version 1.
    pub async fn up() -> Self {
        // silent-ok: the provider is installed already, by another test of this process
        let _ = rustls::crypto::ring::default_provider().install_default();
        let project = format!("baal-fleet-{}", std::process::id());
        let name = project.clone();
        let machine = apart(move || {
            fleet(["ready"]);
            reaper(&name);
            baal_e2e::reaper(&name).unwrap();
            Machine::named(&name, Kind::Packaged, &name).unwrap()
        });
        let machine = machine.await;
        let dir = tempfile::tempdir().unwrap();
        let listen = format!("{}:0", machine.host);
        let options = ["--telegram-listen", &listen, "--libertai-listen", &listen].map(str::to_owned);
        let simulator = Simulator::start(dir.path(), &options, PATIENCE).await;
        let (http_port, https_port) = (free_port(), free_port());
        let installation = Self { simulator, machine: Some(machine), project, dir, http_port, https_port };
        installation.build();
        installation.fill();
        installation.deploy(1, 1).await;
        let authority = installation.caddys_authority();
        installation.simulator.post("/sim/authority", json!({ "pem": authority })).await;
        // Telegram's pauses are longer; tests need not wait for them.
        installation.simulator.post("/sim/webhook", json!({ "retry_base_ms": 100 })).await;
        installation
    }

    fn build(&self) {
        let binaries = self.dir.path().join("binaries");
        fs::create_dir(&binaries).unwrap();
        for program in [Path::new(env!("CARGO_BIN_EXE_baal")), &agent_binary().unwrap()] {
            // Debug information is most of what cargo builds by default.
            run(Command::new("strip").arg("-o").arg(binaries.join(program.file_name().unwrap())).arg(program));
        }
        for version in 1..=2 {
            fleet(["image", &self.image(version), &binaries.display().to_string(), &version.to_string()]);
        }
    }

    /// The name of a version's image.
    pub fn image(&self, version: u32) -> String {
        format!("{}:{version}", self.project)
    }

    /// The files of the repository, and those that the operator makes.
    fn fill(&self) {
        let (repository, dir) = (Path::new(env!("CARGO_MANIFEST_DIR")), self.dir.path());
        for file in ["docker-compose.yml", "Caddyfile"] {
            fs::copy(repository.join(file), dir.join(file)).unwrap();
        }
        run(Command::new(env!("CARGO_BIN_EXE_baal")).args(["ca", "--out"]).arg(dir.join("secrets")));
        let (_, key) = self.machine().place().unwrap();
        fs::copy(key, dir.join("secrets/id_ed25519")).unwrap();
    }

    /// `.env` for this version.
    fn configure(&self, version: u32) {
        let simulator = &self.simulator;
        let own = [
            ("COMPOSE_PROFILES", "webhook".to_owned()),
            ("BAAL_IMAGE", self.project.clone()),
            ("BAAL_VERSION", version.to_string()),
            ("HTTP_PORT", self.http_port.to_string()),
            ("HTTPS_PORT", self.https_port.to_string()),
            ("PUBLIC_URL", self.url("")),
            ("TELEGRAM_BOT_TOKEN", simulator.bot_token().to_owned()),
            ("TELEGRAM_API_URL", simulator.telegram.clone()),
            ("LIBERTAI_API_BASE_URL", format!("{}/v1", simulator.libertai)),
            ("DATABASE_URL", "postgres://baal@postgres/baal".to_owned()),
            ("ALEPH_SSH_PRIVKEY_PATH", "secrets/id_ed25519".to_owned()),
            ("AGENT_CA_FILE", "secrets/ca.pem".to_owned()),
            ("AGENT_CA_KEY_FILE", "secrets/ca-key.pem".to_owned()),
        ];
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let mut text = String::new();
        for (name, value) in own.chain(SECRETS).chain(DIFFERENCES) {
            writeln!(text, "{name}={value}").unwrap();
        }
        fs::write(self.dir.path().join(".env"), text).unwrap();
    }

    /// So many replicas of a version, all healthy.
    pub async fn deploy(&self, version: u32, replicas: u32) {
        self.configure(version);
        let scale = format!("baal={replicas}");
        let mut up = self.compose(["up", "--detach", "--wait", "--scale", &scale]);
        apart(move || run(&mut up)).await;
    }

    /// An agent of user 1 on a machine that is added for it; its number.
    pub async fn agent(&self) -> i64 {
        let address = self.machine().join(&format!("{}_front", self.project)).unwrap().to_string();
        let added = run(self.compose(["exec", "-T", "baal", "baal", "host", "add", &address]).env("NO_COLOR", "1"));
        assert!(added.contains("SHA256:"), "{added}");
        self.simulator.user(1).creates_agent("Ada", "You count.").await
    }

    /// The program's database, as it is reached from the host alone.
    pub async fn database(&self) -> PgPool {
        let container = inspect(&self.containers("postgres")).remove(0);
        let networks = container["NetworkSettings"]["Networks"].as_object().unwrap();
        let address = networks.values().next().unwrap()["IPAddress"].as_str().unwrap();
        let password = SECRETS.iter().find(|(name, _)| *name == "DATABASE_PASSWORD").unwrap().1;
        let options = PgConnectOptions::new().host(address).username("baal").password(password).database("baal");
        PgPoolOptions::new().max_connections(2).acquire_timeout(PATIENCE).connect_with(options).await.unwrap()
    }

    /// An address of the public site.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.https_port)
    }

    /// An address of the administrators' site.
    pub fn admin_url(&self, path: &str) -> String {
        format!("https://{ADMIN_DOMAIN}:{}{path}", self.https_port)
    }

    /// One that believes Caddy's internal authority alone, and finds both sites.
    pub fn client(&self) -> Client {
        let authority = Certificate::from_pem(self.caddys_authority().as_bytes()).unwrap();
        let here = SocketAddr::from(([127, 0, 0, 1], self.https_port));
        let client = Client::builder().no_proxy().tls_certs_only([authority]).resolve(ADMIN_DOMAIN, here);
        client.build().unwrap()
    }

    /// What nobody may see under this name.
    pub fn secret(&self, name: &str) -> String {
        self.secrets().into_iter().find(|(named, _)| named == name).unwrap().1
    }

    /// The ports that may be open on the host.
    pub fn ports(&self) -> [String; 2] {
        [self.http_port.to_string(), self.https_port.to_string()]
    }

    /// The certificate of Caddy's internal authority.
    pub fn caddys_authority(&self) -> String {
        let place = "/data/caddy/pki/authorities/local/root.crt";
        run(&mut self.compose(["exec", "-T", "caddy", "cat", place]))
    }

    /// What nobody outside may see, and what it is.
    pub fn secrets(&self) -> Vec<(String, String)> {
        let mut secrets: Vec<_> = SECRETS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        secrets.push(("TELEGRAM_BOT_TOKEN".into(), self.simulator.bot_token().into()));
        for key in ["id_ed25519", "ca-key.pem"] {
            let text = fs::read_to_string(self.dir.path().join("secrets").join(key)).unwrap();
            // Behind the line that says what it is, and for OpenSSH's behind what all keys have.
            secrets.push((key.into(), text.lines().rev().nth(1).unwrap().into()));
        }
        secrets
    }

    /// The ids of a service's containers, also of those that are off.
    pub fn containers(&self, service: &str) -> Vec<String> {
        let said = run(&mut self.compose(["ps", "--all", "--quiet", service]));
        said.lines().map(str::to_owned).collect()
    }

    /// The ids of all containers, also of those that are off.
    pub fn all_containers(&self) -> Vec<String> {
        run(&mut self.compose(["ps", "--all", "--quiet"])).lines().map(str::to_owned).collect()
    }

    fn compose<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(script());
        command.args(["compose", "--project-name", &self.project]).args(arguments).current_dir(self.dir.path());
        command
    }

    fn machine(&self) -> &Machine {
        self.machine.as_ref().unwrap()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", said(&mut self.compose(["ps", "--all"])));
            eprintln!("{}", said(&mut self.compose(["logs", "--no-color", "--tail", "60"])));
        }
        // It is in one of the project's networks.
        drop(self.machine.take());
        if std::env::var_os("E2E_KEEP").is_some() {
            eprintln!("the project stays: {} down {}", script().display(), self.project);
            return;
        }
        eprint!("{}", said(Command::new(script()).args(["down", &self.project])));
    }
}

/// Something that takes a while, while the rest of the test goes on.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
