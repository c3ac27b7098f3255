//! Measures one agent binary over loopback and prints its figures beside their goals; nothing fails for being slow.
//!
//! The agent is a process of its own. Driver and model share one thread of this process, so that on two processors they
//! take as little from the agent as they can; what they took is part of the output, and so is what others took.

mod agent;
mod chat;
mod conversation;
mod load;
mod model;
mod procfs;
mod start;

use agent::Agent;
use anyhow::Context;
use clap::Parser;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Prints the figures of an agent: start, memory, turns a second, long conversations. Takes under two minutes.
#[derive(Parser)]
struct Arguments {
    /// The agent's binary, built as it is shipped.
    binary: PathBuf,
    /// A directory on the disk to measure with, instead of the binary's.
    #[arg(long, value_name = "DIRECTORY")]
    disk: Option<PathBuf>,
    /// Seconds of load for each number of chats.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Only the turns a second.
    #[arg(long)]
    load_only: bool,
    /// Only with the database in memory.
    #[arg(long)]
    memory_only: bool,
}

/// A file system without a disk.
const MEMORY: &str = "/dev/shm";

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&arguments))
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let binary = arguments.binary.canonicalize().with_context(|| {
        format!("{} is not there; build it first: cargo build --release -p baal-agent", arguments.binary.display())
    })?;
    let disk = match &arguments.disk {
        Some(directory) => directory.as_path(),
        None => binary.parent().context("the binary has no directory")?,
    };
    let model = model::serve().await?;
    let seconds = Duration::from_secs(arguments.seconds);
    let size = binary.metadata()?.len() as f64 / 1e6;
    println!("binary                              {size:8.1} MB    goal ≤ 12");
    if !arguments.load_only {
        start::measure(&binary, disk, &model).await?;
    }
    let mut places = vec![("on disk", disk)];
    let memory = Path::new(MEMORY);
    if memory.is_dir() {
        places.push(("in /dev/shm", memory));
    }
    for (name, parent) in places {
        if arguments.memory_only && parent != memory {
            continue;
        }
        let directory = TempDir::with_prefix_in("bench-agent-", parent)?;
        println!("\nDatabase {name} (4 KiB written and fdatasync: {:.0} µs)", sync_micros(directory.path())?);
        let agent = Agent::start(&binary, directory.path(), &model).await?;
        load::measure(&agent, &model, seconds).await?;
        if !arguments.load_only {
            conversation::measure(&agent).await?;
        }
        agent.stop().await?;
    }
    if !arguments.load_only {
        println!(
            "\nThe Python agent on the same kind of machine: start 1,122 ms, 70 MiB, 39–56 turns/s, 18–25 ms CPU a turn."
        );
    }
    Ok(())
}

/// Median of 50 small writes, in µs: what a commit waits for.
fn sync_micros(directory: &Path) -> anyhow::Result<f64> {
    let mut file = std::fs::File::create(directory.join("sync"))?;
    let mut times = Vec::with_capacity(50);
    for _ in 0..50 {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(quantile(&mut times, 0.5).as_secs_f64() * 1e6)
}

/// The smallest time that a share of all does not exceed; sorts.
fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((share * last as f64).round() as usize).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let mut times: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        let found = [0.0, 0.5, 0.99, 1.0].map(|share| quantile(&mut times, share).as_millis());
        assert_eq!(found, [1, 51, 100, 101]);
        assert_eq!(quantile(&mut [], 0.5), Duration::ZERO);
    }
}
