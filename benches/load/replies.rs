//! Replies a second, for so many users at the same time.

use std::time::Duration;

use sqlx::PgConnection;

use crate::pgbench::{self, Script};
use crate::stack::{self, Process, Stack};
use crate::table::Table;
use crate::telegram::Ears;
use crate::{Arguments, agents, driver, history, procfs, quantile, relay, telegram};

/// Before each line, not counted: connections, plans and caches.
const WARM_UP: Duration = Duration::from_secs(2);
/// One alone would be taken for a flood.
const FEWEST_PEOPLE: usize = 8;

/// Figures of the processes that take part.
#[derive(Clone, Copy)]
struct Spent {
    baal: Duration,
    postgres: Duration,
    driver: Duration,
    all: Duration,
    commits: i64,
    statements: i64,
}

pub async fn measure(arguments: &Arguments, replicas: u8, length: Duration, table: &mut Table) -> anyhow::Result<()> {
    let people = arguments.users.iter().copied().max().unwrap_or(1).max(FEWEST_PEOPLE);
    let (telegram, mut ears) = telegram::serve(people).await?;
    let agents = stack::start_role("agents", &[(agents::HOLD, "0".into())])?;
    let mut stack = Stack::start().await?;
    let number = replicas;
    let mut replicas = vec![stack.baal(telegram, &["serve"]).await?];
    for _ in 1..number {
        replicas.push(stack.baal(telegram, &["serve"]).await?);
    }
    if let Some(rows) = arguments.history {
        history::fill(&mut stack.conn().await?, rows).await?;
    }
    println!(
        "\nReplies: {} replica(s), {} finished updates beforehand; CPU, commits and statements are those of one reply\n\
         users  replies/s   p50 ms   p99 ms | baal ms  postgres ms  driver ms  others ms | commits  statements | baal MiB | pgbench/s  ms | relay/s  p50 ms",
        number,
        arguments.history.unwrap_or(0)
    );
    let mut conn = stack.conn().await?;
    for &users in &arguments.users {
        // No more agents than people who speak: each is listened to, which takes memory.
        let people = users.max(FEWEST_PEOPLE);
        stack.people(people, agents.address).await?;
        let silent = ears.split_off(people);
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
        let (_, _, back) = driver::run(&addresses, ears, users, WARM_UP).await?;
        // As autovacuum does within the first minute; until then plans are made for empty tables.
        sqlx::query("analyze").execute(&mut conn).await?;
        let (_, _, back) = driver::run(&addresses, back, users, WARM_UP).await?;
        let before = Spent::now(&mut stack, &replicas, &mut conn).await?;
        let (mut times, took, back) = driver::run(&addresses, back, users, length).await?;
        let spent = Spent::now(&mut stack, &replicas, &mut conn).await?.since(before);
        let memory: f64 = replicas.iter().map(|replica| procfs::memory(replica.id())).sum::<anyhow::Result<_>>()?;
        ears = back;
        let count = times.len() as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e3 / count;
        let others = spent.all.saturating_sub(spent.baal + spent.postgres + spent.driver);
        let (bench, bench_ms) = pgbench::run(&stack, Script::Message, users.min(64), length / 2).await?;
        let (relayed, relayed_ms, back) = relayed(telegram, &agents, ears, users, length / 2).await?;
        ears = back;
        ears.extend(silent);
        println!(
            "{users:5} {:10.0} {:8.2} {:8.2} | {:7.3} {:12.3} {:10.3} {:10.3} | {:7.2} {:11.2} | {memory:8.1} | {bench:9.0} {bench_ms:3.1} | {relayed:7.0} {relayed_ms:7.2}",
            count / took.as_secs_f64(),
            quantile(&mut times, 0.5),
            quantile(&mut times, 0.99),
            each(spent.baal),
            each(spent.postgres),
            each(spent.driver),
            each(others),
            spent.commits as f64 / count,
            spent.statements as f64 / count,
        );
        let line = Line {
            users,
            replicas: number,
            rate: count / took.as_secs_f64(),
            p50: quantile(&mut times, 0.5),
            cpu: each(spent.baal),
            memory,
            bench_ms,
            relayed,
        };
        line.tell(table);
    }
    claims(&mut conn).await
}

/// What a line of one run has targets for.
struct Line {
    users: usize,
    replicas: u8,
    rate: f64,
    p50: f64,
    cpu: f64,
    memory: f64,
    bench_ms: f64,
    relayed: f64,
}

impl Line {
    fn tell(&self, table: &mut Table) {
        let replicas = if self.replicas == 1 { String::new() } else { format!(", {} replicas", self.replicas) };
        let users = if self.users == 1 { "1 user".to_owned() } else { format!("{} users", self.users) };
        let what = |figure: &str| format!("{figure}, {users}{replicas}");
        match (self.users, self.replicas) {
            // Where the disk is slow, by what it takes.
            (1, 1) => table.at_most(what("a reply: p50"), self.p50, (5.0 * self.bench_ms + 2.0).max(4.0), "ms"),
            (32, 1) => {
                table.at_least(what("replies a second"), self.rate, 1_500.0, "");
                table.at_least(
                    what("part of the bare relay's rate"),
                    self.rate / self.relayed * 100.0,
                    100.0 / 3.0,
                    "%",
                );
                table.at_most(what("CPU of `baal` for a reply"), self.cpu, 0.5, "ms");
                table.at_most(what("memory of `baal`"), self.memory, 40.0, "MiB");
            }
            _ => {
                let figures = format!("{:.0}, p50 {:.1} ms, {:.0} MiB", self.rate, self.p50, self.memory);
                table.told(what("replies a second"), figures);
            }
        }
    }
}

async fn relayed(
    telegram: std::net::SocketAddr,
    agents: &Process,
    ears: Ears,
    users: usize,
    length: Duration,
) -> anyhow::Result<(f64, f64, Ears)> {
    let relay = stack::start_role(
        "relay",
        &[(relay::AGENTS, agents.address.to_string()), (relay::TELEGRAM, telegram.to_string())],
    )?;
    let (mut times, took, ears) = driver::run(&[relay.address], ears, users, length).await?;
    Ok((times.len() as f64 / took.as_secs_f64(), quantile(&mut times, 0.5), ears))
}

impl Spent {
    async fn now(stack: &mut Stack, replicas: &[Process], conn: &mut PgConnection) -> anyhow::Result<Self> {
        // What backends report themselves comes up to a second late.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let (commits, statements): (i64, i64) = sqlx::query_as(
            "select (select xact_commit from pg_stat_database where datname = current_database()),
                    (select sum(calls)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
                      where d.datname = current_database())",
        )
        .fetch_one(conn)
        .await?;
        Ok(Self {
            baal: replicas.iter().map(|replica| procfs::cpu(replica.id())).sum::<anyhow::Result<_>>()?,
            postgres: procfs::family_cpu(stack.postgres_pid()?)?,
            driver: procfs::cpu(std::process::id())?,
            all: procfs::all_cpu()?,
            commits,
            statements,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            baal: self.baal - before.baal,
            postgres: self.postgres.saturating_sub(before.postgres),
            driver: self.driver - before.driver,
            all: self.all - before.all,
            commits: self.commits - before.commits,
            statements: self.statements - before.statements,
        }
    }
}

/// The statements that take the most of Postgres.
async fn claims(conn: &mut PgConnection) -> anyhow::Result<()> {
    let rows: Vec<(String, i64, f64, f64)> = sqlx::query_as(
        "select left(regexp_replace(query, '\\s+', ' ', 'g'), 90), calls, mean_exec_time, max_exec_time
           from pg_stat_statements s join pg_database d on d.oid = s.dbid
          where d.datname = current_database() and query !~ 'bench_' order by total_exec_time desc limit 14",
    )
    .fetch_all(conn)
    .await?;
    println!("\nStatements by time          calls  mean ms   max ms");
    for (query, calls, mean, max) in rows {
        println!("{calls:12} {mean:8.3} {max:8.2}  {query}");
    }
    Ok(())
}
