//! Waiting until a machine answers over SSH.
//!
//! The host key that it shows at first contact is saved before anybody ever authenticates: killed in between, nothing was
//! sent. A machine without a saved key was therefore never written to.

use std::time::Duration;

use anyhow::anyhow;
use tracing::{info, warn};

use super::{Done, Effect};
use crate::cloud::store::{Machine, Vm};
use crate::jobs::error::JobError;
use crate::jobs::model::{State, Step};
use crate::jobs::turn::Turn;
use crate::ssh::{self, Address, Session, SshError};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Reads the host key, or connects with it; one reboot halfway if nobody answers.
pub async fn reach(turn: &Turn<'_>) -> Result<Done, JobError> {
    let vm = turn.vm().await?;
    let remote = turn.remote(vm.machine.cloud())?;
    let mut wait = turn.wait(None, turn.app.config.ssh_within).await?;
    loop {
        let tried = turn.while_wanted(turn.address(&vm)).await?;
        let trouble = match tried {
            Ok(Some(address)) => match turn.while_wanted(knock(&remote.key, &vm, &address)).await? {
                Ok(None) => return Ok(turn.on(&vm)),
                Ok(Some(host_key)) => {
                    info!(vm.id = %vm.id, ssh = %address, "a machine's host key is pinned");
                    return Ok(turn.to(Step::Reach, Effect::Pinned { vm: vm.id, host_key }));
                }
                Err(error @ (SshError::Key(_) | SshError::HostKeyChanged { .. })) => return Err(error.into()),
                // Its users may be made late in the first boot: a refusal may pass as well.
                Err(error) => anyhow!(error),
            },
            Ok(None) => anyhow!("its node does not say where its SSH is"),
            Err(error @ JobError::Failed { grade: crate::jobs::verdict::Grade::Passing, .. }) => anyhow!(error),
            Err(error) => return Err(error),
        };
        if wait.is_over() {
            return Err(JobError::machine("its machine did not answer in time", trouble));
        }
        if wait.is_half_over() && !turn.job.state.rebooted {
            again(turn, &vm).await?;
            let state = State { rebooted: true, ..turn.job.state.clone() };
            return Ok(Done { next: Step::Reach, state, effect: Effect::Nothing });
        }
        wait.pause(LOOK_EVERY).await?;
    }
}

/// The host key of a machine whose key is not known yet; nothing once we were let in.
async fn knock(key: &ssh::Key, vm: &Vm, address: &Address) -> Result<Option<String>, SshError> {
    match &vm.host_key {
        None => Ok(Some(ssh::host_key(address).await?)),
        Some(host_key) => {
            Session::connect(key, address, host_key).await?.close().await;
            Ok(None)
        }
    }
}

/// Has the machine booted anew, or brought up again if its node lost it. A second reboot after a kill does no harm.
async fn again(turn: &Turn<'_>, vm: &Vm) -> Result<(), JobError> {
    let (Machine::Aleph(instance), Some(aleph)) = (&vm.machine, &turn.app.aleph) else { return Ok(()) };
    let done = match turn.while_wanted(aleph.reboot(instance)).await? {
        Ok(()) => Ok(()),
        Err(_) => turn.while_wanted(aleph.start(instance)).await?,
    };
    match done {
        Ok(()) => info!(vm.id = %vm.id, "a machine that does not answer is booted once more"),
        Err(error) => warn!(vm.id = %vm.id, %error, "a machine that does not answer could not be booted once more"),
    }
    Ok(())
}
