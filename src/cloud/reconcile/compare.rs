//! What exists in the cloud against what the database knows: a pure function of both.
//!
//! It errs on the side of leaving things alone. An instance is due to be destroyed only if it carries our installation's id,
//! no open row knows it, several sweeps in a row saw it so, and both its message and our first sight of it are older than a
//! grace period. The cloud's nodes disagree at times, and a row may be younger than the list.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::cloud::aleph::Listed;
use crate::cloud::store::VmState;

/// Sweeps in a row that must have found the same before anything follows from it.
pub const SWEEPS: i32 = 2;

/// A row of `vms` that has an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The row.
    pub id: Uuid,
    /// Its instance.
    pub item_hash: String,
    /// Whether the cloud had confirmed that nothing is left of it.
    pub ended: bool,
    /// What it is for.
    pub state: VmState,
    /// Whose it is.
    pub agent_id: Option<i64>,
    /// Whether a job is working at it: what that finds counts, not what we find.
    pub busy: bool,
    /// When the row was written, before the instance was asked for.
    pub created_at: DateTime<Utc>,
    /// Sweeps in a row in which the cloud did not know it.
    pub missing_sweeps: i32,
    /// When the first of these was.
    pub missing_since: Option<DateTime<Utc>>,
}

/// What is remembered of an instance that no open row knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// When it was first seen so.
    pub first_seen_at: DateTime<Utc>,
    /// Sweeps in a row in which it was.
    pub sweeps: i32,
}

/// All that is compared.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// Whose instances we may touch.
    pub installation: Uuid,
    /// What exists, as all core channel nodes together list it.
    pub listed: &'a [Listed],
    /// Rows that are open or whose instance is listed, read after the list.
    pub known: &'a [Known],
    /// What is remembered of strays, by item hash.
    pub strays: &'a HashMap<String, Remembered>,
    /// Just before the list was asked for.
    pub asked_at: DateTime<Utc>,
    /// Now.
    pub now: DateTime<Utc>,
    /// How long something must have been so.
    pub grace: Duration,
    /// Whether it counts as one of several in a row: not if the one before was a moment ago.
    pub counts: bool,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Instances that open rows know.
    pub matched: usize,
    /// Instances that are not ours.
    pub others: Vec<Listed>,
    /// Instances of ours that no open row knows.
    pub strays: Vec<Stray>,
    /// What was remembered as stray and is not any more.
    pub no_strays: Vec<String>,
    /// Open rows whose instance is not listed.
    pub missing: Vec<Missing>,
    /// Rows that were missing and are listed again.
    pub found: Vec<Uuid>,
}

/// An instance of ours that no open row knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The instance.
    pub listed: Listed,
    /// Sweeps in a row in which it was so, this one included.
    pub sweeps: i32,
    /// When it was first seen so.
    pub first_seen_at: DateTime<Utc>,
    /// Whether it is to be destroyed.
    pub due: bool,
}

/// An open row whose instance is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The row.
    pub id: Uuid,
    /// Its instance.
    pub item_hash: String,
    /// Whose it is.
    pub agent_id: Option<i64>,
    /// Sweeps in a row in which it was so, this one included.
    pub sweeps: i32,
    /// When the first of these was.
    pub since: DateTime<Utc>,
    /// Whether it counts as lost.
    pub lost: bool,
}

/// Compares.
pub fn compare(sweep: &Sweep<'_>) -> Findings {
    let Sweep { installation, now, .. } = *sweep;
    let listed: HashMap<&str, &Listed> = sweep.listed.iter().map(|one| (one.item_hash.as_str(), one)).collect();
    let open: HashSet<&str> = sweep.known.iter().filter(|row| !row.ended).map(|row| row.item_hash.as_str()).collect();
    let one_more = i32::from(sweep.counts);
    let old = |since: DateTime<Utc>| (now - since).to_std().is_ok_and(|age| age >= sweep.grace);

    let mut findings = Findings::default();
    for one in listed.values() {
        if open.contains(one.item_hash.as_str()) {
            findings.matched += 1;
        } else if one.installation != Some(installation) {
            findings.others.push((*one).clone());
        } else {
            let before = sweep.strays.get(&one.item_hash);
            let sweeps = before.map_or(0, |before| before.sweeps).saturating_add(one_more);
            let first_seen_at = before.map_or(now, |before| before.first_seen_at);
            let due = sweeps >= SWEEPS && old(first_seen_at) && old(one.time);
            findings.strays.push(Stray { listed: (*one).clone(), sweeps, first_seen_at, due });
        }
    }
    let strays: HashSet<&str> = findings.strays.iter().map(|stray| stray.listed.item_hash.as_str()).collect();
    findings.no_strays = sweep.strays.keys().filter(|hash| !strays.contains(hash.as_str())).cloned().collect();
    for row in sweep.known.iter().filter(|row| !row.ended) {
        if listed.contains_key(row.item_hash.as_str()) {
            if row.missing_sweeps > 0 || row.missing_since.is_some() {
                findings.found.push(row.id);
            }
        } else if !row.busy && row.created_at < sweep.asked_at {
            let sweeps = row.missing_sweeps.saturating_add(one_more);
            let since = row.missing_since.unwrap_or(now);
            let lost = sweeps >= SWEEPS && old(since) && old(row.created_at);
            let (item_hash, agent_id) = (row.item_hash.clone(), row.agent_id);
            findings.missing.push(Missing { id: row.id, item_hash, agent_id, sweeps, since, lost });
        }
    }
    findings.others.sort_by(|a, b| a.item_hash.cmp(&b.item_hash));
    findings.strays.sort_by(|a, b| a.listed.item_hash.cmp(&b.listed.item_hash));
    findings.no_strays.sort();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Uuid = Uuid::from_u128(1);
    const THEIRS: Uuid = Uuid::from_u128(2);
    const GRACE: Duration = Duration::from_secs(3600);

    /// Seconds before now.
    fn ago(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1_000_000 - seconds)
    }

    fn listed(hash: &str, installation: Option<Uuid>, age: i64) -> Listed {
        Listed { item_hash: hash.into(), installation, vm: None, crn_hash: None, time: ago(age) }
    }

    fn known(hash: &str) -> Known {
        Known {
            id: Uuid::from_u128(7),
            item_hash: hash.into(),
            ended: false,
            state: VmState::Warm,
            agent_id: None,
            busy: false,
            created_at: ago(9_000),
            missing_sweeps: 0,
            missing_since: None,
        }
    }

    fn compared(all: &[Listed], known: &[Known], strays: &[(&str, i64, i32)]) -> Findings {
        let strays = strays
            .iter()
            .map(|(hash, age, sweeps)| ((*hash).to_owned(), Remembered { first_seen_at: ago(*age), sweeps: *sweeps }))
            .collect();
        let (now, asked_at) = (ago(0), ago(10));
        compare(&Sweep {
            installation: OURS,
            listed: all,
            known,
            strays: &strays,
            asked_at,
            now,
            grace: GRACE,
            counts: true,
        })
    }

    #[test]
    fn a_sweep_a_moment_after_another_counts_for_nothing() {
        let strays = HashMap::from([("a".to_owned(), Remembered { first_seen_at: ago(9_000), sweeps: 1 })]);
        let all = [listed("a", Some(OURS), 9_000), listed("new", Some(OURS), 9_000)];
        let row = Known { missing_sweeps: 1, missing_since: Some(ago(9_000)), ..known("gone") };
        let findings = compare(&Sweep {
            installation: OURS,
            listed: &all,
            known: &[row],
            strays: &strays,
            asked_at: ago(10),
            now: ago(0),
            grace: GRACE,
            counts: false,
        });
        let seen: Vec<_> = findings.strays.iter().map(|stray| (stray.sweeps, stray.due)).collect();
        assert_eq!(seen, [(1, false), (0, false)]);
        assert_eq!(findings.missing.iter().map(|row| (row.sweeps, row.lost)).collect::<Vec<_>>(), [(1, false)]);
    }

    fn due(age: i64, seen: i64, sweeps: i32) -> bool {
        let findings = compared(&[listed("a", Some(OURS), age)], &[], &[("a", seen, sweeps)]);
        assert_eq!(findings.strays.len(), 1);
        findings.strays[0].due
    }

    #[test]
    fn what_both_sides_know_is_left_alone() {
        let findings = compared(&[listed("a", Some(OURS), 9_000)], &[known("a")], &[]);
        assert_eq!(findings, Findings { matched: 1, ..Findings::default() });
        assert_eq!(compared(&[], &[], &[]), Findings::default());
    }

    #[test]
    fn a_stray_is_destroyed_only_after_two_sweeps_and_both_graces() {
        assert!(due(3_600, 3_600, 1));
        assert!(!due(3_600, 3_600, 0));
        assert!(!due(3_599, 3_600, 1));
        assert!(!due(3_600, 3_599, 1));
        assert!(due(90_000, 90_000, i32::MAX));
    }

    #[test]
    fn a_stray_seen_for_the_first_time_is_only_remembered() {
        let findings = compared(&[listed("a", Some(OURS), 1_000_000)], &[], &[]);
        assert_eq!((findings.strays[0].sweeps, findings.strays[0].first_seen_at), (1, ago(0)));
        assert!(!findings.strays[0].due);
    }

    #[test]
    fn a_message_from_the_future_is_never_old_enough() {
        assert!(!due(-5_000, 9_000, 9));
        assert!(!due(9_000, -5_000, 9));
    }

    #[test]
    fn what_others_made_or_nobody_signed_is_only_reported() {
        let all = [listed("a", Some(THEIRS), 90_000), listed("b", None, 90_000)];
        // Even if it was held to be ours before.
        let findings = compared(&all, &[], &[("a", 90_000, 9), ("b", 90_000, 9)]);
        assert_eq!((findings.others.len(), findings.strays.len()), (2, 0));
        assert_eq!(findings.no_strays, ["a", "b"]);
    }

    #[test]
    fn an_ended_row_does_not_make_its_instance_known() {
        let findings = compared(&[listed("a", Some(OURS), 9_000)], &[Known { ended: true, ..known("a") }], &[]);
        assert_eq!((findings.matched, findings.strays.len(), findings.missing.len()), (0, 1, 0));
    }

    #[test]
    fn a_stray_that_is_listed_no_more_or_known_again_is_forgotten() {
        let findings = compared(&[listed("b", Some(OURS), 9_000)], &[known("b")], &[("a", 9_000, 5), ("b", 9_000, 5)]);
        assert_eq!((findings.strays.len(), findings.no_strays), (0, vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn an_instance_listed_twice_counts_once() {
        let one = listed("a", Some(OURS), 9_000);
        assert_eq!(compared(&[one.clone(), one], &[], &[]).strays.len(), 1);
    }

    fn missing(row: Known) -> Option<Missing> {
        compared(&[], &[row], &[]).missing.pop()
    }

    #[test]
    fn a_row_counts_as_lost_after_two_sweeps_and_both_graces() {
        let row = |sweeps, since, created| Known {
            missing_sweeps: sweeps,
            missing_since: Some(ago(since)),
            created_at: ago(created),
            ..known("a")
        };
        assert!(missing(row(1, 3_600, 3_600)).expect("missing").lost);
        assert!(!missing(row(0, 3_600, 3_600)).expect("missing").lost);
        assert!(!missing(row(1, 3_599, 3_600)).expect("missing").lost);
        assert!(!missing(row(1, 3_600, 3_599)).expect("missing").lost);
        let first = missing(known("a")).expect("missing");
        assert_eq!((first.sweeps, first.since, first.lost), (1, ago(0), false));
    }

    #[test]
    fn a_row_younger_than_the_list_or_in_a_job_s_hands_is_not_missing() {
        assert_eq!(missing(Known { created_at: ago(10), ..known("a") }), None);
        assert_eq!(missing(Known { created_at: ago(1), ..known("a") }), None);
        assert_eq!(missing(Known { busy: true, missing_sweeps: 5, ..known("a") }), None);
        assert_eq!(missing(Known { ended: true, ..known("a") }), None);
    }

    #[test]
    fn a_row_that_is_listed_again_is_found() {
        let row = Known { missing_sweeps: 3, missing_since: Some(ago(9_000)), ..known("a") };
        let findings = compared(&[listed("a", None, 9_000)], std::slice::from_ref(&row), &[]);
        assert_eq!((findings.found, findings.missing.len(), findings.matched), (vec![row.id], 0, 1));
    }
}
