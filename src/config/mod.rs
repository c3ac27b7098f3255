//! Configuration: environment variables, each also as `NAME_FILE`, `.env` read if present.
//!
//! Every variable is declared once, in [`settings!`] below, with its documentation; `.env.example` and the help of
//! `baal serve` are made from the same lines. Loading collects all problems and reports them together.

mod choices;
mod compose;
mod documentation;
mod parse;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

pub use self::choices::{
    AgentTls, CloudKind, CreatePolicy, LogFormat, Model, Models, StreamMode, TelegramMode, Visibility,
};
pub use self::compose::COMPOSE_VARIABLES;
pub use self::documentation::{env_example, help};
use self::parse::{
    admin_token, any_text, api_key, base_url, base_urls, bot_id, bot_token, database_url, domain, expand_home,
    from_str, has_password, in_range, networks, optional_base_url, optional_database_url, optional_from_str,
    optional_path, optional_secret, optional_text, origins, path, private_key, seconds, ssh_public_key, user_ids,
    vault, webhook_secret, yes_or_no,
};
pub use self::shown::Shown;
use self::shown::Written as _;
use crate::vault::Vault;

/// One environment variable.
#[derive(Debug)]
pub struct Variable {
    /// The name in the environment.
    pub name: &'static str,
    /// What it means, a line each.
    pub doc: &'static [&'static str],
    /// What holds when it is missing.
    pub need: Need,
    /// A valid value, shown when a bad one is refused.
    pub example: &'static str,
}

/// Whether a variable must be set. An empty value counts as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The start stops without it.
    Required,
    /// This value is used.
    Default(&'static str),
    /// There is none.
    Optional,
}

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $name:literal, $need:expr, $example:literal, $parse:expr; )+) => {
        /// The settings of one process; `Debug` shows no secrets.
        #[derive(Debug, Clone)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        /// All variables, in the order of the documentation.
        pub const VARIABLES: &[Variable] = &[
            $( Variable { name: $name, doc: &[$($doc),+], need: $need, example: $example }, )+
        ];

        impl Config {
            /// The settings in effect, with secrets masked.
            pub fn shown(&self) -> Vec<Shown> {
                vec![ $( Shown { name: $name, value: self.$field.written($name) }, )+ ]
            }

            /// Whether the variable takes this value; what is wrong goes on behind its name and does not hold the value.
            pub fn check(name: &str, value: &str) -> Result<(), String> {
                match name {
                    $( $name => {
                        let parse: fn(&str) -> Result<$type, String> = $parse;
                        parse(value).map(drop)
                    } )+
                    _ => Err("is not a variable of Baal".into()),
                }
            }

            fn read(source: &Source, problems: &mut Vec<String>) -> Option<Self> {
                $( let $field: Option<$type> = source.setting($name, $need, $example, $parse, problems); )+
                Some(Self { $( $field: $field?, )+ })
            }
        }
    };
}

settings! {
    /// The bot's token, from @BotFather.
    telegram_bot_token: SecretString = "TELEGRAM_BOT_TOKEN", Need::Required, "123456789:AAE-abcdefghijklmnopqrstuvwxyz01234", bot_token;
    /// The Bot API server.
    telegram_api_url: String = "TELEGRAM_API_URL", Need::Default("https://api.telegram.org"), "https://api.telegram.org", base_url;
    /// How updates arrive: `webhook` (Telegram calls PUBLIC_URL) or `polling` (Baal asks, where no public address exists).
    telegram_mode: TelegramMode = "TELEGRAM_MODE", Need::Default("webhook"), "polling", from_str;
    /// What Telegram presents with every update; 1 to 256 of A-Z a-z 0-9 _ -. Needed for webhooks; `baal keygen` makes one.
    telegram_webhook_secret: Option<SecretString> = "TELEGRAM_WEBHOOK_SECRET", Need::Optional, "kQ3_long-random-text", webhook_secret;
    /// Where the world reaches this server; Telegram's webhook is set to it at start. Without it, use `baal webhook set --url`.
    public_url: Option<String> = "PUBLIC_URL", Need::Optional, "https://bot.example.org", optional_base_url;
    /// The Postgres database, version 15 or newer.
    database_url: SecretString = "DATABASE_URL", Need::Required, "postgres://baal:password@localhost/baal", database_url;
    /// The password for DATABASE_URL and DATABASE_DIRECT_URL, which carry none then.
    database_password: Option<SecretString> = "DATABASE_PASSWORD", Need::Optional, "a-long-random-text", optional_secret;
    /// The same database without a pooler between, where DATABASE_URL is that of PgBouncer in transaction mode: for what needs a
    /// session of its own, which is bringing the schema up to date and hearing of work that other processes have found.
    database_direct_url: Option<SecretString> = "DATABASE_DIRECT_URL", Need::Optional, "postgres://baal:password@localhost/baal", optional_database_url;
    /// Connections to Postgres that this process holds at most; one more to DATABASE_DIRECT_URL.
    database_connections: u32 = "DATABASE_CONNECTIONS", Need::Default("20"), "20", |text| in_range(text, 5, 500);
    /// Address and port of the HTTP server.
    listen_addr: SocketAddr = "LISTEN_ADDR", Need::Default("0.0.0.0:8080"), "0.0.0.0:8080", from_str;
    /// The administrators' first token: at least 32 visible characters, allowed everything. `baal keygen` makes one; `baal token
    /// create` makes others that can be revoked. The API is at /api/v1, its documentation at /docs.
    admin_token: Option<SecretString> = "ADMIN_TOKEN", Need::Optional, "kQ3_at-least-32-characters-of-random-text", admin_token;
    /// Address and port of their own for /api, /docs and /metrics, which then are not on LISTEN_ADDR. `baal worker` shows its
    /// /metrics there, and else nowhere.
    admin_listen_addr: Option<SocketAddr> = "ADMIN_LISTEN_ADDR", Need::Optional, "127.0.0.1:8081", optional_from_str;
    /// Web pages of other origins that may call the API, separated by commas.
    admin_cors_origins: Vec<String> = "ADMIN_CORS_ORIGINS", Need::Optional, "https://admin.example.org", origins;
    /// Requests that one token may make in a minute; and requests without a good one from one address.
    admin_rate_per_minute: NonZeroU32 = "ADMIN_RATE_PER_MINUTE", Need::Default("600"), "600", from_str;
    /// Networks of proxies whose X-Forwarded-For is believed, separated by commas. Behind a proxy that is not named, whoever
    /// tries wrong tokens of the API slows down all others who do, and the record of changes has the proxy's address.
    trusted_proxies: Vec<IpNet> = "TRUSTED_PROXIES", Need::Optional, "127.0.0.1/32,172.16.0.0/12", networks;
    /// Where traces are sent (OTLP over HTTP, `/v1/traces` below it); none are made without it. In the process' environment, but
    /// not in `.env`, OpenTelemetry's other variables mean what they mean elsewhere, such as OTEL_TRACES_SAMPLER.
    otlp_endpoint: Option<String> = "OTEL_EXPORTER_OTLP_ENDPOINT", Need::Optional, "http://127.0.0.1:4318", optional_base_url;
    /// Fernet key under which secrets are stored; `baal keygen` makes one. Losing it loses every stored secret. Several, separated by
    /// commas or one a line, while keys are changed: the first encrypts, all decrypt (`baal rotate-keys`).
    vault: Vault = "BOT_ENCRYPTION_KEY", Need::Required, "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=", vault;
    /// The operator's key for LibertAI, with which agents run.
    libertai_api_key: SecretString = "LIBERTAI_API_KEY", Need::Required, "sk-0123456789abcdef", api_key;
    /// LibertAI's API, up to and with the version.
    libertai_api_base_url: String = "LIBERTAI_API_BASE_URL", Need::Default("https://api.libertai.io/v1"), "https://api.libertai.io/v1", base_url;
    /// Models that users choose from: a JSON list of id, name, description and context size in tokens.
    models: Models = "MODELS", Need::Default(DEFAULT_MODELS), r#"[{"id":"glm-4.7","name":"GLM 4.7","description":"Careful","context":131072}]"#, from_str;
    /// The model that is offered first; one of MODELS.
    default_model: String = "DEFAULT_MODEL", Need::Default("qwen3-coder-next"), "qwen3-coder-next", any_text;
    /// Agents that one user may have.
    max_agents_per_user: u32 = "MAX_AGENTS_PER_USER", Need::Default("3"), "3", |text| in_range(text, 1, 10_000);
    /// Messages that one user may send on the operator's key each day (UTC).
    free_tier_daily_messages: i32 = "FREE_TIER_DAILY_MESSAGES", Need::Default("50"), "50", |text| in_range(text, 0, 1_000_000);
    /// Messages and presses that one user may send in a minute.
    flood_per_minute: i32 = "FLOOD_PER_MINUTE", Need::Default("30"), "30", |text| in_range(text, 1, 10_000);
    /// How growing answers are shown: `edit` (a message that is edited) or `draft` (Telegram's drafts, which some clients show
    /// twice).
    stream_mode: StreamMode = "STREAM_MODE", Need::Default("edit"), "draft", from_str;
    /// Who may create agents: `open` (everybody), `invite` (whoever has a code that an operator made with /invite) or
    /// `operators`.
    create_policy: CreatePolicy = "CREATE_POLICY", Need::Default("open"), "invite", from_str;
    /// Who may open a new agent: `public` (everybody, by its number), `unlisted` (whoever has one of its links) or `private`
    /// (whom its owner lets in).
    default_visibility: Visibility = "DEFAULT_VISIBILITY", Need::Default("public"), "unlisted", from_str;
    /// Where agents run: `aleph` (instances of Aleph Cloud), `hosts` (machines added with `baal host add`) or `local`
    /// (processes of this host).
    cloud: CloudKind = "CLOUD", Need::Default("aleph"), "hosts", from_str;
    /// The Ethereum key whose credits pay for instances: 64 hexadecimal digits. Needed for CLOUD=aleph.
    aleph_private_key: Option<SecretString> = "ALEPH_PRIVATE_KEY", Need::Optional, "0x0123…", private_key;
    /// The key with which machines are reached over SSH: OpenSSH's form, ed25519 or RSA, without a passphrase.
    ssh_private_key: PathBuf = "ALEPH_SSH_PRIVKEY_PATH", Need::Default("~/.ssh/id_rsa"), "/run/secrets/ssh_key", path;
    /// Its public half, put on instances; made from the private key if unset.
    ssh_public_key: Option<String> = "ALEPH_SSH_PUBKEY", Need::Optional, "ssh-ed25519 AAAAC3… baal", ssh_public_key;
    /// Aleph's core channel nodes, separated by commas: the first that answers is used, all are asked before anything is
    /// destroyed.
    aleph_api_urls: Vec<String> = "ALEPH_API_URL", Need::Default("https://api2.aleph.cloud,https://api1.aleph.cloud"), "https://api2.aleph.cloud", base_urls;
    /// The list of Aleph's compute nodes.
    aleph_crn_list_url: String = "ALEPH_CRN_LIST_URL", Need::Default("https://crns-list.aleph.sh/crns.json"), "https://crns-list.aleph.sh/crns.json", base_url;
    /// The API of the gateway that gives instances their public names.
    aleph_gateway_url: String = "ALEPH_GATEWAY_URL", Need::Default("https://api.2n6.me"), "https://api.2n6.me", base_url;
    /// The domain of those names.
    aleph_gateway_domain: String = "ALEPH_GATEWAY_DOMAIN", Need::Default("2n6.me"), "2n6.me", domain;
    /// Processors of an instance.
    vm_vcpus: u32 = "VM_VCPUS", Need::Default("1"), "2", |text| in_range(text, 1, 64);
    /// Memory of an instance, in MiB.
    vm_memory: u64 = "VM_MEMORY_MIB", Need::Default("2048"), "4096", |text| in_range(text, 512, 1 << 20);
    /// Disk of an instance, in GiB.
    vm_disk: u64 = "VM_DISK_GIB", Need::Default("20"), "40", |text| in_range(text, 5, 10_000);
    /// Machines that may exist at one time, whoever they are for: a brake on the bill. Further agents wait in line.
    max_vms: i64 = "MAX_VMS", Need::Default("20"), "20", |text| in_range(text, 1, 100_000);
    /// Keep machines ready, so that a new agent takes seconds. They are paid for while they wait.
    pool_enabled: bool = "POOL_ENABLED", Need::Default("false"), "true", yes_or_no;
    /// Machines that are kept ready.
    pool_min_size: i64 = "POOL_MIN_SIZE", Need::Default("5"), "3", |text| in_range(text, 0, 1_000);
    /// Machines that are ready or being made so, at most.
    pool_max_size: i64 = "POOL_MAX_SIZE", Need::Default("10"), "10", |text| in_range(text, 0, 1_000);
    /// Seconds between two looks at the pool.
    pool_interval: Duration = "POOL_REPLENISH_INTERVAL", Need::Default("30"), "30", |text| seconds(text, 1, 86_400);
    /// Hours after which a machine that nobody took is replaced by a fresh one.
    pool_max_age: Duration = "POOL_MAX_AGE_HOURS", Need::Default("24"), "24", |text| in_range(text, 1, 8_760).map(|h: u64| Duration::from_secs(h * 3_600));
    /// Where machines get their certificates from: `acme`, or `internal` (signed by this program, for closed networks).
    agent_tls: AgentTls = "AGENT_TLS", Need::Default("acme"), "internal", from_str;
    /// Directories of certificate authorities, separated by commas; the next is asked where one fails.
    agent_acme_urls: Vec<String> = "AGENT_ACME_URLS", Need::Default("https://acme-v02.api.letsencrypt.org/directory,https://acme.zerossl.com/v2/DV90"), "https://acme-v02.api.letsencrypt.org/directory", base_urls;
    /// Whom those authorities may write to. ZeroSSL wants one.
    acme_email: Option<String> = "ACME_EMAIL", Need::Optional, "admin@example.org", optional_text;
    /// A certificate authority (PEM) that is trusted beside the public ones when agents are called that this program set up. With
    /// AGENT_TLS=internal it signs their certificates, and nobody else is trusted. Agents that run elsewhere have public ones.
    agent_ca_file: Option<PathBuf> = "AGENT_CA_FILE", Need::Optional, "/etc/baal/ca.pem", optional_path;
    /// Its key (PEM), for AGENT_TLS=internal. `baal ca` makes both.
    agent_ca_key_file: Option<PathBuf> = "AGENT_CA_KEY_FILE", Need::Optional, "/etc/baal/ca-key.pem", optional_path;
    /// Allow, for tests and closed networks: compute nodes at private or plain http addresses, instances whose SSH is at a
    /// private address, agents' names that resolve to one, and agents that run elsewhere at either.
    agent_allow_private: bool = "AGENT_ALLOW_PRIVATE", Need::Default("false"), "true", yes_or_no;
    /// Seconds within which a compute node has to bring an instance up after it was asked.
    vm_start_within: Duration = "VM_START_SECONDS", Need::Default("120"), "120", |text| seconds(text, 1, 3_600);
    /// Seconds within which a machine has to answer over SSH.
    ssh_within: Duration = "SSH_WAIT_SECONDS", Need::Default("300"), "300", |text| seconds(text, 1, 3_600);
    /// Seconds within which an agent has to answer under its public name.
    gateway_within: Duration = "GATEWAY_WAIT_SECONDS", Need::Default("360"), "360", |text| seconds(text, 1, 3_600);
    /// Seconds for which a compute node that failed is avoided.
    crn_avoid: Duration = "CRN_AVOID_SECONDS", Need::Default("600"), "600", |text| seconds(text, 0, 86_400);
    /// Seconds between two probes of a running agent. After three that failed its owner is told.
    health_interval: Duration = "HEALTH_INTERVAL", Need::Default("60"), "60", |text| seconds(text, 1, 86_400);
    /// Seconds between two comparisons of what exists in the cloud with what the database knows.
    reconcile_interval: Duration = "RECONCILE_INTERVAL", Need::Default("600"), "600", |text| seconds(text, 1, 86_400);
    /// Seconds for which an instance must have been unknown before it is destroyed.
    reconcile_grace: Duration = "RECONCILE_GRACE_SECONDS", Need::Default("3600"), "3600", |text| seconds(text, 0, 604_800);
    /// Telegram's ids of the operators, separated by commas: they are told when credits run out, and have /pool and /invite.
    operator_ids: Vec<i64> = "OPERATOR_IDS", Need::Optional, "12345678,23456789", user_ids;
    /// Directory of local agents, one below it for each.
    local_dir: PathBuf = "LOCAL_DIR", Need::Default(".baal/agents"), "/var/lib/baal/agents", path;
    /// The agent's program; beside `baal` if unset.
    agent_binary: Option<PathBuf> = "BAAL_AGENT_BINARY", Need::Optional, "/usr/local/bin/baal-agent", optional_path;
    /// Seconds without a sign of life after which other replicas take over what this one was doing.
    lease: Duration = "LEASE_SECONDS", Need::Default("15"), "15", |text| in_range(text, 2, 600).map(Duration::from_secs);
    /// Days for which it is kept that updates were handled, without what they said. Telegram repeats an update for a day.
    retention_updates: i32 = "RETENTION_UPDATES_DAYS", Need::Default("3"), "3", |text| in_range(text, 2, 30);
    /// Days for which words of people are kept at most that nobody goes on with: updates that could not be handled, answers of
    /// dialogues that were left, personalities and links of agents that are gone.
    retention_texts: i32 = "RETENTION_TEXTS_DAYS", Need::Default("30"), "30", |text| in_range(text, 1, 365);
    /// Days for which calls to Telegram that were made or given up are kept, without their words.
    retention_outbox: i32 = "RETENTION_OUTBOX_DAYS", Need::Default("7"), "7", |text| in_range(text, 1, 365);
    /// Days for which it is kept how turns ended and what they cost, without their words.
    retention_turns: i32 = "RETENTION_TURNS_DAYS", Need::Default("400"), "400", |text| in_range(text, 1, 10_000);
    /// Days for which jobs, their steps, and the rows of machines that are gone are kept. An agent's last job stays as long as it
    /// does.
    retention_jobs: i32 = "RETENTION_JOBS_DAYS", Need::Default("90"), "90", |text| in_range(text, 1, 10_000);
    /// Days for which the record of administrators' changes is kept, and tokens and invitations that are good no more.
    retention_audit: i32 = "RETENTION_AUDIT_DAYS", Need::Default("400"), "400", |text| in_range(text, 1, 10_000);
    /// The passphrase of backups, for `baal backup` and `baal restore`; they ask for it where it is unset and there is a terminal.
    backup_passphrase: Option<SecretString> = "BACKUP_PASSPHRASE", Need::Optional, "six words that you can find again", optional_secret;
    /// Log lines for people (`human`) or for machines (`json`). RUST_LOG chooses what is logged, such as `info,baal=debug`.
    log_format: LogFormat = "LOG_FORMAT", Need::Default("human"), "json", from_str;
}

const DEFAULT_MODELS: &str = r#"[{"id":"qwen3-coder-next","name":"Qwen3 Coder Next","description":"Quick, good at code and tools","context":98304},{"id":"glm-4.7","name":"GLM 4.7","description":"Thorough, good at long texts","context":131072}]"#;

/// Variables of the Python system that mean nothing here.
const RETIRED: [&str; 2] = ["DB_PATH", "POOL_DB_PATH"];

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
pub struct ConfigError {
    /// One line each, beginning with the variable's name.
    pub problems: Vec<String>,
}

impl ConfigError {
    fn describe(&self) -> String {
        let count = self.problems.len();
        let mut text = format!("the configuration has {count} problem{}:\n", if count == 1 { "" } else { "s" });
        for problem in &self.problems {
            let _ = writeln!(text, "  - {problem}"); // silent-ok: writing to a String cannot fail
        }
        text.push_str("`baal serve --help` explains every variable; `baal keygen` makes keys.");
        text
    }
}

impl Config {
    /// Reads the process' environment, after `.env` unless `env_file` is false.
    pub fn load(env_file: bool) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let values = given(env_file, &mut problems);
        Self::from_values(values, problems)
    }

    /// LISTEN_ADDR and ADMIN_LISTEN_ADDR of the same environment, whatever its other variables hold.
    pub fn listens(env_file: bool) -> Result<(SocketAddr, Option<SocketAddr>), ConfigError> {
        let mut problems = Vec::new();
        let source = Source(given(env_file, &mut problems));
        let listen = source.documented("LISTEN_ADDR", from_str, &mut problems);
        let admin = source.documented("ADMIN_LISTEN_ADDR", optional_from_str, &mut problems);
        match (listen, admin) {
            (Some(listen), Some(admin)) if problems.is_empty() => Ok((listen, admin)),
            _ => Err(ConfigError { problems }),
        }
    }

    /// Builds the configuration from named values; `problems` are those already known.
    pub fn from_values(values: BTreeMap<String, String>, mut problems: Vec<String>) -> Result<Self, ConfigError> {
        let source = Source(values);
        let config = Self::read(&source, &mut problems);
        if let Some(config) = &config {
            config.check_together(&mut problems);
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }

    fn check_together(&self, problems: &mut Vec<String>) {
        if self.telegram_mode == TelegramMode::Webhook && self.telegram_webhook_secret.is_none() {
            problems.push("TELEGRAM_WEBHOOK_SECRET is missing: webhooks need it (make one with `baal keygen`)".into());
        }
        if self.cloud == CloudKind::Aleph && self.aleph_private_key.is_none() {
            problems.push(
                "ALEPH_PRIVATE_KEY is missing: CLOUD=aleph needs it (or set CLOUD=hosts, CLOUD=local to run agents elsewhere)"
                    .into(),
            );
        }
        if self.database_password.is_some() {
            let urls = [
                ("DATABASE_URL", Some(&self.database_url)),
                ("DATABASE_DIRECT_URL", self.database_direct_url.as_ref()),
            ];
            let twice = urls.into_iter().filter(|(_, url)| url.is_some_and(|url| has_password(url.expose_secret())));
            problems.extend(
                twice.map(|(name, _)| format!("{name} carries a password and DATABASE_PASSWORD is set: keep one")),
            );
        }
        if self.pool_min_size > self.pool_max_size {
            problems.push("POOL_MIN_SIZE is larger than POOL_MAX_SIZE (example: 5 and 10)".into());
        }
        if self.agent_tls == AgentTls::Internal && (self.agent_ca_file.is_none() || self.agent_ca_key_file.is_none()) {
            problems.push(
                "AGENT_CA_FILE and AGENT_CA_KEY_FILE are needed for AGENT_TLS=internal (`baal ca` makes both)".into(),
            );
        }
        if self.models.get(&self.default_model).is_none() {
            problems.push(format!("DEFAULT_MODEL: `{}` is not one of MODELS", self.default_model));
        }
    }

    /// Telegram's id of the bot: the number before the token's colon.
    pub fn bot_id(&self) -> i64 {
        bot_id(self.telegram_bot_token.expose_secret()).unwrap_or_default()
    }

    /// Whether this user is one of OPERATOR_IDS.
    pub fn is_operator(&self, user_id: i64) -> bool {
        self.operator_ids.contains(&user_id)
    }

    /// The `.env` that [`Config::load`] reads: the one of the working directory, or the nearest above it.
    pub fn env_file() -> Option<PathBuf> {
        // silent-ok: without a working directory there is none
        let here = std::env::current_dir().ok()?;
        here.ancestors().map(|directory| directory.join(".env")).find(|path| path.is_file())
    }

    /// Whether the SSH key is where people have their own, because no other was named.
    pub fn has_personal_ssh_key(&self) -> bool {
        default_of("ALEPH_SSH_PRIVKEY_PATH").is_some_and(|path| self.ssh_private_key == expand_home(path))
    }

    /// What is allowed but seldom meant, each in words for the log.
    pub fn doubts(&self) -> Vec<String> {
        let public = default_of("ALEPH_CRN_LIST_URL") == Some(self.aleph_crn_list_url.as_str());
        let mut doubts = Vec::new();
        if self.cloud == CloudKind::Aleph && self.agent_allow_private && public {
            doubts.push(
                "AGENT_ALLOW_PRIVATE is on though anybody can be in the public list of compute nodes: they can lead this \
                 server into its own network. Turn it off, or name a list of your own with ALEPH_CRN_LIST_URL"
                    .into(),
            );
        }
        let is_shared = self.public_url.is_some() && self.admin_listen_addr.is_none();
        if is_shared && self.trusted_proxies.is_empty() {
            doubts.push(
                "the API is on LISTEN_ADDR, behind whatever serves PUBLIC_URL, and TRUSTED_PROXIES is empty: all callers have \
                 one address there, in its limits and in the record of changes. Name the proxy, or give the API an address \
                 of its own with ADMIN_LISTEN_ADDR"
                    .into(),
            );
        }
        doubts
    }

    /// Variables of the Python system that are set and ignored.
    pub fn retired() -> Vec<&'static str> {
        RETIRED.into_iter().filter(|name| std::env::var_os(name).is_some()).collect()
    }
}

/// The process' environment, over `.env` where that is to be read.
fn given(env_file: bool, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    if env_file {
        match dotenvy::dotenv_iter() {
            Ok(lines) => {
                for line in lines {
                    match line {
                        Ok((name, value)) => drop(values.insert(name, value)),
                        // The error would show the line, and the line may be a secret.
                        Err(_) => {
                            problems.push(".env has a line that cannot be read (quote values with spaces)".into())
                        }
                    }
                }
            }
            Err(error) if error.not_found() => {}
            Err(_) => problems.push(".env exists but cannot be read".into()),
        }
    }
    values.extend(std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))));
    values
}

/// A variable's default, as it is in the documentation.
fn default_of(name: &str) -> Option<&'static str> {
    VARIABLES.iter().find(|variable| variable.name == name).and_then(|variable| match variable.need {
        Need::Default(default) => Some(default),
        Need::Required | Need::Optional => None,
    })
}

struct Source(BTreeMap<String, String>);

impl Source {
    /// The value of `name`, or of the file that `NAME_FILE` names, without surrounding white space.
    fn value(&self, name: &str) -> Result<Option<String>, String> {
        let given = |name: &str| self.0.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        match (given(name), given(&format!("{name}_FILE"))) {
            (Some(_), Some(_)) => Err(format!("{name} and {name}_FILE are both set: keep one")),
            (Some(value), None) => Ok(Some(value.to_owned())),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(expand_home(file));
                let text = text.map_err(|e| format!("{name}_FILE: {file} cannot be read ({e})"))?;
                Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
            }
            (None, None) => Ok(None),
        }
    }

    /// One of [`VARIABLES`] by itself.
    fn documented<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        problems: &mut Vec<String>,
    ) -> Option<T> {
        let variable = VARIABLES.iter().find(|variable| variable.name == name)?;
        self.setting(name, variable.need, variable.example, parse, problems)
    }

    fn setting<T>(
        &self,
        name: &str,
        need: Need,
        example: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        problems: &mut Vec<String>,
    ) -> Option<T> {
        let value = match (self.value(name), need) {
            (Err(problem), _) => {
                problems.push(problem);
                return None;
            }
            (Ok(Some(value)), _) => value,
            (Ok(None), Need::Default(default)) => default.to_owned(),
            (Ok(None), Need::Optional) => String::new(),
            (Ok(None), Need::Required) => {
                problems.push(format!("{name} is missing (example: {example})"));
                return None;
            }
        };
        // Neither the value nor anything made from it is shown: it may be a secret in the wrong place.
        parse(&value).map_err(|why| problems.push(format!("{name} {why} (example: {example})"))).ok()
    }
}
