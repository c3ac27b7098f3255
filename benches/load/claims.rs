//! How long the queues' claims take: with empty tables, with long ones, and while a snapshot that somebody holds open (a dump)
//! keeps Postgres from cleaning up behind them.
//!
//! In this process, with the program's own claims and ends: messages flow through the three queues at a steady rate, each queue
//! with one worker that claims whatever is there, as a replica does.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::ensure;
use baal::database;
use baal::floor::{self, Floor};
use baal::telegram::inbox;
use baal::telegram::outbox::{self, Call, Ended, Lane};
use baal::turns::outcome::{self, End, Outcome};
use baal::turns::store as turns;
use sqlx::{Connection as _, PgPool};
use teloxide_core::payloads::SendMessage;
use teloxide_core::types::ChatId;

use crate::stack::{BOT, FIRST_USER, Stack};
use crate::table::Table;
use crate::{Arguments, history, quantile};

/// Who speaks; each has an agent.
const PEOPLE: i64 = 1_000;
/// Rows that one claim takes at most: the program's.
const BATCH: i64 = 64;
/// Of a worker that finds nothing.
const PAUSE: Duration = Duration::from_millis(2);
/// How often messages come in.
const TICK: Duration = Duration::from_millis(10);
/// Before the first line, not counted: connections and plans.
const WARM_UP: Duration = Duration::from_secs(2);
/// The slowest of a hundred claims may take this, in milliseconds.
const TARGET: f64 = 5.0;
/// Finished updates where nothing else is said.
const HISTORY: u64 = 10_000_000;

/// How long the claims of each queue took that found something.
#[derive(Default)]
struct Times {
    updates: Vec<Duration>,
    turns: Vec<Duration>,
    outbox: Vec<Duration>,
}

impl Times {
    fn queues(&mut self) -> [(&'static str, &mut Vec<Duration>); 3] {
        [("updates", &mut self.updates), ("turns", &mut self.turns), ("outbox", &mut self.outbox)]
    }

    /// Prints a line, and returns the slowest queue's 99th percentile in milliseconds.
    fn print(&mut self, what: &str, dead: i64) -> f64 {
        let mut line = format!("{what:>34} {dead:10}");
        let mut worst = 0_f64;
        for (_, times) in self.queues() {
            let [p50, p99, most] = [0.5, 0.99, 1.0].map(|part| quantile(times, part));
            line.push_str(&format!(" | {p50:7.2} {p99:7.2} {most:8.2}"));
            worst = worst.max(p99);
        }
        println!("{line}");
        worst
    }
}

/// What flows, and through what.
struct Flow {
    db: PgPool,
    replica: i64,
    /// Messages a second.
    rate: u32,
    /// The next update's id.
    next: Cell<i64>,
    /// Where each queue begins, kept as the workers do.
    floors: Floors,
}

#[derive(Default)]
struct Floors {
    updates: Floor,
    turns: Floor,
    outbox: Floor,
}

pub async fn measure(arguments: &Arguments, length: Duration, table: &mut Table) -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let config = stack.config()?;
    database::migrate(&config).await?;
    let flow = Flow::start(&stack, database::connect_lazily(&config)?, arguments.rate).await?;
    let rows = arguments.history.unwrap_or(HISTORY);
    println!(
        "\nClaims that found something, {} messages a second: p50, p99 and longest, ms\n{:>34} {:>10} | {:24} | {:24} | {:24}",
        arguments.rate, "", "dead rows", "updates", "turns", "outbox"
    );
    flow.run(WARM_UP).await?;
    let empty = flow.run(length).await?.print("empty tables", flow.dead().await?);
    table.at_most("claims, empty tables: p99", empty, TARGET, "ms");

    let took = history::fill(&mut stack.conn().await?, rows).await?;
    println!("({} agents, as many turns and calls: filled in within {:.0} s)", rows / 10, took.as_secs_f64());
    flow.run(WARM_UP).await?;
    let full = flow.run(length).await?.print(&format!("{rows} finished updates"), flow.dead().await?);
    table.at_most(format!("claims, {rows} finished updates, {} agents: p99", rows / 10), full, TARGET, "ms");

    // As `pg_dump` does.
    let mut dump = stack.conn().await?;
    let hold = "begin isolation level repeatable read, read only; select count(*) from replicas";
    sqlx::raw_sql(hold).execute(&mut dump).await?;
    let mut held = 0_f64;
    for minute in 1..=arguments.snapshot_minutes {
        let mut times = flow.run(Duration::from_secs(60)).await?;
        held = times.print(&format!("a snapshot held, minute {minute}"), flow.dead().await?);
    }
    if arguments.snapshot_minutes > 0 {
        let what = format!(
            "claims after a snapshot held for {} minutes at {} messages a second: p99",
            arguments.snapshot_minutes, arguments.rate
        );
        table.at_most(what, held, TARGET, "ms");
    }
    dump.close().await?;
    flow.run(length).await?.print("the snapshot let go", flow.dead().await?);
    flow.db.close().await;
    Ok(())
}

impl Flow {
    async fn start(stack: &Stack, db: PgPool, rate: u32) -> anyhow::Result<Self> {
        // No agent is asked for anything.
        stack.people(PEOPLE as usize, ([127, 0, 0, 1], 9).into()).await?;
        let replica = sqlx::query_scalar(
            "insert into replicas (name, worker, expires_at) values ('bench', true, now() + interval '1 day') returning id",
        )
        .fetch_one(&db)
        .await?;
        Ok(Self { db, replica, rate, next: Cell::new(1), floors: Floors::default() })
    }

    /// Rows that nobody sees any more and that Postgres has not cleaned up, as it counts them itself.
    async fn dead(&self) -> anyhow::Result<i64> {
        // What backends report themselves comes up to a second late.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        Ok(sqlx::query_scalar(
            "select sum(n_dead_tup)::int8 from pg_stat_user_tables where relname in ('updates', 'turns', 'outbox')",
        )
        .fetch_one(&self.db)
        .await?)
    }

    /// Messages for so long, until the last one's reply is recorded.
    async fn run(&self, length: Duration) -> anyhow::Result<Times> {
        // Each worker ends when the one before it has and nothing is left.
        let (came, handled, answered) = (Cell::new(false), Cell::new(false), Cell::new(false));
        let work = async {
            tokio::try_join!(
                self.feed(length, &came),
                self.handle(&came, &handled),
                self.answer(&handled, &answered),
                self.send(&answered)
            )
        };
        let floors = &self.floors;
        tokio::select! {
            done = work => {
                let ((), updates, turns, outbox) = done?;
                Ok(Times { updates, turns, outbox })
            }
            () = floors.updates.keep(|from| floor::lowest_free(&self.db, floor::UPDATES, BOT, from)) => unreachable!("it has no end"),
            () = floors.turns.keep(|from| floor::lowest_free(&self.db, floor::TURNS, BOT, from)) => unreachable!("it has no end"),
            () = floors.outbox.keep(|from| floor::lowest_free(&self.db, floor::OUTBOX, BOT, from)) => unreachable!("it has no end"),
        }
    }

    /// Stores messages as they come, of one person after the other.
    async fn feed(&self, length: Duration, over: &Cell<bool>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let (mut fed, mut ticks) = (0, tokio::time::interval(TICK));
        while begun.elapsed() < length {
            ticks.tick().await;
            let due = (begun.elapsed().as_secs_f64() * f64::from(self.rate)) as i64;
            if due > fed {
                let first = self.next.replace(self.next.get() + due - fed);
                sqlx::query(
                    "insert into updates (bot_id, update_id, chat_id, body)
                     select $1, n, $2 + n % $3, repeat('x', 600)::bytea from generate_series($4::int8, $5::int8) n",
                )
                .bind(BOT)
                .bind(FIRST_USER)
                .bind(PEOPLE)
                .bind(first)
                .bind(self.next.get() - 1)
                .execute(&self.db)
                .await?;
                fed = due;
            }
        }
        over.set(true);
        Ok(())
    }

    /// Claims updates and makes turns of them.
    async fn handle(&self, over: &Cell<bool>, done: &Cell<bool>) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        loop {
            let last = over.get();
            let begun = Instant::now();
            let updates = inbox::claim(&self.db, self.replica, BOT, BATCH, self.floors.updates.get()).await?;
            self.floors.updates.claimed(updates.iter().map(|update| update.update_id));
            if updates.is_empty() {
                if last && !self.open("select exists (select from updates where not done and bot_id = $1)").await? {
                    done.set(true);
                    return Ok(times);
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            times.push(begun.elapsed());
            let chats: Vec<i64> = updates.iter().map(|update| update.chat_id).collect();
            let mut tx = database::begin(&self.db).await?;
            for update in &updates {
                ensure!(inbox::finish(&mut tx, self.replica, update).await?, "the claim of an update is lost");
            }
            sqlx::query(
                "insert into turns (id, bot_id, chat_id, agent_id, user_id, role, request)
                 select gen_random_uuid(), c.bot_id, c.chat_id, c.agent_id, c.chat_id, 'owner', repeat('x', 400)::bytea
                   from conversations c where c.bot_id = $1 and c.chat_id = any($2)",
            )
            .bind(BOT)
            .bind(&chats)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
        }
    }

    /// Claims turns and ends them with an answer.
    async fn answer(&self, over: &Cell<bool>, done: &Cell<bool>) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        loop {
            let last = over.get();
            let begun = Instant::now();
            let claimed = turns::claim(&self.db, self.replica, BOT, BATCH, self.floors.turns.get()).await?;
            self.floors.turns.claimed(claimed.iter().map(|turn| turn.position));
            if claimed.is_empty() {
                if last && !self.open("select exists (select from turns where not done and bot_id = $1)").await? {
                    done.set(true);
                    return Ok(times);
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            times.push(begun.elapsed());
            let ends: Vec<End> = claimed
                .iter()
                .map(|turn| {
                    let words = SendMessage::new(ChatId(turn.place.chat_id), "an answer ".repeat(20));
                    End::of(turn, &Outcome::default(), vec![Call::reply(BOT, turn.place.chat_id, &words)])
                })
                .collect();
            let (ended, _) = outcome::finish(&mut *self.db.acquire().await?, self.replica, &ends, 0).await?;
            ensure!(ended.iter().all(Option::is_some), "the claim of a turn is lost");
        }
    }

    /// Claims calls and records them as made.
    async fn send(&self, over: &Cell<bool>) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        loop {
            let last = over.get();
            let begun = Instant::now();
            let calls =
                outbox::claim(&self.db, self.replica, BOT, Lane::Words, (BATCH, self.floors.outbox.get()), true)
                    .await?;
            self.floors.outbox.claimed(calls.iter().map(|call| call.id));
            if calls.is_empty() {
                if last && !self.open("select exists (select from outbox where not done and bot_id = $1)").await? {
                    return Ok(times);
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            times.push(begun.elapsed());
            let end = |call: &outbox::Claimed| Ended {
                id: call.id,
                attempt: call.attempt,
                message_id: Some(call.id),
                error: None,
                uncertain: false,
            };
            let ends: Vec<Ended> = calls.iter().map(end).collect();
            outbox::finish(&self.db, self.replica, &ends).await?;
        }
    }

    async fn open(&self, question: &'static str) -> sqlx::Result<bool> {
        sqlx::query_scalar(question).bind(BOT).fetch_one(&self.db).await
    }
}
