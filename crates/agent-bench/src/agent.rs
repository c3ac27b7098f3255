//! The process that is measured.

use crate::chat::SECRET;
use crate::model::Model;
use anyhow::{Context, bail};
use baal_protocol::{AgentLock, LOCK_FILE};
use serde_json::json;
use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const HEALTHY_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether the agent is healthy.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A running agent, killed when dropped.
pub struct Agent {
    process: Child,
    /// Its process id.
    pub pid: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// From its start to its first 200 of `/health`.
    pub healthy_after: Duration,
}

impl Agent {
    /// Starts an agent on a directory, new or used before, and waits until it is healthy.
    ///
    /// # Errors
    /// It isn't after 10 s.
    pub async fn start(binary: &Path, directory: &Path, model: &Model) -> anyhow::Result<Self> {
        let config = directory.join("agent.json");
        write_config(&config, directory, model)?;
        let log = directory.join("agent.log");
        let mut command = Command::new(binary);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        // As it is installed; lines of logs cost as much as they do there.
        command.env_clear().kill_on_drop(true);
        let begun = Instant::now();
        let mut process = command.spawn()?;
        let pid = process.id().context("the agent ended at once")?;
        while begun.elapsed() < HEALTHY_WITHIN {
            if let Some(address) = told_address(directory, pid)
                && is_healthy(address).await
            {
                return Ok(Self { process, pid, address, healthy_after: begun.elapsed() });
            }
            if process.try_wait()?.is_some() {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        bail!("the agent did not become healthy; it says: {}", std::fs::read_to_string(log).unwrap_or_default())
    }

    /// Ends it as systemd does.
    ///
    /// # Errors
    /// It didn't end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        // By the program: sending a signal takes unsafe code or one crate more.
        Command::new("kill").arg(self.pid.to_string()).status().await?;
        timeout(Duration::from_secs(10), self.process.wait()).await.context("the agent did not stop")??;
        Ok(())
    }
}

fn write_config(path: &Path, directory: &Path, model: &Model) -> anyhow::Result<()> {
    let config = json!({
        "agent_name": "Ada", "system_prompt": "You are a helpful assistant.", "model": "instant",
        "libertai_api_key": "none", "libertai_api_base_url": format!("http://{}/v1", model.address),
        "agent_secret": SECRET, "port": 0, "db_path": directory.join("agent.db"),
        "workspace_path": directory.join("workspace"), "owner_chat_id": "1",
    });
    std::fs::write(path, config.to_string())?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(())
}

/// The agent takes a free port and tells it in its lock file.
fn told_address(directory: &Path, pid: u32) -> Option<SocketAddr> {
    // silent-ok: missing, empty or another's until the agent listens
    let lock: AgentLock = serde_json::from_slice(&std::fs::read(directory.join(LOCK_FILE)).ok()?).ok()?;
    if lock.pid == pid { lock.address.parse().ok() } else { None }
}

async fn is_healthy(address: SocketAddr) -> bool {
    let ask = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET /health HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    // silent-ok: not healthy yet
    ask.await.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 "))
}
