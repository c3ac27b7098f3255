//! Waiting until the agent answers where its users' words will be sent: success is this, nothing less.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use baal_protocol::{Health, Version};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::local::{Started, ensure_started};
use super::{Done, Effect};
use crate::agents::Agent;
use crate::agents::http::read_json;
use crate::app::App;
use crate::cloud::local::Site;
use crate::cloud::store::{LocalVm, Vm};
use crate::jobs::error::JobError;
use crate::jobs::model::{State, Step};
use crate::jobs::turn::Turn;

/// How long one try waits for an agent of this host to answer.
const LOCALLY_WITHIN: Duration = Duration::from_secs(15);
const LOCALLY_EVERY: Duration = Duration::from_millis(100);
/// How long an agent may be silent whose name was routed before.
const AGAIN_WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(5);

/// Waits until it answers at its address.
pub async fn health(turn: &Turn<'_>) -> Result<Done, JobError> {
    let (vm, agent) = (turn.vm().await?, turn.agent().await?);
    match vm.local() {
        Some(place) => locally(turn, &agent, &vm, place).await,
        None => by_name(turn, &agent, &vm).await,
    }
}

async fn by_name(turn: &Turn<'_>, agent: &Agent, vm: &Vm) -> Result<Done, JobError> {
    let url = vm.url().ok_or_else(Turn::lost_machine)?;
    let within = turn.app.config.gateway_within;
    let within = if turn.job.kind.changes() { within.min(AGAIN_WITHIN) } else { within };
    let mut wait = turn.wait(None, within).await?;
    loop {
        let trouble = match turn.while_wanted(ask(turn.app, agent, &url)).await? {
            Ok(protocol) => return Ok(answered(turn, vm, protocol)),
            Err(trouble) => trouble,
        };
        if wait.is_over() {
            return Err(JobError::machine("it was set up but does not answer at its address", trouble));
        }
        wait.pause(LOOK_EVERY).await?;
    }
}

fn answered(turn: &Turn<'_>, vm: &Vm, protocol: i32) -> Done {
    let state = State { protocol: Some(protocol), ..turn.job.state.clone() };
    Done { next: turn.after(vm, Step::Health), state, effect: Effect::Nothing }
}

async fn locally(turn: &Turn<'_>, agent: &Agent, vm: &Vm, place: LocalVm) -> Result<Done, JobError> {
    // It may have died since, and a second try finds it dead.
    match ensure_started(turn, agent, &place).await? {
        Started::Running => {}
        Started::Outdated => return Ok(turn.to(Step::Install, Effect::Nothing)),
        Started::Moved(moved) => return Ok(turn.to(Step::Install, Effect::Moved(moved))),
    }
    let site = Site::of(&place)?;
    let began = tokio::time::Instant::now();
    let mut wait = turn.wait(None, LOCALLY_WITHIN).await?;
    loop {
        // It may have been started by a replica that died before it could save the port that it chose.
        if let Some(port) = site.port().filter(|port| *port != place.port) {
            return Ok(turn.to(Step::Health, Effect::Moved(LocalVm { port, ..place })));
        }
        let trouble = match ask(turn.app, agent, &place.url()).await {
            Ok(protocol) => return Ok(answered(turn, vm, protocol)),
            Err(trouble) => trouble,
        };
        if !site.alive().await? {
            return Err(JobError::retry("its program stopped right after it was started", trouble));
        }
        if began.elapsed() >= LOCALLY_WITHIN {
            return Err(JobError::retry("it was started but does not answer", anyhow!(trouble)));
        }
        wait.pause(LOCALLY_EVERY).await?;
    }
}

/// Whether the agent answers at `url`, and which protocol it speaks.
async fn ask(app: &App, agent: &Agent, url: &str) -> anyhow::Result<i32> {
    let secret = agent.secret(&app.config.vault)?;
    // Whatever has a machine of ours; the others have no jobs.
    let http = app.agents_http.of(false);
    let asked = async {
        let health = http.get(&format!("{url}/health"))?.send().await?.error_for_status()?;
        ensure!(read_json::<Health>(health).await?.status == "ok", "it says that it is not well");
        let version = http.get(&format!("{url}/version"))?.bearer_auth(secret.expose_secret()).send().await?;
        if version.status() == StatusCode::NOT_FOUND {
            return Ok(1);
        }
        // Anything that asks for another secret is another program.
        let version: Version = read_json(version.error_for_status()?).await?;
        Ok(i32::try_from(version.protocol)?)
    };
    timeout(CALL, asked).await?
}
