//! What is alarming in the figures of one moment. Pure. The rules of deploy/prometheus/alerts.yml have the same names and
//! bounds, and besides them some that need a while of figures.

use super::snapshot::Snapshot;

/// Seconds after which an update should have been handled.
pub const INBOX_AGE: f64 = 60.0;
/// Seconds after which a call to Telegram should have been made.
pub const OUTBOX_AGE: f64 = 300.0;
/// Hours that the credits should last.
pub const CREDITS_HOURS: f64 = 72.0;
/// Seconds after which the credits should have been learnt anew.
pub const CREDITS_AGE: f64 = 21_600.0;
/// Failed jobs of an hour.
pub const JOBS_FAILED: i64 = 3;
/// Intervals after which the cloud should have been compared with the rows again.
pub const RECONCILE_INTERVALS: f64 = 6.0;

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Alarm {
    /// As alerts and docs/operations.md name it.
    pub name: &'static str,
    /// What it is, as a sentence.
    pub words: String,
}

/// All that is alarming, the worst first.
pub fn of(now: &Snapshot) -> Vec<Alarm> {
    let mut alarms = vec![];
    let mut when = |alarming: bool, name, words: &dyn Fn() -> String| {
        if alarming {
            alarms.push(Alarm { name, words: words() });
        }
    };
    when(now.workers < 1, "BaalReplicasGone", &|| "Nobody works: no live replica is registered.".into());
    when(now.held.is_some(), "BaalHeld", &|| {
        "Nothing is worked at: restored from a backup, until `baal reconcile --confirm`.".into()
    });
    let account = now.account.as_ref();
    if let Some(hours) = account.and_then(|account| account.hours) {
        when(hours < CREDITS_HOURS, "BaalCreditsLow", &|| {
            format!("The account's credits last {hours:.0} h for the machines there are.")
        });
    }
    let unknown = account.is_some_and(|account| account.age.is_none_or(|age| age > CREDITS_AGE));
    when(unknown, "BaalCreditsUnknown", &|| "The account's credits are not known: the cloud does not answer.".into());
    when(now.updates.oldest > INBOX_AGE, "BaalInboxOld", &|| {
        format!("An update has waited for {:.0} s to be handled.", now.updates.oldest)
    });
    when(now.updates.dead > 0, "BaalDeadLetters", &|| {
        format!("Updates that could not be handled: {}.", now.updates.dead)
    });
    when(now.outbox.oldest > OUTBOX_AGE, "BaalOutboxOld", &|| {
        format!("A call to Telegram has waited for {:.0} s.", now.outbox.oldest)
    });
    when(now.pool.min > 0 && now.pool.warm == 0, "BaalPoolEmpty", &|| {
        format!("The pool is empty; {} machines are to be ready.", now.pool.min)
    });
    when(now.pool.waiting > 0, "BaalMachinesFull", &|| {
        format!("Agents wait in line for a machine: {}. MAX_VMS is {}.", now.pool.waiting, now.vms_max)
    });
    when(now.agents_unwell > 0, "BaalAgentsUnwell", &|| {
        format!("Agents that run and do not answer: {}.", now.agents_unwell)
    });
    when(now.jobs_failed() >= JOBS_FAILED, "BaalJobsFail", &|| {
        format!("Jobs that failed within an hour: {}.", now.jobs_failed())
    });
    let late = now.reconciled.is_some_and(|age| age > RECONCILE_INTERVALS * now.reconcile_interval);
    when(late, "BaalReconcileOld", &|| "The cloud was not compared with the database for long.".into());
    alarms
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Account, Pool, Queue};
    use super::*;

    fn fine() -> Snapshot {
        Snapshot {
            workers: 1,
            pool: Pool { warm: 1, min: 1, ..Pool::default() },
            account: Some(Account { credits: Some(1), hours: Some(72.0), age: Some(60.0) }),
            reconciled: Some(600.0),
            reconcile_interval: 600.0,
            ..Snapshot::default()
        }
    }

    fn names(snapshot: &Snapshot) -> Vec<&'static str> {
        of(snapshot).into_iter().map(|alarm| alarm.name).collect()
    }

    #[test]
    fn nothing_is_alarming_in_a_system_that_is_fine() {
        assert_eq!(names(&fine()), [""; 0]);
        let idle = Snapshot { account: None, reconciled: None, pool: Pool::default(), ..fine() };
        assert_eq!(names(&idle), [""; 0], "without cloud and pool there is nothing to run out of");
    }

    #[test]
    fn each_alarm_has_its_reason() {
        let queue = |oldest, dead| Queue { open: 1, oldest, dead };
        let account = |hours, age| Some(Account { credits: Some(1), hours: Some(hours), age });
        let ended = |failed| [("repair".to_owned(), [("failed".to_owned(), failed)].into())].into();
        let cases = [
            ("BaalReplicasGone", Snapshot { workers: 0, listeners: 1, ..fine() }),
            ("BaalHeld", Snapshot { held: Some(0.0), ..fine() }),
            ("BaalCreditsLow", Snapshot { account: account(71.0, Some(0.0)), ..fine() }),
            ("BaalCreditsUnknown", Snapshot { account: account(100.0, None), ..fine() }),
            ("BaalInboxOld", Snapshot { updates: queue(61.0, 0), ..fine() }),
            ("BaalDeadLetters", Snapshot { updates: queue(0.0, 1), ..fine() }),
            ("BaalOutboxOld", Snapshot { outbox: queue(301.0, 7), ..fine() }),
            ("BaalPoolEmpty", Snapshot { pool: Pool { min: 1, ..Pool::default() }, ..fine() }),
            ("BaalMachinesFull", Snapshot { pool: Pool { waiting: 1, ..Pool::default() }, ..fine() }),
            ("BaalAgentsUnwell", Snapshot { agents_unwell: 1, ..fine() }),
            ("BaalJobsFail", Snapshot { jobs_ended: ended(3), ..fine() }),
            ("BaalReconcileOld", Snapshot { reconciled: Some(3_601.0), ..fine() }),
        ];
        for (name, snapshot) in cases {
            assert_eq!(names(&snapshot), [name], "{snapshot:?}");
        }
    }
}
