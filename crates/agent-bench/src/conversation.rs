//! Whether a long conversation is as fast as a new one.

use crate::agent::Agent;
use crate::chat::Caller;
use crate::procfs::Cpu;
use crate::{millis, quantile};
use std::time::{Duration, Instant};

/// Turns that are measured at each length.
const MEASURED: u64 = 200;
/// A new conversation grows while it is measured, so there are many of them.
const NEW_CHATS: u64 = 40;
/// Most time to get to one of the lengths; what a slow machine has not reached by then it measures at the length it has.
const FILL_WITHIN: Duration = Duration::from_secs(12);

/// Prints a line for conversations of 10, 1,000 and 10,000 messages.
///
/// # Errors
/// A turn failed.
pub async fn measure(agent: &Agent) -> anyhow::Result<()> {
    println!("one conversation of           p50      p99    agent CPU ms a turn");
    let mut caller = Caller::connect(agent.address).await?;
    let new_chats: Vec<String> = (0..NEW_CHATS).map(|chat| format!("new-{chat}")).collect();
    let deadline = Instant::now() + FILL_WITHIN;
    for chat_id in &new_chats {
        fill(&mut caller, chat_id, 0, 5, deadline).await?;
    }
    let visits: Vec<(&str, u64)> =
        (0..MEASURED).map(|turn| (new_chats[(turn % NEW_CHATS) as usize].as_str(), 5 + turn / NEW_CHATS)).collect();
    line(agent, &mut caller, 10, &visits).await?;
    let mut turns = 0;
    for length in [1_000, 10_000] {
        let deadline = Instant::now() + FILL_WITHIN;
        turns = fill(&mut caller, "long", turns, length / 2, deadline).await?;
        let visits: Vec<(&str, u64)> = (turns..turns + MEASURED).map(|turn| ("long", turn)).collect();
        line(agent, &mut caller, turns * 2, &visits).await?;
        turns += MEASURED;
    }
    Ok(())
}

/// Brings a chat to a number of turns; the answer is how many it has.
async fn fill(caller: &mut Caller, chat_id: &str, from: u64, to: u64, deadline: Instant) -> anyhow::Result<u64> {
    for turn in from..to {
        if Instant::now() > deadline {
            return Ok(turn);
        }
        caller.turn(chat_id, turn, false).await?;
    }
    Ok(to.max(from))
}

async fn line(agent: &Agent, caller: &mut Caller, messages: u64, visits: &[(&str, u64)]) -> anyhow::Result<()> {
    let before = Cpu::now(agent.pid)?;
    let mut times = Vec::with_capacity(visits.len());
    for (chat_id, turn) in visits {
        times.push(caller.turn(chat_id, *turn, false).await?);
    }
    let cpu = millis(Cpu::now(agent.pid)?.since(before).agent) / visits.len() as f64;
    let (p50, p99) = (millis(quantile(&mut times, 0.5)), millis(quantile(&mut times, 0.99)));
    println!("{messages:8} messages        {p50:8.2} {p99:8.2}    {cpu:8.3}");
    Ok(())
}
