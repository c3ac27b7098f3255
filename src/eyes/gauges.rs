//! The database's figures as gauges. Which are there does not depend on what there is to count: a figure that is missing
//! would look like one that is fine.

use std::collections::{BTreeMap, BTreeSet};

use metrics::gauge;

use super::names as n;
use super::snapshot::{Counts, Snapshot};

/// Job kinds, their states and outcomes that are there from the start.
const KINDS: [&str; 9] =
    ["provision", "deprovision", "redeploy", "takeover", "repair", "stop", "start", "prepare", "retire"];
const STATES: [&str; 4] = ["ready", "running", "backing_off", "in_line"];
const OUTCOMES: [&str; 3] = ["succeeded", "failed", "cancelled"];
const AGENT: [&str; 5] = ["provisioning", "running", "stopped", "failed", "deleting"];
const VM: [&str; 4] = ["preparing", "warm", "assigned", "retiring"];
const CLOUDS: [&str; 3] = ["aleph", "hosts", "local"];

/// Sets them; `before` is what was set before, so that what is there no more becomes 0. Without a snapshot, because the database
/// does not answer, they are not a number, which no bound of an alert is crossed by.
pub fn set(now: Option<&Snapshot>, before: Option<&Snapshot>) {
    gauge!(n::DATABASE_UP).set(if now.is_some() { 1.0 } else { 0.0 });
    let nothing = Snapshot::default();
    let known = now.unwrap_or(&nothing);
    let scale = Scale { known: now.is_some() };
    let queues = [
        (known.updates, n::INBOX_DEPTH, n::INBOX_OLDEST),
        (known.outbox, n::OUTBOX_DEPTH, n::OUTBOX_OLDEST),
        (known.errands, n::ERRANDS_DEPTH, n::ERRANDS_OLDEST),
        (known.turns, n::TURNS_WAITING, n::TURNS_OLDEST),
    ];
    for (queue, depth, oldest) in queues {
        scale.count(depth, queue.open);
        scale.set(oldest, queue.oldest);
    }
    scale.count(n::INBOX_DEAD, known.updates.dead);
    scale.count(n::OUTBOX_DEAD, known.outbox.dead);
    scale.count(n::TURNS_RUNNING, known.turns_running);
    let was = |of: fn(&Snapshot) -> &Counts| before.map(of);
    scale.counts(n::JOBS, ("kind", &KINDS), ("state", &STATES), &known.jobs, was(|s| &s.jobs));
    scale.counts(n::JOBS_ENDED, ("kind", &KINDS), ("outcome", &OUTCOMES), &known.jobs_ended, was(|s| &s.jobs_ended));
    scale.counts(n::VMS, ("cloud", &CLOUDS), ("state", &VM), &known.vms, was(|s| &s.vms));
    scale.count(n::VMS_MAX, known.vms_max);
    for status in AGENT.into_iter().chain(known.agents.keys().map(String::as_str)).collect::<BTreeSet<_>>() {
        let count = known.agents.get(status).copied().unwrap_or(0);
        gauge!(n::AGENTS, "status" => status.to_owned()).set(scale.of(count as f64));
    }
    scale.count(n::AGENTS_UNWELL, known.agents_unwell);
    scale.count(n::AGENTS_PAUSED, known.agents_paused);
    scale.count(n::POOL_WARM, known.pool.warm);
    scale.count(n::POOL_PREPARING, known.pool.preparing);
    scale.count(n::POOL_MIN, known.pool.min);
    scale.count(n::POOL_MAX, known.pool.max);
    scale.count(n::AGENTS_WAITING, known.pool.waiting);
    for (role, count) in [("worker", known.workers), ("listener", known.listeners)] {
        gauge!(n::REPLICAS, "role" => role).set(scale.of(count as f64));
    }
    scale.set(n::RECONCILED, known.reconciled.unwrap_or(f64::NAN));
    scale.set(n::RECONCILE_INTERVAL, known.reconcile_interval);
    scale.count(n::STRAYS, known.strays);
    scale.count(n::HELD, known.held.is_some().into());
    set_account(&scale, known);
}

/// Not a number where CLOUD has no account. Credits that nothing is paid with last for ever, and what was never learnt is as old.
fn set_account(scale: &Scale, known: &Snapshot) {
    let account = known.account.as_ref();
    let credits = account.and_then(|account| account.credits).map_or(f64::NAN, |credits| credits as f64);
    scale.set(n::CREDITS, credits);
    let lasting = |hours: Option<f64>| hours.unwrap_or(f64::INFINITY);
    let hours = account.filter(|account| account.credits.is_some()).map_or(f64::NAN, |account| lasting(account.hours));
    scale.set(n::CREDITS_LAST, hours * 3_600.0);
    scale.set(n::CREDITS_AGE, account.map_or(f64::NAN, |account| lasting(account.age)));
}

/// The process' connections to Postgres.
pub fn set_connections(open: u32, idle: usize) {
    let idle = idle as f64;
    gauge!(n::DATABASE_CONNECTIONS, "state" => "idle").set(idle);
    gauge!(n::DATABASE_CONNECTIONS, "state" => "used").set((f64::from(open) - idle).max(0.0));
}

struct Scale {
    known: bool,
}

impl Scale {
    fn of(&self, value: f64) -> f64 {
        if self.known { value } else { f64::NAN }
    }

    fn set(&self, name: &'static str, value: f64) {
        gauge!(name).set(self.of(value));
    }

    fn count(&self, name: &'static str, count: i64) {
        self.set(name, count as f64);
    }

    fn counts(
        &self,
        name: &'static str,
        (one, ones): (&'static str, &[&str]),
        (other, others): (&'static str, &[&str]),
        now: &Counts,
        before: Option<&Counts>,
    ) {
        let none = BTreeMap::new();
        let seen = [now, before.unwrap_or(&none)];
        let seen = seen
            .into_iter()
            .flat_map(|counts| counts.iter().flat_map(|(a, of)| of.keys().map(move |b| (a.as_str(), b.as_str()))));
        let usual = ones.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
        for (a, b) in usual.chain(seen).collect::<BTreeSet<_>>() {
            let count = now.get(a).and_then(|of| of.get(b)).copied().unwrap_or(0);
            gauge!(name, one => a.to_owned(), other => b.to_owned()).set(self.of(count as f64));
        }
    }
}
