//! Turns a second: so many chats at the same time, each asking again as soon as it is answered.

use crate::agent::Agent;
use crate::chat::Caller;
use crate::model::Model;
use crate::procfs::{self, Cpu};
use crate::{millis, quantile};
use anyhow::Context;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Chats at the same time, and whether they ask for partial text.
const LEVELS: [(usize, bool); 5] = [(1, false), (8, false), (32, false), (128, false), (32, true)];
/// After the end of a level, for the turns that are under way.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this time memory that could be given back has been.
const SETTLED: Duration = Duration::from_secs(3);

/// Prints a line for every number of chats, each in new chats whose histories grow, then the memory.
///
/// # Errors
/// A turn failed.
pub async fn measure(agent: &Agent, model: &Model, length: Duration) -> anyhow::Result<()> {
    println!(
        "                               ms a turn      CPU ms a turn    processors busy with   MiB    sent to the model\n\
         chats           turns/s     p50      p99     agent   driver   agent driver others    in use  KB a turn, conns"
    );
    for (chats, stream) in LEVELS {
        level(agent, model, chats, stream, length).await?;
    }
    println!("goal             ≥ 2500                       ≤ 0.5");
    tokio::time::sleep(SETTLED).await;
    let (resident, anonymous) = procfs::memory(agent.pid)?;
    println!("memory 3 s after the load: {resident:.1} MiB, {anonymous:.1} of it in no file");
    Ok(())
}

async fn level(agent: &Agent, model: &Model, chats: usize, stream: bool, length: Duration) -> anyhow::Result<()> {
    let (connections, body_bytes) = (model.connections(), model.body_bytes());
    let before = Cpu::now(agent.pid)?;
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for chat in 0..chats {
        let mut caller = Caller::connect(agent.address).await?;
        let chat_id = format!("load-{chats}-{stream}-{chat}");
        callers.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < length {
                times.push(caller.turn(&chat_id, times.len() as u64, stream).await?);
            }
            anyhow::Ok(times)
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(ended) = timeout(length + PATIENCE, callers.join_next()).await.context("a turn takes for ever")? {
        times.extend(ended??);
    }
    let (took, cpu) = (begun.elapsed().as_secs_f64(), Cpu::now(agent.pid)?.since(before));
    let turns = times.len() as f64;
    let (resident, _) = procfs::memory(agent.pid)?;
    println!(
        "{chats:3} {:8}  {:10.0}  {:7.2}  {:7.2}  {:8.3} {:8.3}  {:6.2} {:6.2} {:6.2}  {resident:8.1}  {:9.1} {:6}",
        if stream { "streamed" } else { "" },
        turns / took,
        millis(quantile(&mut times, 0.5)),
        millis(quantile(&mut times, 0.99)),
        millis(cpu.agent) / turns,
        millis(cpu.own) / turns,
        cpu.agent.as_secs_f64() / took,
        cpu.own.as_secs_f64() / took,
        cpu.others().as_secs_f64() / took,
        (model.body_bytes() - body_bytes) as f64 / 1e3 / turns,
        model.connections() - connections,
    );
    Ok(())
}
