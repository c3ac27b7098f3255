//! An instance on Aleph: its message, which is stored already, is posted until it holds; then its node is asked to bring it up.
//!
//! Killed anywhere, the next claimant finds the same message and asks how it stands: posting the same bytes and starting a
//! running instance change nothing. The instance is pinned to one node, so no other is ever asked.

use std::time::Duration;

use anyhow::anyhow;
use tracing::{info, warn};

use super::{Done, Effect};
use crate::cloud::aleph::{Aleph, AlephError, Execution, Instance, Standing};
use crate::cloud::store::{self as vms, Machine};
use crate::config::CloudKind;
use crate::jobs::error::JobError;
use crate::jobs::model::{State, Step};
use crate::jobs::turn::Turn;
use crate::jobs::verdict::Grade;

/// How long the network may take to accept a message.
const POSTED_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Posts, starts, and waits until it runs and says where its SSH is.
pub async fn create(turn: &Turn<'_>) -> Result<Done, JobError> {
    let vm = turn.vm().await?;
    let Machine::Aleph(instance) = &vm.machine else { return Ok(turn.on(&vm)) };
    let aleph = turn.app.aleph.as_ref().ok_or_else(|| JobError::not_ours(CloudKind::Aleph))?;
    let state = &turn.job.state;
    if state.asked.is_none() {
        posted(turn, aleph, instance).await?;
        // Known before it is brought up anew: a node that had lost it may give it an empty disk.
        let absent = state.absent || (!state.fresh && is_absent(turn, aleph, instance).await?);
        // From here on the node's time counts.
        let state = State { asked: Some(turn.now().await?), absent, ..state.clone() };
        return Ok(Done { next: Step::Create, state, effect: Effect::Nothing });
    }
    started(turn, aleph, instance).await?;
    Ok(turn.on(&vm))
}

/// Another machine would be rejected as well if the account cannot pay for those that there are.
async fn affordable(turn: &Turn<'_>, aleph: &Aleph) -> Result<(), JobError> {
    let machines = vms::count_unended(&mut *turn.app.db.acquire().await?).await?;
    match turn.while_wanted(aleph.funds()).await? {
        Ok(funds) => Ok(funds.check(machines)?),
        // silent-ok: without an answer the rejection counts as the node's or the message's.
        Err(_) => Ok(()),
    }
}

/// Whether its node says that it does not have it; one that does not answer says nothing.
async fn is_absent(turn: &Turn<'_>, aleph: &Aleph, instance: &Instance) -> Result<bool, JobError> {
    Ok(matches!(turn.while_wanted(aleph.execution(instance)).await?, Ok(Execution::Absent)))
}

/// Waits until the message holds.
async fn posted(turn: &Turn<'_>, aleph: &Aleph, instance: &Instance) -> Result<(), JobError> {
    let mut wait = turn.wait(None, POSTED_WITHIN).await?;
    loop {
        let standing = match turn.while_wanted(aleph.standing(&instance.item_hash)).await? {
            // The Python system posted it, and nobody else can.
            Ok(Standing::Unknown) if instance.message.is_null() => {
                return Err(JobError::retry(
                    "the cloud does not know its machine",
                    anyhow!("no message to post again"),
                ));
            }
            Ok(Standing::Unknown) => turn.while_wanted(aleph.post(instance)).await?,
            known => known,
        };
        let trouble = match standing {
            Ok(Standing::Processed) => return Ok(()),
            Ok(Standing::Pending | Standing::Unknown) => None,
            Ok(Standing::Removing) => {
                return Err(JobError::fail("its machine could not be paid for any more", anyhow!("removing")));
            }
            Ok(over @ (Standing::Rejected(_) | Standing::Removed | Standing::Forgotten)) => {
                // One node that errs must not cost an agent its memory.
                let everywhere = turn.while_wanted(aleph.standing_everywhere(&instance.item_hash)).await?;
                match everywhere {
                    Ok(all) if all.iter().all(Standing::is_over) => {
                        if let Standing::Rejected(_) = over {
                            affordable(turn, aleph).await?;
                        }
                        let source = anyhow!("the message: {over:?}");
                        return Err(JobError::failed(Grade::Gone, "its machine is gone", source));
                    }
                    Ok(_) => None,
                    Err(error) => Some(error),
                }
            }
            Err(error @ (AlephError::Own(_) | AlephError::Credits(_))) => return Err(error.into()),
            Err(error) => Some(error),
        };
        if let Some(error) = &trouble {
            warn!(vm.hash = instance.item_hash, %error, "an instance's message does not hold yet");
        }
        if wait.is_over() {
            return Err(match trouble {
                Some(refused @ AlephError::Refused { .. }) => JobError::machine(refused.words(), refused),
                Some(error) => JobError::fail(error.words(), error),
                None => {
                    JobError::machine("the cloud did not accept it in time", anyhow!("the message is still pending"))
                }
            });
        }
        wait.pause(LOOK_EVERY).await?;
    }
}

/// Waits until the node runs it. A node that accepts and does nothing is asked once more, halfway.
async fn started(turn: &Turn<'_>, aleph: &Aleph, instance: &Instance) -> Result<(), JobError> {
    if !instance.crn.is_known() {
        let source = anyhow!("nobody knows on which compute node the instance is");
        return Err(JobError::machine("it is not known where its machine is", source));
    }
    let mut wait = turn.wait(turn.job.state.asked, turn.app.config.vm_start_within).await?;
    let (mut asked, mut asked_again) = (false, wait.is_half_over());
    loop {
        let trouble = match turn.while_wanted(aleph.execution(instance)).await? {
            Ok(Execution::Running { ssh: Some(address) }) => {
                info!(vm.hash = instance.item_hash, crn.url = instance.crn.url, ssh = %address, "the instance runs");
                return Ok(());
            }
            Ok(Execution::Failed(words)) if asked => {
                return Err(JobError::machine("its node could not start it", anyhow!("the node says: {words}")));
            }
            Ok(_) => None,
            Err(error @ AlephError::Own(_)) => return Err(error.into()),
            Err(error) => Some(error),
        };
        if wait.is_over() {
            return Err(JobError::machine(
                "its node did not start it in time",
                trouble.map_or_else(|| anyhow!("the node has not brought it up"), anyhow::Error::from),
            ));
        }
        if !asked || (wait.is_half_over() && !asked_again) {
            asked_again = asked;
            match turn.while_wanted(aleph.start(instance)).await? {
                Ok(()) => asked = true,
                Err(error @ AlephError::Own(_)) => return Err(error.into()),
                // Nobody can tell our fault from the node's; a machine that is there already is not judged by it.
                Err(error @ AlephError::Refused { status: 401..=403, .. }) if !turn.job.state.fresh => {
                    return Err(JobError::fail("its node refused to start it", error));
                }
                Err(AlephError::Refused { status, what, body }) if (400..500).contains(&status) && status != 429 => {
                    let error = AlephError::Refused { what, status, body };
                    return Err(JobError::machine("its node refused to start it", error));
                }
                // Asked again with the next look.
                Err(error) => {
                    warn!(vm.hash = instance.item_hash, %error, "a node could not be asked to start an instance")
                }
            }
        }
        wait.pause(LOOK_EVERY).await?;
    }
}
