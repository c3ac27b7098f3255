//! Stopping an agent's program so that it can be started again: nothing else on its machine is touched.
//!
//! Killed anywhere, the next claimant stops once more what is stopped, which changes nothing.

use super::{Done, Effect};
use crate::cloud::local::Site;
use crate::jobs::error::JobError;
use crate::jobs::model::State;
use crate::jobs::turn::Turn;

/// Stops it, and sees to it that a boot of its machine does not start it.
pub async fn halt(turn: &Turn<'_>) -> Result<Done, JobError> {
    let vm = turn.vm().await?;
    match vm.local() {
        Some(place) => Site::of(&place)?.stop().await?,
        None => {
            let kit = &turn.remote(vm.machine.cloud())?.kit;
            let stopped = async {
                let mut session = turn.session(&vm).await?;
                kit.halt(&mut session, vm.id).await?;
                session.close().await;
                Ok::<_, JobError>(())
            };
            turn.while_wanted(stopped).await??;
        }
    }
    let state = State { vm: Some(vm.id), ..turn.job.state.clone() };
    Ok(Done { next: turn.after(&vm, turn.job.step), state, effect: Effect::Nothing })
}
