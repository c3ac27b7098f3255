//! What is left of an agent whose job is given up or called off. See [`failing`](super::failing).

use sqlx::PgConnection;

use super::card::Left;
use super::model::Kind;
use super::saving::Locked;
use super::store;
use super::turn::Turn;
use super::verdict::Grade;
use crate::agents::{self, Agent, Status};
use crate::cloud::store::{self as vms, Vm};

impl Turn<'_> {
    /// Writes down what is left of an agent whose job is given up.
    pub(super) async fn leave(
        &self,
        conn: &mut PgConnection,
        agent: &Agent,
        locked: &Locked,
        grade: Grade,
    ) -> sqlx::Result<Left> {
        let state = &self.job.state;
        let url = locked.vm.as_ref().and_then(Vm::url);
        // Asked of the rows: what a job cancelled at once knows of it is nothing.
        let machines = vms::machines_of(conn, agent.id).await?;
        let is_kept = machines.iter().any(|vm| !(state.fresh && state.vm == Some(vm.id)));
        let left = match (self.job.kind, url) {
            // The machine says so itself.
            (Kind::Redeploy | Kind::Takeover | Kind::Repair | Kind::Start, Some(url))
                if grade == Grade::Restored && !agent.is_pythons_failure() =>
            {
                // The words that it was to go back to are those of what ran before.
                let back = state.restoring.filter(|version| *version == agent.wanted_version);
                let version = back.unwrap_or(agent.deployed_version);
                agents::store::set_running(conn, agent.id, &url, agent.protocol, version).await?;
                return Ok(Left::AsBefore);
            }
            // It may run or not; what the rows say of it stays as it was, and what follows makes it so.
            (Kind::Stop, _) => return Ok(Left::Unknown),
            // Nothing was done to it. Where it lies in the machine that it doesn't start, it is for a repair.
            (Kind::Start, _) if !state.reached && grade == Grade::Last && is_kept => Left::Stopped,
            (Kind::Redeploy | Kind::Takeover, _) if agent.status == Status::Running && !state.reached => Left::AsBefore,
            (Kind::Redeploy | Kind::Takeover, _) if agent.status == Status::Running && state.restored.is_none() => {
                Left::Unknown
            }
            _ if is_kept => Left::Memory,
            _ => Left::Nothing,
        };
        match left {
            // What is wanted by now was never tried: it stays wanted, and is.
            Left::AsBefore if self.is_outdated(agent) => {}
            Left::AsBefore => {
                // What is wanted is what runs, so that nobody takes the agent for another.
                if let Some(version) = agents::store::restore_deployed(conn, agent.id).await? {
                    agents::store::set_deployed(conn, agent.id, version).await?;
                }
            }
            // It may run either way: what is wanted stays wanted, for a repair to bring about.
            Left::Unknown => {}
            Left::Stopped => agents::store::set_status(conn, agent.id, Status::Stopped).await?,
            Left::Memory | Left::Nothing => agents::store::set_status(conn, agent.id, Status::Failed).await?,
        }
        Ok(left)
    }
}

/// Brings about what is wanted of an agent that was left behind: by a stop that was called off or given up, while what its owner
/// changed was to come with its start, and after which its program may not run; or by a redeploy that had not seen the last change.
pub(super) async fn go_on(conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<()> {
    if agent.status != Status::Running {
        return Ok(());
    }
    let kind = Kind::to_change(agent);
    if agent.wanted_version != agent.deployed_version {
        return super::start(conn, kind, agent).await;
    }
    // Nobody waits for it.
    store::enqueue(conn, kind, agent.id, None).await.map(drop)
}
