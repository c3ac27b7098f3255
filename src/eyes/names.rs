//! What there is to see, by Prometheus' names, and what each of it is.

pub(super) const DATABASE_UP: &str = "baal_database_up";
pub(super) const DATABASE_CONNECTIONS: &str = "baal_database_connections";
pub(super) const INBOX_DEPTH: &str = "baal_inbox_depth";
pub(super) const INBOX_OLDEST: &str = "baal_inbox_oldest_seconds";
pub(super) const INBOX_DEAD: &str = "baal_inbox_dead_letters";
pub(super) const OUTBOX_DEPTH: &str = "baal_outbox_depth";
pub(super) const OUTBOX_OLDEST: &str = "baal_outbox_oldest_seconds";
pub(super) const OUTBOX_DEAD: &str = "baal_outbox_given_up";
pub(super) const ERRANDS_DEPTH: &str = "baal_errands_depth";
pub(super) const ERRANDS_OLDEST: &str = "baal_errands_oldest_seconds";
pub(super) const TURNS_WAITING: &str = "baal_turns_waiting";
pub(super) const TURNS_RUNNING: &str = "baal_turns_running";
pub(super) const TURNS_OLDEST: &str = "baal_turns_oldest_seconds";
pub(super) const JOBS: &str = "baal_jobs";
pub(super) const JOBS_ENDED: &str = "baal_jobs_ended_last_hour";
pub(super) const VMS: &str = "baal_vms";
pub(super) const VMS_MAX: &str = "baal_vms_max";
pub(super) const POOL_WARM: &str = "baal_pool_warm";
pub(super) const POOL_PREPARING: &str = "baal_pool_preparing";
pub(super) const POOL_MIN: &str = "baal_pool_min";
pub(super) const POOL_MAX: &str = "baal_pool_max";
pub(super) const AGENTS: &str = "baal_agents";
pub(super) const AGENTS_UNWELL: &str = "baal_agents_unwell";
pub(super) const AGENTS_PAUSED: &str = "baal_agents_paused";
pub(super) const AGENTS_WAITING: &str = "baal_agents_waiting";
pub(super) const REPLICAS: &str = "baal_replicas";
pub(super) const RECONCILED: &str = "baal_reconciled_seconds";
pub(super) const RECONCILE_INTERVAL: &str = "baal_reconcile_interval_seconds";
pub(super) const STRAYS: &str = "baal_stray_instances";
pub(super) const HELD: &str = "baal_held";
pub(super) const CREDITS: &str = "baal_credits";
pub(super) const CREDITS_LAST: &str = "baal_credits_lasting_seconds";
pub(super) const CREDITS_AGE: &str = "baal_credits_age_seconds";
pub(super) const BUILD: &str = "baal_build_info";
pub(super) const TURNS: &str = "baal_turns_total";
pub(super) const UPDATES: &str = "baal_updates_total";
pub(super) const CALLS: &str = "baal_telegram_calls_total";
pub(super) const LEASES_LOST: &str = "baal_leases_lost_total";
pub(super) const GIVEN_UP: &str = "baal_replicas_given_up_total";
pub(super) const TAKEN_BACK: &str = "baal_claims_taken_back_total";
pub(super) const WEBHOOK: &str = "baal_webhook_duration_seconds";
pub(super) const TURN_DURATION: &str = "baal_turn_duration_seconds";
pub(super) const FIRST_TOKEN: &str = "baal_turn_first_token_seconds";
pub(super) const CALL_DURATION: &str = "baal_telegram_call_duration_seconds";

/// Bounds of histograms' buckets, in seconds.
const FAST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0];
const CALL: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];
const SLOW: &[f64] = &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0];

/// What goes up and down, and what it is.
pub(super) const GAUGES: &[(&str, &str)] = &[
    (DATABASE_UP, "Whether the database gave the figures; where 0, those from it are not a number"),
    (DATABASE_CONNECTIONS, "Connections of this process to Postgres, by state"),
    (INBOX_DEPTH, "Updates from Telegram that are not handled yet"),
    (INBOX_OLDEST, "Age of the oldest update that is not handled yet"),
    (INBOX_DEAD, "Updates that could not be handled and wait for somebody to look"),
    (OUTBOX_DEPTH, "Calls to Telegram that are not made yet"),
    (OUTBOX_OLDEST, "Age of the oldest call to Telegram that is not made yet"),
    (OUTBOX_DEAD, "Calls to Telegram that were refused or given up within the week that they are kept"),
    (ERRANDS_DEPTH, "Errands of users that are not done yet"),
    (ERRANDS_OLDEST, "Age of the oldest errand that is not done yet"),
    (TURNS_WAITING, "Turns that nobody works at yet"),
    (TURNS_RUNNING, "Turns under way"),
    (TURNS_OLDEST, "Age of the oldest message to an agent that nobody works at yet"),
    (JOBS, "Live jobs by kind and state"),
    (JOBS_ENDED, "Jobs that ended within the last hour, by kind and outcome"),
    (VMS, "Machines that are not certainly gone, by cloud and state"),
    (VMS_MAX, "Machines that may exist (MAX_VMS)"),
    (POOL_WARM, "Machines that wait in the pool"),
    (POOL_PREPARING, "Machines that are being made for the pool"),
    (POOL_MIN, "Machines that are to be ready in the pool; 0 without a pool"),
    (POOL_MAX, "Machines that may be ready or in the making in the pool; 0 without a pool"),
    (AGENTS, "Agents by status, without those that were deleted"),
    (AGENTS_UNWELL, "Agents that run and do not answer, of which their owners were told"),
    (AGENTS_PAUSED, "Agents that run and get no messages until their owner does something"),
    (AGENTS_WAITING, "Agents that wait in line for a machine"),
    (REPLICAS, "Live processes by what they do: worker, or listener"),
    (
        RECONCILED,
        "Time since the cloud was last compared with the database; not a number where there is none to compare",
    ),
    (RECONCILE_INTERVAL, "How often the cloud is to be compared with the database"),
    (STRAYS, "Instances of this installation that the database does not know"),
    (HELD, "Whether the installation was restored from a backup and nothing is worked at until that is confirmed"),
    (CREDITS, "Credits of the account at the cloud; not a number where there is no account or they are not known"),
    (CREDITS_LAST, "Time that the credits last for the machines there are; infinite where there are none"),
    (CREDITS_AGE, "Time since this process learnt the credits; infinite where it never did"),
    (BUILD, "The program's version; always 1"),
];

/// What is counted in this process.
pub(super) const COUNTERS: &[(&str, &str)] = &[
    (TURNS, "Turns that were taken up and ended in this process, by kind and outcome"),
    (UPDATES, "Updates that this process handled, failed to handle and will try again, or gave up, by outcome"),
    (
        CALLS,
        "Calls of this process to Telegram, by method and status: an HTTP status (rare ones as 4xx, 5xx or other), lost (nobody knows what became of it) or not_sent",
    ),
    (LEASES_LOST, "How often this process was given up for dead and let go of all its work"),
    (GIVEN_UP, "Processes that stopped beating and were given up by this one"),
    (TAKEN_BACK, "Work of dead processes that this one freed, by queue"),
];

/// What takes time in this process, in which buckets.
pub(super) const HISTOGRAMS: &[(&str, &[f64], &str)] = &[
    (WEBHOOK, FAST, "Time from an update's request until its answer, by HTTP status"),
    (TURN_DURATION, SLOW, "Time from a user's message until its turn ended, by outcome"),
    (FIRST_TOKEN, SLOW, "Time from when a turn was taken up until its agent's first word"),
    (CALL_DURATION, CALL, "Time that calls to Telegram took, by method; without those that wait for updates"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_one_name_and_says_what_it_is() {
        let all = GAUGES.iter().chain(COUNTERS).map(|(name, help)| (*name, *help));
        let all: Vec<_> = all.chain(HISTOGRAMS.iter().map(|(name, _, help)| (*name, *help))).collect();
        let names: std::collections::BTreeSet<_> = all.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|(name, help)| name.starts_with("baal_") && !help.is_empty()));
    }
}
