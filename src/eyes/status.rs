//! `baal status`: the figures in a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tracing::warn;

use super::alarms::{self, Alarm};
use super::snapshot::{self, Counts, LastHour, Queue, Snapshot};
use crate::cloud::aleph::{Aleph, Funds};
use crate::config::{CloudKind, Config};
use crate::database;

/// How long the cloud may take to tell the credits.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// How it is told.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    figures: &'a Snapshot,
    last_hour: &'a LastHour,
    alarms: &'a [Alarm],
}

/// Prints how the system is doing. `false` if anything is alarming.
pub async fn run(config: &Config, options: Options) -> anyhow::Result<bool> {
    let db = database::connect_lazily(config)?;
    let mut conn = db.acquire().await.map_err(|error| database::unusable(&error))?;
    let read = snapshot::read(&mut conn, config).await;
    let mut figures = read.context("the figures could not be read: `baal migrate` brings the schema up to date")?;
    let hour = LastHour::read(&mut conn).await.context("the turns of the last hour could not be read")?;
    if config.cloud == CloudKind::Aleph {
        figures.account = Some(figures.account_of(funds(config).await.map(|funds| (Duration::ZERO, funds))));
    }
    let alarms = alarms::of(&figures);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&Report { figures: &figures, last_hour: &hour, alarms: &alarms })?);
    } else {
        print!("{}", told(&figures, &hour, &alarms));
    }
    Ok(alarms.is_empty())
}

/// The account's credits, asked for now.
async fn funds(config: &Config) -> Option<Funds> {
    // Its SSH key plays no part in this.
    let asked = async {
        let aleph = Aleph::new(config, config.ssh_public_key.clone().unwrap_or_default())?;
        anyhow::Ok(tokio::time::timeout(ANSWER_WITHIN, aleph.funds()).await??)
    };
    match asked.await {
        Ok(funds) => Some(funds),
        Err(error) => {
            warn!("the account's credits could not be read: {error:#}");
            None
        }
    }
}

/// The figures as aligned lines, and what is alarming.
fn told(now: &Snapshot, hour: &LastHour, alarms: &[Alarm]) -> String {
    let held = now.held.map(|since| format!("for {}: restored from a backup, nothing is worked at", age(since)));
    let mut lines: Vec<_> = held.map(|held| ("held", held)).into_iter().collect();
    lines.extend([
        ("replicas", format!("{} work, {} only listen", now.workers, now.listeners)),
        ("inbox", queue(&now.updates, "dead letters")),
        ("turns", format!("{} under way, {} waiting{}", now.turns_running, now.turns.open, oldest(&now.turns))),
        ("messages, last hour", messages(hour)),
        ("outbox", queue(&now.outbox, "given up")),
        ("errands", format!("{}{}", now.errands.open, oldest(&now.errands))),
        ("jobs", counts(&now.jobs)),
        ("jobs, last hour", counts(&now.jobs_ended)),
        ("agents", agents(now)),
        ("machines", format!("{} of {} allowed ({})", now.machines(), now.vms_max, counts(&now.vms))),
    ]);
    if now.pool.max > 0 {
        let pool = now.pool;
        let state =
            format!("{} ready, {} in the making; wanted {} to {}", pool.warm, pool.preparing, pool.min, pool.max);
        lines.push(("pool", state));
    }
    if now.pool.waiting > 0 {
        lines.push(("in line", format!("{} wait for a machine", now.pool.waiting)));
    }
    if let Some(account) = &now.account {
        let credits = match (account.credits, account.hours) {
            (Some(credits), Some(hours)) => format!("{credits}, for {hours:.0} h"),
            (Some(credits), None) => format!("{credits}, and nothing to pay"),
            (None, _) => "not known".into(),
        };
        lines.push(("credits", credits));
        let compared = now.reconciled.map_or("never".into(), |seconds| format!("{} ago", age(seconds)));
        lines.push(("compared", format!("{compared}, {} instances unknown", now.strays)));
    }
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (what, is) in lines {
        let _ = writeln!(text, "{what:width$}  {is}"); // silent-ok: a string takes everything
    }
    if alarms.is_empty() {
        text += "\nNothing is alarming.\n";
        return text;
    }
    text += "\nAlarming (docs/operations.md, \"Watching\", says what to do):\n";
    let width = alarms.iter().map(|alarm| alarm.name.len()).max().unwrap_or(0);
    for alarm in alarms {
        let _ = writeln!(text, "  {:width$}  {}", alarm.name, alarm.words); // silent-ok: as above
    }
    text
}

fn queue(queue: &Queue, dead: &str) -> String {
    let given_up = if queue.dead > 0 { format!("; {} {dead}", queue.dead) } else { String::new() };
    format!("{}{}{given_up}", queue.open, oldest(queue))
}

fn messages(hour: &LastHour) -> String {
    let half = hour.half_within.map(|seconds| format!("; half of the answers within {seconds:.1} s"));
    words(&hour.turns) + &half.unwrap_or_default()
}

fn oldest(queue: &Queue) -> String {
    // An age without a row would be one of rows that are not told of.
    if queue.open == 0 || queue.oldest < 1.0 {
        String::new()
    } else {
        format!(", the oldest for {}", age(queue.oldest))
    }
}

fn agents(now: &Snapshot) -> String {
    let by_status = words(&now.agents);
    let besides = [(now.agents_unwell, "do not answer"), (now.agents_paused, "are paused")];
    besides
        .iter()
        .filter(|(count, _)| *count > 0)
        .fold(by_status, |text, (count, what)| format!("{text}; {count} {what}"))
}

fn counts(counts: &Counts) -> String {
    let each: Vec<String> = counts.iter().map(|(kind, of)| format!("{kind}: {}", words(of))).collect();
    if each.is_empty() { "none".into() } else { each.join("; ") }
}

fn words(of: &BTreeMap<String, i64>) -> String {
    let each: Vec<String> = of.iter().map(|(word, count)| format!("{count} {}", word.replace('_', " "))).collect();
    if each.is_empty() { "none".into() } else { each.join(", ") }
}

fn age(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Account, Pool};
    use super::*;

    #[test]
    fn the_figures_are_told_in_aligned_lines() {
        let one = |kind: &str, state: &str, count| Counts::from([(kind.into(), [(state.into(), count)].into())]);
        let now = Snapshot {
            updates: Queue { open: 3, oldest: 71.0, dead: 1 },
            workers: 2,
            jobs: one("repair", "backing_off", 1),
            vms: one("aleph", "assigned", 2),
            vms_max: 20,
            pool: Pool { warm: 1, min: 1, max: 3, ..Pool::default() },
            agents: [("running".to_owned(), 2)].into(),
            agents_unwell: 1,
            account: Some(Account { credits: Some(28_500), hours: Some(1.0), age: Some(0.0) }),
            ..Snapshot::default()
        };
        let expected = "\
replicas             2 work, 0 only listen
inbox                3, the oldest for 71 s; 1 dead letters
turns                0 under way, 0 waiting
messages, last hour  8 completed, 1 failed; half of the answers within 3.2 s
outbox               0
errands              0
jobs                 repair: 1 backing off
jobs, last hour      none
agents               2 running; 1 do not answer
machines             2 of 20 allowed (aleph: 2 assigned)
pool                 1 ready, 0 in the making; wanted 1 to 3
credits              28500, for 1 h
compared             never, 0 instances unknown

Alarming (docs/operations.md, \"Watching\", says what to do):
  BaalCreditsLow    The account's credits last 1 h for the machines there are.
  BaalInboxOld      An update has waited for 71 s to be handled.
  BaalDeadLetters   Updates that could not be handled: 1.
  BaalAgentsUnwell  Agents that run and do not answer: 1.
";
        let turns = [("completed".to_owned(), 8), ("failed".to_owned(), 1)].into();
        let hour = LastHour { turns, half_within: Some(3.24) };
        assert_eq!(told(&now, &hour, &alarms::of(&now)), expected);
    }
}
