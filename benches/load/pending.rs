//! What many agents say unasked at the same moment, over TLS, each from a host of its own.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use baal::database;
use sqlx::PgConnection;

use crate::stack::{self, FIRST_USER, Process, Stack};
use crate::table::Table;
use crate::telegram::{self, Ears};
use crate::{agents, procfs, tls};

/// For all messages to be in the outbox.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);
/// Seconds in which all are to be had.
const TARGET: f64 = 5.0;

pub async fn measure(agents: usize, table: &mut Table) -> anyhow::Result<()> {
    let (telegram, mut ears) = telegram::serve(agents).await?;
    let mut stack = Stack::start().await?;
    let authority = tls::authority(stack.dir.path())?;
    stack.settings = vec![
        ("AGENT_TLS", "internal".into()),
        ("AGENT_CA_FILE", authority.certificate.display().to_string()),
        ("AGENT_CA_KEY_FILE", authority.key.display().to_string()),
    ];
    let file = authority.server.display().to_string();
    let far = stack::start_role("agents", &[(agents::PENDING, "1".into()), (tls::CERTIFICATE, file)])?;
    // Before the program starts, which asks at once how many there are.
    database::migrate(&stack.config()?).await?;
    stack.people(agents, far.address).await?;
    let mut conn = stack.conn().await?;
    sqlx::query("update agents set pull_at = 'infinity', url = 'https://a' || owner_id || '.' || $1 || ':' || $2")
        .bind(tls::DOMAIN)
        .bind(i32::from(far.address.port()))
        .execute(&mut conn)
        .await?;
    let baal = stack.baal(telegram, &["serve"]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        "\nMessages that {agents} agents have at once\n{:>26}  in the outbox, s  said to Telegram by then | baal MiB before  most  in the end",
        ""
    );
    let first = sweep(&mut conn, &baal, &mut ears, "the first connection", 0).await?;
    let again = sweep(&mut conn, &baal, &mut ears, "right after that", agents as i64).await?;
    table.at_most(format!("{agents} agents' pending messages, over TLS, new connections"), first.seconds, TARGET, "s");
    table.at_most(format!("{agents} agents' pending messages, over TLS, again"), again.seconds, TARGET, "s");
    let memory = format!("{:.0} MiB before, {:.0} MiB at most", first.before, first.most.max(again.most));
    table.told("memory of `baal` at that", memory);
    Ok(())
}

struct Sweep {
    seconds: f64,
    before: f64,
    most: f64,
}

/// Makes every agent have a message, and waits until Baal has them all for good: `taken` are in the outbox since before.
async fn sweep(
    conn: &mut PgConnection,
    baal: &Process,
    ears: &mut Ears,
    what: &str,
    taken: i64,
) -> anyhow::Result<Sweep> {
    let before = procfs::memory(baal.id())?;
    let heard =
        |ears: &mut Ears| ears.iter_mut().map(|ear| std::iter::from_fn(|| ear.try_recv().ok()).count()).sum::<usize>();
    heard(ears);
    let all = ears.len() as i64;
    // The stub has its one message for whoever has taken in nothing.
    sqlx::query("update agents set pull_at = now(), pending_after = 0").execute(&mut *conn).await?;
    let begun = Instant::now();
    let (mut there, mut most) = (0, before);
    while there < all && begun.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK).await;
        there = count(conn, "select count(*) from outbox").await? - taken;
        most = most.max(procfs::memory(baal.id())?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let said = heard(ears);
    // What is left of it: agents that are asked once more, connections that are kept.
    while count(conn, "select count(*) from agents where pull_claimed_by is not null").await? > 0
        && begun.elapsed() < PATIENCE + PATIENCE
    {
        tokio::time::sleep(LOOK).await;
        most = most.max(procfs::memory(baal.id())?);
    }
    let end = procfs::memory(baal.id())?;
    println!("{what:>26}  {seconds:16.1}  {said:23} | {before:15.0} {most:5.0} {end:11.0}");
    anyhow::ensure!(there == all, "{} messages are missing after {seconds:.0} s", all - there);
    Ok(Sweep { seconds, before, most })
}

async fn count(conn: &mut PgConnection, question: &'static str) -> anyhow::Result<i64> {
    sqlx::query_scalar(question).fetch_one(conn).await.context("the database does not say how many")
}

/// The user to whom the agent at this host speaks.
pub fn owner(host: &str) -> Option<i64> {
    host.strip_prefix('a')?.split('.').next()?.parse().ok().filter(|user| *user >= FIRST_USER)
}
