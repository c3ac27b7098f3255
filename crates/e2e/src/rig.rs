//! The installed agent, its model, and people who talk to it.

use crate::machine::{Machine, Tunnel};
use anyhow::{Context, ensure};
use baal_simulators::libertai::{self, LibertAi, Pace, Script};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// The agent's port, as the control plane configures it.
pub const PORT: u16 = 8080;
/// Seconds after which a turn counts as hung.
const PATIENCE: u64 = 400;

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaker {
    /// Chat and Telegram user.
    pub id: i64,
    /// `owner` or `visitor`.
    pub role: &'static str,
}

/// What the model asks for.
#[derive(Debug, Clone)]
pub struct ToolCall {
    /// Such as `bash`.
    pub name: &'static str,
    /// Its parameters.
    pub arguments: Value,
}

impl ToolCall {
    /// A shell command.
    pub fn bash(command: &str, timeout: u64) -> Self {
        Self { name: "bash", arguments: json!({"command": command, "timeout": timeout}) }
    }
}

/// What came of a turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// The events as they came.
    pub events: Vec<Value>,
    /// What the model was told of each of its tool calls.
    pub results: Vec<String>,
}

/// Everything an attacker gets to see of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said(pub String);

impl Turn {
    /// Events and results as text.
    pub fn said(&self) -> Said {
        let mut text = self.results.join("\n");
        for event in self.events.iter().filter(|event| event["type"] != "tool_use") {
            text.push('\n');
            text.push_str(&event.to_string());
        }
        Said(text)
    }
}

/// A machine with the agent on it.
pub struct Rig {
    /// Where it runs.
    pub machine: Machine,
    /// Its model.
    pub model: LibertAi,
    /// The key of the model, which nobody but the server may know.
    pub key: String,
    /// The secret with which it is called.
    pub secret: String,
    simulator: u16,
    http: reqwest::Client,
    tunnel: Option<Tunnel>,
}

/// The static agent, as `make agent` builds it.
///
/// # Errors
/// It was not built.
pub fn agent_binary() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let binary = target.join(format!("{}-unknown-linux-gnu/agent/baal-agent", std::env::consts::ARCH));
    ensure!(binary.is_file(), "{} is missing: run `make agent`", binary.display());
    Ok(binary)
}

impl Rig {
    /// Starts the machine and a model that the machine can reach; installs nothing yet.
    ///
    /// # Errors
    /// No machine, or no static agent.
    pub async fn start() -> anyhow::Result<Self> {
        // silent-ok: an error only says that one is installed already
        drop(rustls::crypto::ring::default_provider().install_default());
        let binary = agent_binary()?;
        let machine = tokio::task::spawn_blocking(Machine::start).await??;
        let model = LibertAi::default();
        model.set_pace(Pace { first_ms: 0, piece_ms: 0 });
        // A VM's user-mode network leads to the host's loopback; a container's to the address that it sees.
        let local = if machine.host == IpAddr::from([10, 0, 2, 2]) { Ipv4Addr::LOCALHOST.into() } else { machine.host };
        let listener = tokio::net::TcpListener::bind((local, 0)).await.context("the model cannot listen")?;
        let simulator = listener.local_addr()?.port();
        tokio::spawn(axum::serve(listener, libertai::router_with(model.clone())).into_future());
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/systemd");
        machine.copy(&[&binary, &units], "/root/baal")?;
        Ok(Self {
            machine,
            model,
            key: format!("key-{}", Uuid::new_v4().simple()),
            secret: format!("secret-{}", Uuid::new_v4().simple()),
            simulator,
            http: reqwest::Client::builder().timeout(Duration::from_secs(PATIENCE)).build()?,
            tunnel: None,
        })
    }

    /// The port of the model on the test's host.
    pub fn model_port(&self) -> u16 {
        self.simulator
    }

    /// Installs the agent, or installs it again, with these fields of the configuration beside the necessary ones. Returns
    /// what the installer said.
    ///
    /// # Errors
    /// The installer failed.
    pub fn install(&mut self, more: Value) -> anyhow::Result<String> {
        let host = self.machine.host;
        let mut config = json!({
            "agent_name": "Ada", "system_prompt": "You are careful.", "model": "qwen3-coder-next",
            "libertai_api_key": self.key, "libertai_api_base_url": format!("http://{host}:{}/v1", self.simulator),
            "agent_secret": self.secret, "port": PORT, "db_path": "/var/lib/baal-agent/agent.db",
            "workspace_path": "/var/lib/baal-tools/workspace", "tools_socket": "/run/baal-tools.sock",
            "guest_tools_socket": "/run/baal-guests.sock",
            "owner_chat_id": "1", "heartbeat_interval": 0,
            // Stands for the internet, from where a redirect may lead anywhere.
            "web_allow": ["198.51.100.0/24"],
        });
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        let directory = std::env::temp_dir().join(format!("baal-e2e-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("config.json");
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)
            .context("config");
        serde_json::to_writer(opened?, &config)?;
        let copied = self.machine.copy(&[&file], "/root/baal");
        std::fs::remove_dir_all(&directory)?;
        copied?;
        self.machine
            .root("bash /root/baal/systemd/install.sh --binary /root/baal/baal-agent --config /root/baal/config.json")
    }

    /// A message of `speaker`, upon which the model makes these calls one after another and then answers. Returns when the
    /// turn is over.
    ///
    /// # Errors
    /// The agent cannot be reached, or the turn hangs.
    pub async fn turn(&mut self, speaker: Speaker, calls: &[ToolCall]) -> anyhow::Result<Turn> {
        let id = Uuid::new_v4();
        let message = format!("turn {id}");
        let mut replies: Vec<Value> = calls
            .iter()
            .map(|call| json!({"tool_calls": [{"name": call.name, "arguments": call.arguments}]}))
            .collect();
        replies.push(json!({"content": "That was all."}));
        let script: Script = serde_json::from_value(json!({"match": message, "replies": replies}))?;
        self.model.add_script(script);
        let events = self.say(speaker, id, &message).await?;
        Ok(Turn { events, results: self.results(&message) })
    }

    async fn say(&mut self, speaker: Speaker, id: Uuid, message: &str) -> anyhow::Result<Vec<Value>> {
        let port = self.port()?;
        let body = json!({
            "message": message, "chat_id": speaker.id.to_string(), "turn_id": id,
            "sender": {"id": speaker.id, "name": "Eve", "role": speaker.role},
        });
        let text = self
            .http
            .post(format!("http://127.0.0.1:{port}/chat"))
            .bearer_auth(&self.secret)
            .json(&body)
            .send()
            .await
            .context("the agent doesn't answer")?
            .error_for_status()?
            .text()
            .await
            .context("the turn doesn't end")?;
        text.lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|data| Ok(serde_json::from_str(data.trim())?))
            .collect()
    }

    /// A GET at the agent with its secret: status and body.
    ///
    /// # Errors
    /// The agent cannot be reached.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<(u16, String)> {
        let port = self.port()?;
        let response = self.http.get(format!("http://127.0.0.1:{port}{path}")).bearer_auth(&self.secret).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    fn port(&mut self) -> anyhow::Result<u16> {
        if let Some(tunnel) = &self.tunnel {
            return Ok(tunnel.port);
        }
        let tunnel = self.machine.tunnel(PORT)?;
        let port = tunnel.port;
        self.tunnel = Some(tunnel);
        Ok(port)
    }

    /// The tool results in the last request that answers `message`.
    fn results(&self, message: &str) -> Vec<String> {
        let text = |message: &Value| match &message["content"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let requests = self.model.requests();
        let of_turn = requests.iter().rev().find_map(|request| {
            let messages = request["messages"].as_array()?;
            let at = messages.iter().rposition(|m| m["role"] == "user" && text(m).contains(message))?;
            messages.get(at..)
        });
        of_turn.unwrap_or_default().iter().filter(|m| m["role"] == "tool").map(text).collect()
    }
}
