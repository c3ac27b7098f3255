//! Deliveries to the webhook alone: nobody handles them.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::task::JoinSet;

use crate::driver::Webhook;
use crate::pgbench::{self, Script};
use crate::stack::{FIRST_USER, Stack};
use crate::table::Table;
use crate::{quantile, telegram};

/// Telegram's connections at the same time.
const CLIENTS: [usize; 3] = [1, 32, 100];
/// A chat with many unhandled updates is refused more.
const CHATS: i64 = 20_000;
/// Percent of what `pgbench` commits.
const TARGET: f64 = 50.0;

pub async fn measure(length: Duration, table: &mut Table) -> anyhow::Result<()> {
    let (telegram, _ears) = telegram::serve(1).await?;
    let stack = Stack::start().await?;
    let baal = stack.baal(telegram, &["serve", "--no-worker"]).await?;
    println!(
        "\nDeliveries, committed before they are acknowledged\nclients     acks/s   p50 ms   p99 ms | pgbench commits/s   part of it"
    );
    for clients in CLIENTS {
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for client in 0..clients {
            let mut webhook = Webhook::connect(baal.address).await?;
            running.spawn(async move {
                let mut times = Vec::new();
                let mut chat = client as i64 * 7;
                while begun.elapsed() < length {
                    chat = (chat + 1) % CHATS;
                    let sent = Instant::now();
                    let status = webhook.post(FIRST_USER + chat, "hello").await?;
                    ensure!(status == 200, "the webhook answers {status}");
                    times.push(sent.elapsed());
                }
                Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(ended) = running.join_next().await {
            times.extend(ended??);
        }
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        let (commits, _) = pgbench::run(&stack, Script::Delivery, clients.min(64), length / 2).await?;
        println!(
            "{clients:7} {rate:10.0} {:8.2} {:8.2} | {commits:17.0} {:11.0} %",
            quantile(&mut times, 0.5),
            quantile(&mut times, 0.99),
            rate / commits * 100.0
        );
        table.at_least(
            format!("deliveries acknowledged, {clients} at once: of what `pgbench` commits"),
            rate / commits * 100.0,
            TARGET,
            "%",
        );
    }
    Ok(())
}
