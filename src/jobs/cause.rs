//! What kind of thing a job failed of: whoever waits is told what that means and what to do. Pure.

use serde::{Deserialize, Serialize};

use super::model::Step;
use super::verdict::Grade;
use crate::config::CloudKind;

/// What kind of thing a job failed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No machine can be paid for.
    Credits,
    /// No compute node or host was good enough or free.
    Node,
    /// The node did not bring the machine up.
    Allocation,
    /// The machine did not let us in, or could not be set up.
    Ssh,
    /// The program does not come up on its machine.
    Health,
    /// It runs, but not under its public name.
    Gateway,
    /// It lies in this service: trying again is of no use.
    Service,
}

impl Cause {
    /// Of a step that failed on a machine of this cloud, of which this much is known.
    pub fn of(step: Step, cloud: CloudKind, grade: Grade) -> Self {
        match (step, grade) {
            (_, Grade::Last) => Self::Service,
            (_, Grade::Restored) => Self::Health,
            // Certificates are what all machines share.
            (_, Grade::Shared) => Self::Gateway,
            (Step::Place, _) => Self::Node,
            (Step::Create, _) => Self::Allocation,
            (Step::Start, _) => Self::Health,
            (Step::Health, _) if cloud == CloudKind::Local => Self::Health,
            (Step::Health, _) => Self::Gateway,
            (Step::Install, _) if cloud == CloudKind::Local => Self::Service,
            _ => Self::Ssh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_failed_says_of_what() {
        use CloudKind::{Aleph, Local};
        let of = |step, grade| Cause::of(step, Aleph, grade);
        assert_eq!(of(Step::Place, Grade::Passing), Cause::Node);
        assert_eq!(of(Step::Create, Grade::Machine), Cause::Allocation);
        assert_eq!(of(Step::Reach, Grade::Machine), Cause::Ssh);
        assert_eq!(of(Step::Install, Grade::Restored), Cause::Health);
        assert_eq!(of(Step::Install, Grade::Shared), Cause::Gateway);
        assert_eq!(of(Step::Install, Grade::Away), Cause::Ssh);
        assert_eq!(of(Step::Health, Grade::Machine), Cause::Gateway);
        assert_eq!(of(Step::Health, Grade::Last), Cause::Service);
        assert_eq!(Cause::of(Step::Health, Local, Grade::Passing), Cause::Health);
    }
}
