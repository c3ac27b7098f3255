//! What is to be done about a step that did not succeed: a pure function of what is known.

use std::time::Duration;

use super::model::{Kind, Step};
use crate::config::CloudKind;

/// Tries of one step before it counts as failed.
pub const MAX_FAILURES: i32 = 6;
/// The same where something else can be tried: another machine, or what worked before.
pub const MAX_FEW_FAILURES: i32 = 3;
/// Replicas that may die over a job that makes something before it fails: it may be what kills them.
pub const MAX_RECLAIMS: i32 = 5;
/// Machines that one job tries.
pub const MAX_MACHINES: u32 = 5;

/// What is known of a failure beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// It may pass.
    Passing,
    /// The machine could not be reached, so nothing was changed on it; that may pass.
    Away,
    /// It lies in the machine: another may do.
    Machine,
    /// Another machine answers than the one that was known.
    Foreign,
    /// What was new is not healthy, and the machine went back by itself to what was there before.
    Restored,
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
}

/// What to do about a step that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try the step again after this wait.
    Again(Duration),
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
pub fn judge(failure: Failure, jitter: f64) -> Verdict {
    let Failure { kind, cloud, step, failures, grade, tried, fresh, restoring } = failure;
    // A machine that was there before the job has its agent's memory: it is not thrown away.
    let kind = if kind == Kind::Provision && !fresh && step != Step::Place { Kind::Repair } else { kind };
    let replaceable = cloud != CloudKind::Local
        && matches!(step, Step::Create | Step::Reach | Step::Prepare | Step::Install | Step::Health);
    // Whoever waits for a change waits with an agent that does not answer.
    let changing = kind == Kind::Redeploy && !restoring;
    let enough = if replaceable || changing { MAX_FEW_FAILURES } else { MAX_FAILURES };
    let may_pass = matches!(grade, Grade::Passing | Grade::Away);
    if step.removes() || (may_pass && failures < enough) {
        return Verdict::Again(wait(failures, jitter));
    }
    let elsewhere = replaceable && grade != Grade::Last && tried + 1 < MAX_MACHINES;
    match kind {
        Kind::Provision | Kind::Prepare if elsewhere => Verdict::Elsewhere,
        Kind::Provision => Verdict::Undo,
        // What cannot be reached any more has lost its agent's memory; what can be reached keeps it.
        Kind::Repair if elsewhere && fresh => Verdict::Elsewhere,
        Kind::Repair if elsewhere && grade != Grade::Foreign && matches!(step, Step::Create | Step::Reach) => {
            Verdict::Elsewhere
        }
        // Nothing was changed, so there is nothing to go back from.
        Kind::Redeploy if matches!(grade, Grade::Away | Grade::Foreign) => Verdict::GiveUp,
        Kind::Redeploy if !restoring => Verdict::Restore,
        Kind::Repair | Kind::Redeploy | Kind::Prepare => Verdict::GiveUp,
        // These only take away, which is never given up.
        Kind::Deprovision | Kind::Retire => Verdict::Again(wait(failures, jitter)),
    }
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
    };
    const LOCAL: Failure = Failure { cloud: CloudKind::Local, step: Step::Health, grade: Grade::Passing, ..FIRST };

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
    }

    #[test]
    fn a_repair_keeps_a_machine_that_it_can_reach() {
        let repair = Failure { kind: Kind::Repair, fresh: false, ..FIRST };
        for step in [Step::Create, Step::Reach] {
            assert_eq!(judge(Failure { step, ..repair }, 0.0), Verdict::Elsewhere);
        }
        for step in [Step::Prepare, Step::Install, Step::Health] {
            assert_eq!(judge(Failure { step, ..repair }, 0.0), Verdict::GiveUp);
            assert_eq!(judge(Failure { step, fresh: true, ..repair }, 0.0), Verdict::Elsewhere);
        }
        assert_eq!(judge(Failure { grade: Grade::Foreign, ..repair }, 0.0), Verdict::GiveUp);
        assert_eq!(judge(Failure { kind: Kind::Repair, failures: MAX_FAILURES, ..LOCAL }, 0.0), Verdict::GiveUp);
        let again = Failure { kind: Kind::Provision, step: Step::Health, ..repair };
        assert_eq!(judge(again, 0.0), Verdict::GiveUp, "its machine was there before the job");
    }

    #[test]
    fn a_redeploy_goes_back_once() {
        let redeploy = Failure { kind: Kind::Redeploy, step: Step::Install, ..FIRST };
        assert_eq!(judge(redeploy, 0.0), Verdict::Restore);
        assert_eq!(judge(Failure { restoring: true, ..redeploy }, 0.0), Verdict::GiveUp);
        assert_eq!(judge(Failure { kind: Kind::Redeploy, failures: MAX_FAILURES, ..LOCAL }, 0.0), Verdict::Restore);
        assert_eq!(judge(Failure { grade: Grade::Restored, ..redeploy }, 0.0), Verdict::Restore);
        assert_eq!(judge(Failure { grade: Grade::Foreign, ..redeploy }, 0.0), Verdict::GiveUp);
        let away = Failure { grade: Grade::Away, ..redeploy };
        assert!(matches!(judge(away, 0.0), Verdict::Again(_)));
        assert_eq!(judge(Failure { failures: MAX_FEW_FAILURES, ..away }, 0.0), Verdict::GiveUp);
    }
}
