//! Taking away. Never given up: a row ends only when nothing of its machine is left, or nothing more can be done about it.
//!
//! Killed anywhere, the next claimant asks again: erasing what is erased and forgetting what is forgotten change nothing.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Done, Effect};
use crate::cloud::aleph::{Aleph, Instance, Standing};
use crate::cloud::local::Site;
use crate::cloud::places;
use crate::cloud::store::{self as vms, HostPlace, Machine, Vm};
use crate::config::CloudKind;
use crate::install::InstallError;
use crate::jobs::error::JobError;
use crate::jobs::model::{State, Step};
use crate::jobs::turn::Turn;

/// What a node gets to stop an instance before the network is told.
const ERASED_WITHIN: Duration = Duration::from_secs(30);
/// For so long after the first removing step an instance that no core channel node knows may still come: the answer to its
/// post was lost perhaps, and the message waits in a queue. Nobody posts it any more.
const KNOWN_WITHIN: Duration = Duration::from_secs(180);
/// How long a node that does not answer may keep what the network has forgotten. It is not paid for any more.
const LET_GO_WITHIN: Duration = Duration::from_secs(600);

/// What the job removes: its machine, or all machines of its agent.
async fn machines(turn: &Turn<'_>) -> Result<Vec<Vm>, JobError> {
    let mut conn = turn.app.db.acquire().await?;
    Ok(match (turn.job.vm_id, turn.job.agent_id) {
        (Some(id), _) => vms::get(&mut conn, id).await?.into_iter().collect(),
        (None, Some(id)) => vms::machines_of(&mut conn, id).await?,
        (None, None) => vec![],
    })
}

fn aleph<'a>(turn: &Turn<'a>) -> Result<&'a Aleph, JobError> {
    turn.app.aleph.as_ref().ok_or_else(|| JobError::not_ours(CloudKind::Aleph))
}

/// Ends what runs, as well as that can be done.
pub async fn stop(turn: &Turn<'_>) -> Result<Done, JobError> {
    for vm in machines(turn).await? {
        if let Some(place) = vm.local() {
            Site::of(&place)?.stop().await?;
        }
        if let Machine::Aleph(instance) = &vm.machine {
            let erased = turn.while_wanted(timeout(ERASED_WITHIN, aleph(turn)?.erase(instance))).await?;
            match erased {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    warn!(vm.id = %vm.id, %error, "a node did not erase an instance; it will be asked again")
                }
                Err(_) => warn!(vm.id = %vm.id, "a node did not erase an instance in time; it will be asked again"),
            }
        }
    }
    Ok(turn.to(Step::Remove, Effect::Nothing))
}

/// Removes it.
pub async fn remove(turn: &Turn<'_>) -> Result<Done, JobError> {
    let mut gone = Vec::new();
    for vm in machines(turn).await? {
        match &vm.machine {
            Machine::Local(_) => {
                if let Some(place) = vm.local() {
                    Site::of(&place)?.remove().await?;
                }
            }
            Machine::Aleph(instance) => {
                let aleph = aleph(turn)?;
                forget(turn, aleph, instance).await?;
                if !let_go(turn, aleph, instance, &vm).await? {
                    let state = State { asked: Some(turn.now().await?), ..turn.job.state.clone() };
                    return Ok(Done { next: Step::Remove, state, effect: Effect::Gone(gone) });
                }
            }
            Machine::Host(place) => turn.while_wanted(wipe(turn, &vm, place)).await??,
        }
        info!(vm.id = %vm.id, vm.cloud = vm.machine.cloud().as_str(), "nothing is left of a machine");
        gone.push(vm.id);
    }
    Ok(turn.to(Step::End, Effect::Gone(gone)))
}

/// Has the network forget the instance.
async fn forget(turn: &Turn<'_>, aleph: &Aleph, instance: &Instance) -> Result<(), JobError> {
    let source = match turn.while_wanted(aleph.forget(&instance.item_hash)).await?? {
        standing if standing.is_over() => return Ok(()),
        // The step began when nobody posted the message any more.
        Standing::Unknown if turn.wait(None, KNOWN_WITHIN).await?.is_over() => return Ok(()),
        Standing::Unknown => anyhow!("no node knows it, but it may still come"),
        _ => anyhow!("it is not forgotten yet"),
    };
    Err(JobError::retry("the cloud has not confirmed yet that its machine is gone", source))
}

/// Whether the node has nothing of a forgotten instance any more, or has had its time. False if its time begins now.
async fn let_go(turn: &Turn<'_>, aleph: &Aleph, instance: &Instance, vm: &Vm) -> Result<bool, JobError> {
    let error = match turn.while_wanted(timeout(ERASED_WITHIN, aleph.erase(instance))).await? {
        Ok(Ok(true)) => return Ok(true),
        Ok(Ok(false)) => anyhow!("the node still has it"),
        Ok(Err(error)) => error.into(),
        Err(_) => anyhow!("the node does not answer"),
    };
    let Some(since) = turn.job.state.asked else { return Ok(false) };
    if turn.wait(Some(since), LET_GO_WITHIN).await?.is_over() {
        warn!(vm.id = %vm.id, vm.hash = instance.item_hash, crn.url = instance.crn.url, %error, "a node kept something of an instance that the network has forgotten; nobody pays for it, and it is left to the node");
        return Ok(true);
    }
    Err(JobError::retry("its node has not let go of it yet", error))
}

/// Makes a host as if nobody had had it.
async fn wipe(turn: &Turn<'_>, vm: &Vm, place: &HostPlace) -> Result<(), JobError> {
    if !vm.touched && vm.host_key.is_none() {
        // Nobody ever authenticated there.
        return Ok(());
    }
    let kit = &turn.remote(CloudKind::Hosts)?.kit;
    let wiped = async {
        let mut session = turn.session(vm).await?;
        match kit.wipe(&mut session, vm.id).await {
            // Nothing of ours was ever put there.
            Err(error @ InstallError::Foreign) => {
                warn!(vm.id = %vm.id, ssh = %place.ssh, %error, "a host is left as it is")
            }
            wiped => wiped?,
        }
        session.close().await;
        Ok::<_, JobError>(())
    };
    let Err(error) = wiped.await else { return Ok(()) };
    if places::host_is_removed(&mut *turn.app.db.acquire().await?, place.host_id).await? {
        warn!(vm.id = %vm.id, ssh = %place.ssh, %error, "a host that is out of use could not be wiped and is left as it is");
        return Ok(());
    }
    Err(error)
}
