//! A machine, the kit that sets it up, and a client that trusts the authority of the installation.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use baal::config::Config;
use baal::install::{Kit, authority, on_machine};
use baal::ssh::{Address, Key, Session, host_key};
use baal_e2e::{Machine, agent_binary};
use baal_protocol::AgentConfig;

/// The machine's public name.
pub const NAME: &str = "able-acid-also-arch.vm.test";

/// The id of the machine's row.
pub const VM: uuid::Uuid = uuid::Uuid::from_u128(7);

pub struct Site {
    pub machine: Machine,
    pub address: IpAddr,
    key: Key,
    host_key: String,
    files: tempfile::TempDir,
}

impl Site {
    pub async fn start() -> Self {
        // How much of the time was Debian's archive's is in the log.
        tracing_subscriber::fmt().with_env_filter("warn,baal=info").with_test_writer().init();
        // silent-ok: an error only says that one is installed already
        drop(rustls::crypto::ring::default_provider().install_default());
        let machine = tokio::task::spawn_blocking(Machine::start).await.unwrap().unwrap();
        let (address, key) = machine.place().unwrap();
        let at = Address { host: address.to_string(), port: 22 };
        let host_key = host_key(&at).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        authority::create(files.path()).unwrap();
        Self { machine, address, key: Key::load(&key).unwrap(), host_key, files }
    }

    /// The directory of the authority that signs the machine's certificates.
    pub fn authority(&self) -> &Path {
        self.files.path()
    }

    pub async fn session(&self) -> Session {
        let at = Address { host: self.address.to_string(), port: 22 };
        Session::connect(&self.key, &at, &self.host_key).await.unwrap()
    }

    /// The kit with the agent that `make agent` built.
    pub fn kit(&self) -> Kit {
        self.kit_with(&agent_binary().unwrap(), self.files.path())
    }

    /// The kit with another program.
    pub fn kit_with_program(&self, program: &[u8]) -> Kit {
        let path = self.files.path().join(format!("program-{}", program.len()));
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.kit_with(&path, self.files.path())
    }

    /// The kit with another authority, in this directory.
    pub fn kit_with_authority(&self, directory: &Path) -> Kit {
        self.kit_with(&agent_binary().unwrap(), directory)
    }

    fn kit_with(&self, program: &Path, authority: &Path) -> Kit {
        let path = |path: PathBuf| path.display().to_string();
        let values = BTreeMap::from([
            ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA".to_owned()),
            ("TELEGRAM_MODE", "polling".to_owned()),
            ("DATABASE_URL", "postgres://localhost/baal".to_owned()),
            ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".to_owned()),
            ("LIBERTAI_API_KEY", "key".to_owned()),
            ("CLOUD", "hosts".to_owned()),
            ("AGENT_TLS", "internal".to_owned()),
            ("AGENT_CA_FILE", path(authority.join("ca.pem"))),
            ("AGENT_CA_KEY_FILE", path(authority.join("ca-key.pem"))),
            ("BAAL_AGENT_BINARY", path(program.to_owned())),
        ]);
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Kit::load(&Config::from_values(values, vec![]).unwrap()).unwrap()
    }

    /// What the world gets from this path, over HTTPS, with certificates of the authority in this directory.
    pub async fn get_trusting(&self, authority: &Path, name: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let ca = std::fs::read(authority.join("ca.pem"))?;
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca)?])
            .resolve(name, SocketAddr::new(self.address, 443))
            .no_proxy()
            .build()?;
        let answer = client.get(format!("https://{name}{path}")).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The name in the answer of the agent's `/health`, over HTTPS.
    pub async fn agent_name(&self, name: &str) -> String {
        let (status, text) = self.get_trusting(self.files.path(), name, "/health").await.unwrap();
        assert_eq!(status, 200, "{text}");
        let health: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(health["status"], "ok", "{health}");
        health["agent_name"].as_str().unwrap().to_owned()
    }

    /// When agent, web server and sockets were started, their processes, and what is on the disk for them.
    pub fn fingerprint(&self) -> String {
        self.machine
            .root(
                "systemctl show -p Id -p InvocationID -p MainPID baal-agent caddy baal-tools.socket baal-guests.socket \
                 baal-tools-firewall
                 find /var/lib/baal /var/lib/baal-agent/config.json /etc/caddy /usr/local /etc/systemd/system -not -type d \
                 -printf '%p %T@ %i %m %u %g\\n' | sort",
            )
            .unwrap()
    }

    /// The agent's configuration, as it lies on the machine.
    pub fn config_there(&self) -> AgentConfig {
        serde_json::from_str(&self.machine.root("cat /var/lib/baal-agent/config.json").unwrap()).unwrap()
    }
}

/// A configuration of an agent with this name.
pub fn agent(name: &str) -> AgentConfig {
    on_machine(AgentConfig {
        agent_name: name.to_owned(),
        system_prompt: "You are careful.".into(),
        model: "qwen3-coder-next".into(),
        libertai_api_key: "key-d41d8cd98f00b204".into(),
        libertai_api_base_url: "http://192.0.2.1/v1".into(),
        agent_secret: "secret-e9800998ecf8427e".into(),
        owner_chat_id: "1".into(),
        heartbeat_interval: 0,
        ..AgentConfig::default()
    })
}

/// A static program for x86-64 Linux that does nothing but end with this status.
pub fn program_that_ends(status: u8) -> Vec<u8> {
    let mut file = vec![0u8; 120];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // A program (2) for x86-64 (62), version 1, entered behind its headers.
    (file[16], file[18], file[20]) = (2, 62, 1);
    file[24..32].copy_from_slice(&0x40_0078u64.to_le_bytes());
    (file[32], file[52], file[54], file[56]) = (64, 64, 56, 1);
    // mov edi, status; mov eax, 60 (exit); syscall. Padded, so that programs that end differently are of different length.
    let mut code = vec![0xbf, status, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    code.resize(code.len() + usize::from(status), 0);
    let length = (120 + code.len()) as u64;
    // PT_LOAD, readable and executable, the whole file at 0x400000.
    (file[64], file[68]) = (1, 5);
    file[80..88].copy_from_slice(&0x40_0000u64.to_le_bytes());
    file[88..96].copy_from_slice(&0x40_0000u64.to_le_bytes());
    file[96..104].copy_from_slice(&length.to_le_bytes());
    file[104..112].copy_from_slice(&length.to_le_bytes());
    file[112..120].copy_from_slice(&0x1000u64.to_le_bytes());
    file.extend(code);
    file
}
