//! Many turns open at once, because the model is slow: what each takes, and how quickly commands are answered beside them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::timeout;

use crate::driver::Webhook;
use crate::stack::{self, FIRST_USER, Stack};
use crate::table::Table;
use crate::{agents, procfs, quantile, telegram};

/// The agents answer after this.
const HOLD: Duration = Duration::from_secs(150);
const COMMANDS: usize = 100;
/// From the last question until all turns are open.
const SETTLED: Duration = Duration::from_secs(90);
/// As many are open as will be when no more are after this.
const STILL: Duration = Duration::from_secs(8);

pub async fn measure(turns: usize, table: &mut Table) -> anyhow::Result<()> {
    let (telegram, mut ears) = telegram::serve(turns + 1).await?;
    let agents = stack::start_role("agents", &[(agents::HOLD, HOLD.as_secs().to_string())])?;
    let stack = Stack::start().await?;
    let baal = stack.baal(telegram, &["serve"]).await?;
    stack.people(turns + 1, agents.address).await?;
    let mut webhook = Webhook::connect(baal.address).await?;
    // The first connections and what every process has once.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = procfs::memory(baal.id())?;
    for user in 0..turns {
        let status = webhook.post(FIRST_USER + user as i64, "a slow question").await?;
        ensure!(status == 200, "the webhook answers {status}");
    }
    let mut conn = stack.conn().await?;
    let (deadline, mut open, mut grown) = (Instant::now() + SETTLED, 0, Instant::now());
    while open < turns as i64 && Instant::now() < deadline && grown.elapsed() < STILL {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = sqlx::query_scalar("select count(*) from turns where not done and claimed_by is not null")
            .fetch_one(&mut conn)
            .await?;
        if now > open {
            (open, grown) = (now, Instant::now());
        }
    }
    let during = procfs::memory(baal.id())?;
    let mut times = Vec::new();
    let commander = ears.get_mut(turns).context("nobody is left to ask")?;
    for _ in 0..COMMANDS {
        let sent = Instant::now();
        webhook.post(FIRST_USER + turns as i64, "/help").await?;
        timeout(Duration::from_secs(60), commander.recv()).await.context("a command is not answered")?;
        times.push(sent.elapsed());
    }
    let most: i64 = sqlx::query_scalar("select count(*) from turns where not done and claimed_by is not null")
        .fetch_one(&mut conn)
        .await?;
    let each = (during - before) * 1024.0 / open.max(1) as f64;
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(&mut times, part));
    println!(
        "\nTurns open at once: {open} of {turns} in one process ({most} after the commands)\n{each:.0} KiB each ({before:.0} MiB before, {during:.0} MiB then); commands beside them: p50 {p50:.1} ms, p99 {p99:.1} ms"
    );
    table.at_least("turns open at once in one process", open as f64, turns as f64, "");
    table.at_most(format!("memory of an open turn, {open} open"), each, 64.0, "KiB");
    table.at_most(format!("`/help` beside {open} open turns: p99"), p99, 50.0, "ms");
    Ok(())
}
