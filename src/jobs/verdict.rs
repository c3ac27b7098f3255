//! What is to be done about a step that did not succeed: a pure function of what is known.

use std::time::Duration;

use super::model::{Kind, Step};
use crate::config::CloudKind;

/// Tries of one step before it counts as failed.
pub const MAX_FAILURES: i32 = 6;
/// The same where something else can be tried: another machine, or what worked before.
pub const MAX_FEW_FAILURES: i32 = 3;
/// The same where the machine cannot be reached and may run as ever: these take some minutes.
pub const MAX_PATIENT_FAILURES: i32 = 8;
/// Replicas that may die over a job that makes something before it fails: it may be what kills them.
pub const MAX_RECLAIMS: i32 = 5;
/// Machines that one job tries.
pub const MAX_MACHINES: u32 = 5;

/// What is known of a failure beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// It may pass.
    Passing,
    /// The machine could not be reached, so this try changed nothing on it; that may pass.
    Away,
    /// It lies in the machine: another may do.
    Machine,
    /// The machine is certainly gone, with all that was on it: everybody who would know says so.
    Gone,
    /// Another machine answers than the one that was known.
    Foreign,
    /// What was new is not healthy, and the machine went back by itself to what was there before.
    Restored,
    /// It lies in something that all machines share: another would fare the same. It may pass.
    Shared,
    /// Trying again is of no use, here or elsewhere.
    Last,
}

/// A failure, and where the job stands with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What the job is to bring about.
    pub kind: Kind,
    /// Where it works; where new machines are made while there is none.
    pub cloud: CloudKind,
    /// What did not succeed.
    pub step: Step,
    /// Failures in a row of this step, this one included.
    pub failures: i32,
    /// What is known of it.
    pub grade: Grade,
    /// Machines that the job has given up.
    pub tried: u32,
    /// Whether its machine has nothing of its agent to lose.
    pub fresh: bool,
    /// Whether it is going back to what worked before.
    pub restoring: bool,
    /// Whether a try of the job may have changed something on a machine that was there before.
    pub reached: bool,
    /// Whether its node had lost the machine and was asked for it again.
    pub absent: bool,
}

/// What to do about a step that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try the step again after this wait.
    Again(Duration),
    /// Wait until the machine can be reached again, and go on from there.
    Reach,
    /// Undo what was made.
    Undo,
    /// Give the machine up and take another.
    Elsewhere,
    /// Go back to what worked before.
    Restore,
    /// Leave what there is and say so.
    GiveUp,
}

/// Judges a failure. `jitter` is random in 0..1 and keeps jobs that failed together from coming back together.
///
/// A machine that was there before the job holds what its agent remembers. It is given up only when it is certainly gone;
/// however long it is away, to begin anew elsewhere is its owner's decision.
pub fn judge(failure: Failure, jitter: f64) -> Verdict {
    let Failure { kind, cloud, step, failures, grade, tried, fresh, restoring, reached, absent } = failure;
    let kind = if kind == Kind::Provision && !fresh && step != Step::Place { Kind::Repair } else { kind };
    let replaceable = cloud != CloudKind::Local
        && matches!(step, Step::Create | Step::Reach | Step::Prepare | Step::Install | Step::Health);
    let changing = kind.changes() && !restoring;
    let unreached = matches!(grade, Grade::Away | Grade::Foreign);
    let enough = match grade {
        // Nothing was changed, and its agent may well run: there is time.
        Grade::Away if matches!(kind, Kind::Redeploy | Kind::Takeover | Kind::Stop | Kind::Start) => {
            MAX_PATIENT_FAILURES
        }
        Grade::Foreign if !fresh => MAX_PATIENT_FAILURES,
        Grade::Shared => MAX_FAILURES,
        // Whoever waits for a change waits with an agent that does not answer.
        _ if replaceable || changing => MAX_FEW_FAILURES,
        _ => MAX_FAILURES,
    };
    let may_pass = matches!(grade, Grade::Passing | Grade::Away | Grade::Foreign | Grade::Shared);
    if may_pass && failures < enough && grade == Grade::Away && waits_for_its_machine(kind, cloud, step) {
        return Verdict::Reach;
    }
    if step.removes() || (may_pass && failures < enough) {
        return Verdict::Again(wait(failures, jitter));
    }
    let gone = cloud == CloudKind::Aleph && (grade == Grade::Gone || (grade == Grade::Foreign && absent));
    let elsewhere =
        replaceable && !matches!(grade, Grade::Last | Grade::Shared) && tried + 1 < MAX_MACHINES && (fresh || gone);
    match kind {
        Kind::Provision | Kind::Repair | Kind::Prepare if elsewhere => Verdict::Elsewhere,
        Kind::Provision => Verdict::Undo,
        // The machine runs what it ran; the rows are to say so again.
        Kind::Repair if grade == Grade::Restored && !fresh && !restoring => Verdict::Restore,
        // Nothing was changed, or it is not known what: there is nothing to go back from.
        Kind::Redeploy | Kind::Takeover if unreached || !reached => Verdict::GiveUp,
        Kind::Redeploy | Kind::Takeover if !restoring => Verdict::Restore,
        Kind::Repair | Kind::Redeploy | Kind::Takeover | Kind::Stop | Kind::Start | Kind::Prepare => Verdict::GiveUp,
        // These only take away, which is never given up.
        Kind::Deprovision | Kind::Retire => Verdict::Again(wait(failures, jitter)),
    }
}

/// Whether the job's way has a step that waits for the machine, and this one comes after it.
fn waits_for_its_machine(kind: Kind, cloud: CloudKind, step: Step) -> bool {
    cloud != CloudKind::Local
        && matches!(kind, Kind::Provision | Kind::Repair | Kind::Prepare)
        && matches!(step, Step::Prepare | Step::Install)
}

/// Doubles up to five minutes.
fn wait(failures: i32, jitter: f64) -> Duration {
    let doublings = failures.clamp(1, 9) - 1;
    let seconds = f64::from(1 << doublings).min(300.0);
    Duration::from_secs_f64(seconds * (0.75 + jitter / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Failure = Failure {
        kind: Kind::Provision,
        cloud: CloudKind::Aleph,
        step: Step::Reach,
        failures: 1,
        grade: Grade::Machine,
        tried: 0,
        fresh: true,
        restoring: false,
        reached: false,
        absent: false,
    };
    const LOCAL: Failure = Failure { cloud: CloudKind::Local, step: Step::Health, grade: Grade::Passing, ..FIRST };
    const REPAIR: Failure = Failure { kind: Kind::Repair, fresh: false, failures: 1_000, ..FIRST };
    const REDEPLOY: Failure =
        Failure { kind: Kind::Redeploy, step: Step::Install, fresh: false, reached: true, ..FIRST };
    const GRADES: [Grade; 8] = [
        Grade::Passing,
        Grade::Away,
        Grade::Machine,
        Grade::Gone,
        Grade::Foreign,
        Grade::Restored,
        Grade::Shared,
        Grade::Last,
    ];
    const STEPS: [Step; 5] = [Step::Create, Step::Reach, Step::Prepare, Step::Install, Step::Health];

    #[test]
    fn waits_double_up_to_five_minutes() {
        let stop = |failures| judge(Failure { step: Step::Stop, failures, ..LOCAL }, 0.5);
        let waits: Vec<_> = (1..=11).map(stop).collect();
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256].map(|s| Verdict::Again(Duration::from_secs(s)));
        assert_eq!(waits, expected);
    }

    #[test]
    fn a_provision_gives_up_and_a_removal_never_does() {
        assert!(matches!(judge(Failure { failures: MAX_FAILURES - 1, ..LOCAL }, 0.0), Verdict::Again(_)));
        assert_eq!(judge(Failure { failures: MAX_FAILURES, ..LOCAL }, 0.0), Verdict::Undo);
        assert_eq!(judge(Failure { grade: Grade::Last, ..LOCAL }, 0.0), Verdict::Undo);
        for kind in [Kind::Provision, Kind::Deprovision, Kind::Repair, Kind::Retire] {
            let remove = Failure { kind, step: Step::Remove, failures: 1_000, grade: Grade::Last, ..FIRST };
            assert!(matches!(judge(remove, 1.0), Verdict::Again(_)));
        }
    }

    #[test]
    fn a_bad_machine_is_replaced_up_to_five_times() {
        assert_eq!(judge(FIRST, 0.0), Verdict::Elsewhere);
        assert_eq!(judge(Failure { tried: 3, ..FIRST }, 0.0), Verdict::Elsewhere);
        assert_eq!(judge(Failure { tried: 4, ..FIRST }, 0.0), Verdict::Undo);
        assert_eq!(judge(Failure { kind: Kind::Prepare, tried: 4, ..FIRST }, 0.0), Verdict::GiveUp);
        let passing = Failure { grade: Grade::Passing, step: Step::Install, ..FIRST };
        assert!(matches!(judge(passing, 0.0), Verdict::Again(_)));
        assert_eq!(judge(Failure { failures: MAX_FEW_FAILURES, ..passing }, 0.0), Verdict::Elsewhere);
    }

    #[test]
    fn what_is_wrong_with_us_is_no_reason_to_try_other_machines() {
        assert_eq!(judge(Failure { grade: Grade::Last, ..FIRST }, 0.0), Verdict::Undo);
        assert_eq!(judge(Failure { step: Step::Place, grade: Grade::Last, ..FIRST }, 0.0), Verdict::Undo);
        assert_eq!(judge(Failure { kind: Kind::Repair, grade: Grade::Last, ..FIRST }, 0.0), Verdict::GiveUp);
        let shared = Failure { step: Step::Prepare, grade: Grade::Shared, ..FIRST };
        assert!(matches!(judge(Failure { failures: MAX_FAILURES - 1, ..shared }, 0.0), Verdict::Again(_)));
        assert_eq!(judge(Failure { failures: MAX_FAILURES, ..shared }, 0.0), Verdict::Undo);
    }

    #[test]
    fn memory_is_never_given_up_without_proof_that_it_is_gone() {
        for kind in [Kind::Repair, Kind::Provision] {
            for step in STEPS {
                for grade in GRADES {
                    let verdict = judge(Failure { kind, step, grade, ..REPAIR }, 0.0);
                    assert_eq!(verdict == Verdict::Elsewhere, grade == Grade::Gone, "{kind:?} {step:?} {grade:?}");
                    assert_ne!(verdict, Verdict::Undo, "{kind:?} {step:?} {grade:?}");
                }
            }
        }
        for grade in GRADES {
            for kind in [Kind::Redeploy, Kind::Takeover] {
                for step in STEPS {
                    let verdict = judge(Failure { kind, step, grade, ..REDEPLOY }, 0.0);
                    assert!(!matches!(verdict, Verdict::Elsewhere | Verdict::Undo), "{kind:?} {step:?} {grade:?}");
                }
            }
            let host = Failure { grade, cloud: CloudKind::Hosts, absent: true, ..REPAIR };
            assert_ne!(judge(host, 0.0), Verdict::Elsewhere, "a host is there or will be: {grade:?}");
        }
    }

    #[test]
    fn a_machine_that_a_repair_made_has_nothing_to_lose() {
        for step in STEPS {
            assert_eq!(judge(Failure { step, fresh: true, ..REPAIR }, 0.0), Verdict::Elsewhere);
        }
        assert_eq!(judge(Failure { kind: Kind::Repair, failures: MAX_FAILURES, ..LOCAL }, 0.0), Verdict::GiveUp);
    }

    #[test]
    fn a_stranger_in_the_machines_place_is_proof_only_if_its_node_had_lost_it() {
        let foreign = Failure { grade: Grade::Foreign, failures: MAX_PATIENT_FAILURES, ..REPAIR };
        assert_eq!(judge(foreign, 0.0), Verdict::GiveUp);
        assert_eq!(judge(Failure { absent: true, ..foreign }, 0.0), Verdict::Elsewhere);
        let early = Failure { absent: true, failures: MAX_PATIENT_FAILURES - 1, ..foreign };
        assert!(matches!(judge(early, 0.0), Verdict::Again(_)), "its address may just have moved");
    }

    #[test]
    fn a_connection_that_fails_leads_back_to_where_the_machine_is_waited_for() {
        for kind in [Kind::Provision, Kind::Repair, Kind::Prepare] {
            for step in [Step::Prepare, Step::Install] {
                let away = Failure { kind, step, grade: Grade::Away, ..FIRST };
                assert_eq!(judge(away, 0.0), Verdict::Reach);
                assert_eq!(judge(Failure { failures: MAX_FEW_FAILURES, ..away }, 0.0), Verdict::Elsewhere);
            }
        }
    }

    #[test]
    fn a_redeploy_goes_back_once() {
        assert_eq!(judge(REDEPLOY, 0.0), Verdict::Restore);
        assert_eq!(judge(Failure { restoring: true, ..REDEPLOY }, 0.0), Verdict::GiveUp);
        let local = Failure { kind: Kind::Redeploy, failures: MAX_FAILURES, reached: true, ..LOCAL };
        assert_eq!(judge(local, 0.0), Verdict::Restore);
        assert_eq!(judge(Failure { grade: Grade::Restored, ..REDEPLOY }, 0.0), Verdict::Restore);
        let repair = Failure { grade: Grade::Restored, step: Step::Install, ..REPAIR };
        assert_eq!(judge(repair, 0.0), Verdict::Restore);
        assert_eq!(judge(Failure { restoring: true, ..repair }, 0.0), Verdict::GiveUp);
    }

    #[test]
    fn a_takeover_that_reached_the_machine_gives_it_back_and_any_other_leaves_it_alone() {
        for step in [Step::Reach, Step::Prepare] {
            for grade in GRADES {
                let failure =
                    Failure { kind: Kind::Takeover, step, grade, failures: 1_000, reached: false, ..REDEPLOY };
                assert_eq!(judge(failure, 0.0), Verdict::GiveUp, "{step:?} {grade:?}");
            }
        }
        for (step, grade) in
            [(Step::Install, Grade::Restored), (Step::Install, Grade::Machine), (Step::Health, Grade::Machine)]
        {
            let failure = Failure { kind: Kind::Takeover, step, grade, failures: MAX_FEW_FAILURES, ..REDEPLOY };
            assert_eq!(judge(failure, 0.0), Verdict::Restore, "{step:?} {grade:?}");
            assert_eq!(judge(Failure { restoring: true, ..failure }, 0.0), Verdict::GiveUp, "{step:?} {grade:?}");
        }
    }

    #[test]
    fn stopping_and_starting_leave_the_machine_whatever_happens() {
        for (kind, steps) in
            [(Kind::Stop, &[Step::Halt][..]), (Kind::Start, &[Step::Install, Step::Start, Step::Health][..])]
        {
            for (step, cloud) in steps.iter().flat_map(|step| [CloudKind::Aleph, CloudKind::Local].map(|c| (*step, c)))
            {
                for grade in GRADES {
                    let failure = Failure { kind, step, cloud, grade, fresh: false, ..FIRST };
                    let last = judge(Failure { failures: MAX_PATIENT_FAILURES, ..failure }, 0.0);
                    assert_eq!(last, Verdict::GiveUp, "{kind:?} {step:?} {grade:?}");
                }
            }
        }
    }

    #[test]
    fn a_redeploy_waits_minutes_for_a_machine_that_is_away_and_then_leaves_it_as_it_is() {
        for grade in [Grade::Away, Grade::Foreign] {
            let away = Failure { grade, reached: false, ..REDEPLOY };
            assert!(matches!(judge(Failure { failures: MAX_PATIENT_FAILURES - 1, ..away }, 0.0), Verdict::Again(_)));
            for reached in [false, true] {
                let enough = Failure { failures: MAX_PATIENT_FAILURES, reached, ..away };
                assert_eq!(judge(enough, 0.0), Verdict::GiveUp);
            }
        }
        let ours = Failure { grade: Grade::Last, reached: false, ..REDEPLOY };
        assert_eq!(judge(ours, 0.0), Verdict::GiveUp, "nothing was changed, so there is nothing to go back from");
        let waits: f64 = (1..MAX_PATIENT_FAILURES).map(|failures| wait(failures, 0.5).as_secs_f64()).sum();
        assert!(waits > 120.0, "{waits}");
    }
}
