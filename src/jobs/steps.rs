//! What each step does to the world, outside any transaction. Each looks first, so that it can be done again.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use baal_protocol::{Health, Version};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::error::JobError;
use super::model::{State, Step};
use super::store::{self as jobs, Job};
use crate::agents::{self, Agent};
use crate::app::App;
use crate::cloud::local::{self, LocalError, Site};
use crate::cloud::store::{self as vms, LocalVm, Root};

/// How long one try waits for an agent to answer.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);
const HEALTH_EVERY: Duration = Duration::from_millis(100);
const CANCEL_EVERY: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(5);

/// What a step that succeeded leads to; saved as a whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// What to do next.
    pub next: Step,
    /// What is known now.
    pub state: State,
    /// What other rows are to say.
    pub effect: Effect,
}

/// A step's change of other rows; made twice it is the same.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// None.
    Nothing,
    /// The agent will be there.
    Placed(LocalVm),
    /// The agent gets another port.
    Moved(LocalVm),
    /// Nothing is left of these.
    Gone(Vec<Uuid>),
}

/// Does the job's step, but for the last ones, which only change rows.
pub async fn perform(app: &App, job: &Job, stop: &CancellationToken) -> Result<Done, JobError> {
    match job.step {
        Step::Place => place(app, job).await,
        Step::Install => install(app, job).await,
        Step::Start => start(app, job).await,
        Step::Health => health(app, job, stop).await,
        Step::Stop => {
            for vm in open_vms(app, job).await? {
                Site::of(&vm)?.stop().await?;
            }
            Ok(on(job, Step::Remove, Effect::Nothing))
        }
        Step::Remove => {
            let mut gone = Vec::new();
            for vm in open_vms(app, job).await? {
                Site::of(&vm)?.remove().await?;
                gone.push(vm.id);
            }
            Ok(on(job, Step::End, Effect::Gone(gone)))
        }
        Step::Finish | Step::End | Step::Create | Step::Reach | Step::Prepare | Step::Store | Step::Restore => {
            Ok(on(job, job.step, Effect::Nothing))
        }
    }
}

fn on(job: &Job, next: Step, effect: Effect) -> Done {
    Done { next, state: job.state.clone(), effect }
}

async fn open_vms(app: &App, job: &Job) -> Result<Vec<LocalVm>, JobError> {
    Ok(vms::open_of(&mut *app.db.acquire().await?, job.agent_id.ok_or(JobError::LeaseLost)?).await?)
}

async fn place(app: &App, job: &Job) -> Result<Done, JobError> {
    let (id, effect) = match open_vms(app, job).await?.first() {
        Some(vm) => (vm.id, Effect::Nothing),
        None => {
            let root = Root::make(&app.config.local_dir)?;
            let vm = LocalVm { id: Uuid::new_v4(), root, port: free_port()? };
            (vm.id, Effect::Placed(vm))
        }
    };
    Ok(Done { next: Step::Install, state: State { vm: Some(id), ..job.state.clone() }, effect })
}

fn free_port() -> Result<u16, JobError> {
    local::free_port().map_err(|error| JobError::retry("the server has no room for it at the moment", error))
}

/// The agent as it is wanted now, and where it is being put.
async fn subject(app: &App, job: &Job) -> Result<(Agent, LocalVm, Site), JobError> {
    let mut conn = app.db.acquire().await?;
    let lost = || JobError::fail("it is no longer known where it was put", anyhow!("agent or vm row is missing"));
    let agent = agents::store::get(&mut conn, job.agent_id.ok_or(JobError::LeaseLost)?).await?.ok_or_else(lost)?;
    let vms = vms::open_of(&mut conn, agent.id).await?;
    let vm = vms.into_iter().find(|vm| Some(vm.id) == job.state.vm).ok_or_else(lost)?;
    let site = Site::of(&vm)?;
    Ok((agent, vm, site))
}

async fn install(app: &App, job: &Job) -> Result<Done, JobError> {
    let (agent, vm, site) = subject(app, job).await?;
    local::program(&app.config)?;
    site.install(&local::agent_config(&app.config, &agent, &site, vm.port)?).await?;
    let state = State { version: Some(agent.wanted_version), ..job.state.clone() };
    Ok(Done { next: Step::Start, state, effect: Effect::Nothing })
}

async fn start(app: &App, job: &Job) -> Result<Done, JobError> {
    let (agent, vm, site) = subject(app, job).await?;
    match ensure_started(app, &agent, &vm, &site).await? {
        None => Ok(on(job, Step::Health, Effect::Nothing)),
        Some(moved) => Ok(on(job, Step::Install, Effect::Moved(moved))),
    }
}

/// Starts the agent if it does not run. If its port was taken by another program it is not started, and gets the port
/// that is returned.
async fn ensure_started(app: &App, agent: &Agent, vm: &LocalVm, site: &Site) -> Result<Option<LocalVm>, JobError> {
    let program = local::program(&app.config)?;
    let config = local::agent_config(&app.config, agent, site, vm.port)?;
    match site.start(&program, &config).await {
        Ok(()) => Ok(None),
        Err(LocalError::PortTaken(_)) => Ok(Some(LocalVm { port: free_port()?, ..vm.clone() })),
        Err(error) => Err(error.into()),
    }
}

async fn health(app: &App, job: &Job, stop: &CancellationToken) -> Result<Done, JobError> {
    let (agent, vm, site) = subject(app, job).await?;
    // It may have died since, and a second try finds it dead.
    if let Some(moved) = ensure_started(app, &agent, &vm, &site).await? {
        return Ok(on(job, Step::Install, Effect::Moved(moved)));
    }
    let deadline = Instant::now() + HEALTHY_WITHIN;
    let mut asked = Instant::now();
    loop {
        // It may have been started by a replica that died before it could save the port that it chose.
        if let Some(port) = site.port().filter(|port| *port != vm.port) {
            return Ok(on(job, Step::Health, Effect::Moved(LocalVm { port, ..vm })));
        }
        let trouble = match ask(app, &agent, &vm).await {
            Ok(protocol) => {
                let state = State { protocol: Some(protocol), ..job.state.clone() };
                return Ok(Done { next: Step::Finish, state, effect: Effect::Nothing });
            }
            Err(trouble) => trouble,
        };
        if !site.alive().await? {
            return Err(JobError::retry("its program stopped right after it was started", trouble));
        }
        if Instant::now() >= deadline {
            return Err(JobError::retry("it was started but does not answer", trouble));
        }
        if asked.elapsed() >= CANCEL_EVERY {
            asked = Instant::now();
            match jobs::cancel_requested(&mut *app.db.acquire().await?, &job.claim).await? {
                None => return Err(JobError::LeaseLost),
                Some(true) => return Err(JobError::Cancelled),
                Some(false) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Err(JobError::Stopping),
            () = sleep(HEALTH_EVERY) => {}
        }
    }
}

/// Whether the agent answers, and which protocol it speaks.
async fn ask(app: &App, agent: &Agent, vm: &LocalVm) -> anyhow::Result<i32> {
    let secret = agent.secret(&app.config.vault)?;
    let url = vm.url();
    let asked = async {
        let health = app.agents_http.get(format!("{url}/health")).send().await?.error_for_status()?;
        ensure!(health.json::<Health>().await?.status == "ok", "it says that it is not well");
        let version = app.agents_http.get(format!("{url}/version")).bearer_auth(secret.expose_secret()).send().await?;
        if version.status() == StatusCode::NOT_FOUND {
            return Ok(1);
        }
        // Anything that asks for another secret is another program.
        let version: Version = version.error_for_status()?.json().await?;
        Ok(i32::try_from(version.protocol)?)
    };
    timeout(CALL, asked).await?
}
