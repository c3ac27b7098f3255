//! What one message costs: `make bench`.
//!
//! Closed-loop users send messages to the real webhook and wait for the reply at a stub of Telegram's Bot API; in between are
//! Postgres, dispatcher, turn, an agent that answers at once, and sender. The program, Postgres and the agents are processes of
//! their own; driver and Telegram's stub share one thread of this one. In the same run two lines to hold it against: `pgbench`
//! with the same row writes, and a relay that makes the same HTTP calls and stores nothing. Nothing fails for being slow.

mod acks;
mod agents;
mod claims;
mod driver;
mod history;
mod open;
mod pending;
mod pgbench;
mod procfs;
mod relay;
mod replies;
mod stack;
mod table;
mod telegram;
mod tls;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::table::Table;

/// Prints figures side by side, and at the end a table of those that have targets. Takes some 20 minutes.
#[derive(Parser)]
struct Arguments {
    /// Seconds of load for each line.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Users at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 256], value_parser = at_least_one)]
    users: Vec<usize>,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Part::Replies, Part::Acks, Part::Open, Part::Pending, Part::Claims])]
    only: Vec<Part>,
    /// Replicas of the program on one database, in the part `replies`.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(u8).range(1..=4))]
    replicas: Vec<u8>,
    /// Finished updates that are in the table beforehand, with a tenth as many agents, turns and calls: ten million in the part
    /// `claims`, none in `replies` unless this says so.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=100_000_000))]
    history: Option<u64>,
    /// Messages a second in the part `claims`.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// For how long a snapshot is held open in the part `claims`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=60))]
    snapshot_minutes: u64,
    /// Turns that are open at once in the part `open`.
    #[arg(long, default_value_t = 5_000, value_parser = at_least_one)]
    turns: usize,
    /// Agents that have something to say in the part `pending`.
    #[arg(long, default_value_t = 10_000, value_parser = at_least_one)]
    agents: usize,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Messages and their replies.
    Replies,
    /// Deliveries to the webhook alone.
    Acks,
    /// Turns that wait for a slow model.
    Open,
    /// What agents say unasked.
    Pending,
    /// The queues' claims with long tables and a dump under way.
    Claims,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1..=20_000).contains(&number) { Ok(number) } else { Err("not between 1 and 20000".to_owned()) }
}

fn main() -> anyhow::Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The other processes of a run are this program again.
    match std::env::var(stack::ROLE).as_deref() {
        Ok("agents") => return runtime.block_on(agents::serve()),
        Ok("relay") => return tokio::runtime::Runtime::new()?.block_on(relay::serve()),
        _ => {}
    }
    let arguments = Arguments::parse();
    raise_limit()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            ended = run(&arguments) => ended,
            // What was started ends with what owns it.
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("terminated"),
        }
    })
}

/// As many open files as may be, for this process and those that it starts: a connection each.
fn raise_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let length = Duration::from_secs(arguments.seconds);
    let wants = |part| arguments.only.contains(&part);
    let machine = procfs::machine()?;
    println!("{machine}");
    let mut table = Table::default();
    if wants(Part::Replies) {
        for &replicas in &arguments.replicas {
            replies::measure(arguments, replicas, length, &mut table).await?;
        }
    }
    if wants(Part::Acks) {
        acks::measure(length, &mut table).await?;
    }
    if wants(Part::Open) {
        open::measure(arguments.turns, &mut table).await?;
    }
    if wants(Part::Pending) {
        pending::measure(arguments.agents, &mut table).await?;
    }
    if wants(Part::Claims) {
        claims::measure(arguments, length, &mut table).await?;
    }
    let options: Vec<String> = std::env::args().skip(1).filter(|option| option != "--bench").collect();
    table.print(
        &machine,
        ["cargo bench -p baal --bench load --", &options.join(" ")].join(" ").trim_end_matches([' ', '-']),
    );
    Ok(())
}

/// The value below which this part of the sorted times lies, in milliseconds.
fn quantile(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    let place = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
    times.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
