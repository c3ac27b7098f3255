//! From exec to healthy, and what an idle agent holds.

use crate::agent::Agent;
use crate::model::Model;
use crate::{millis, procfs, quantile};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const STARTS: usize = 20;
/// What a start leaves behind is settled by then.
const IDLE: Duration = Duration::from_secs(5);

/// Starts in new directories, which makes databases, and in a used one, which is what a restart does.
///
/// # Errors
/// The agent doesn't start.
pub async fn measure(binary: &Path, disk: &Path, model: &Model) -> anyhow::Result<()> {
    let mut first = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let directory = TempDir::with_prefix_in("bench-agent-", disk)?;
        let agent = Agent::start(binary, directory.path(), model).await?;
        first.push(agent.healthy_after);
        agent.stop().await?;
    }
    let directory = TempDir::with_prefix_in("bench-agent-", disk)?;
    Agent::start(binary, directory.path(), model).await?.stop().await?;
    let mut again = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let agent = Agent::start(binary, directory.path(), model).await?;
        again.push(agent.healthy_after);
        agent.stop().await?;
    }
    for (name, times) in [("empty directory", &mut first), ("used directory", &mut again)] {
        let (median, most) = (millis(quantile(times, 0.5)), millis(quantile(times, 1.0)));
        println!("start to healthy, {name:15} {median:10.1} ms    goal ≤ 15    most {most:.1} of {STARTS} starts");
    }
    let agent = Agent::start(binary, directory.path(), model).await?;
    tokio::time::sleep(IDLE).await;
    let (resident, anonymous) = procfs::memory(agent.pid)?;
    println!("idle memory after 5 s               {resident:8.1} MiB   goal ≤ 8     {anonymous:.1} of it in no file");
    agent.stop().await
}
