//! Keeps local agents running: those that died are started again, whether they crashed or the host did.
//!
//! Every replica of the host does this; starting an agent twice is harmless ([`Site::start`]). Agents below a root that is
//! not here are left to the host that has it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::local::{self, LocalError, Site};
use super::store::{self, LocalVm, Root};
use crate::agents::{self, Agent, Status, keys};
use crate::app::App;
use crate::database;
use crate::jobs::model::Kind;
use crate::jobs::store as jobs;
use crate::replica::Replica;
use crate::wake::Queue;

const EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Agents that are looked after at the same moment.
const AT_ONCE: usize = 8;
/// An agent that lived this long after a start is well.
const WELL: Duration = Duration::from_secs(30);

/// An agent that was started again lately.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    starts: u32,
    last: Instant,
}

impl Trouble {
    /// The wait before the next start: none before the first, then doubling up to a minute.
    fn wait(self) -> Duration {
        Duration::from_secs(1 << self.starts.min(6)).min(Duration::from_secs(60))
    }
}

/// What is remembered from one round to the next.
#[derive(Debug, Default)]
pub struct Memory {
    troubles: HashMap<Uuid, Trouble>,
    /// Roots that are not here, each of which is worth one line of the log.
    away: HashSet<Root>,
}

/// Looks after the agents until `stop`, or until the replica is given up.
pub async fn supervise(app: &App, replica: &Replica, stop: &CancellationToken) {
    let mut memory = Memory::default();
    let mut swept: Option<Instant> = None;
    loop {
        if replica.may_send() {
            if let Err(error) = round(app, &mut memory).await {
                warn!(%error, "local agents could not be looked up; trying again");
            }
            if swept.is_none_or(|last| last.elapsed() >= SWEEP_EVERY) {
                swept = Some(Instant::now());
                sweep(app).await;
                if let Err(error) = stop_stopped(app).await {
                    warn!(%error, "agents that are to be stopped could not be looked up; trying again");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = replica.lost().cancelled() => return,
            () = sleep(EVERY.mul_f64(rand::random_range(0.75..1.25))) => {}
        }
    }
}

/// Looks once at every agent of this server, and starts those again that are dead and wanted.
pub async fn round(app: &App, Memory { troubles, away }: &mut Memory) -> sqlx::Result<()> {
    let agents = store::to_supervise(&mut *app.db.acquire().await?, None).await?;
    troubles.retain(|id, _| agents.iter().any(|(vm, _)| vm.id == *id));
    let mut here = Vec::new();
    let mut absent = HashSet::new();
    for (vm, agent) in agents {
        match Site::of(&vm) {
            Ok(site) => here.push((site, vm, agent)),
            Err(LocalError::Elsewhere(_)) => drop(absent.insert(vm.root)),
            Err(error) => warn!(agent.id, %error, "an agent's directory cannot be looked at"),
        }
    }
    for root in absent.difference(away) {
        warn!(root = %root.path().display(), "agents below this directory are not looked after here, for it is missing or another host's");
    }
    *away = absent;
    let looks = here.into_iter().map(|(site, vm, agent)| {
        let (app, trouble) = (app.clone(), troubles.get(&vm.id).copied());
        async move { (vm.id, look_after(&app, &site, &vm, &agent, trouble).await) }
    });
    let looks: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
    for (id, trouble) in looks {
        match trouble {
            Some(trouble) => troubles.insert(id, trouble),
            None => troubles.remove(&id),
        };
    }
    Ok(())
}

/// Starts the agent if it is dead and its wait is over; what is to be remembered of it.
async fn look_after(app: &App, site: &Site, vm: &LocalVm, agent: &Agent, trouble: Option<Trouble>) -> Option<Trouble> {
    match site.alive().await {
        Ok(true) => {
            keep_address(app, site, vm, agent).await;
            return trouble.filter(|trouble| trouble.last.elapsed() < WELL);
        }
        Ok(false) => {}
        Err(error) => {
            warn!(agent.id, %error, "it cannot be told whether an agent runs");
            return trouble;
        }
    }
    if trouble.is_some_and(|trouble| trouble.last.elapsed() < trouble.wait()) {
        return trouble;
    }
    let starts = trouble.map_or(0, |trouble| trouble.starts) + 1;
    match restart(app, site, vm, agent).await {
        Ok(false) => return None,
        Ok(true) => {
            info!(agent.id, agent.starts = starts, "an agent that had ended runs again");
            keep_address(app, site, vm, agent).await;
        }
        Err(error) => {
            warn!(agent.id, agent.starts = starts, error = %format!("{error:#}"), "an agent that ended cannot be started again; trying again later")
        }
    }
    Some(Trouble { starts, last: Instant::now() })
}

/// Starts the agent; false if it is not to run any more.
async fn restart(app: &App, site: &Site, vm: &LocalVm, agent: &Agent) -> anyhow::Result<bool> {
    // It may have been deleted since the list was made; a start after this look is undone by the job's own stop.
    if store::to_supervise(&mut *app.db.acquire().await?, Some(vm.id)).await?.is_empty() {
        return Ok(false);
    }
    let program = local::program(&app.config)?;
    let key = keys::of_agent(&mut *app.db.acquire().await?, &app.config, agent).await?;
    if !keys::about_to_reach(&mut *app.db.acquire().await?, agent.id, key.version).await? {
        // Another one is wanted by now, and a job brings it about.
        return Ok(false);
    }
    let config = local::agent_config(&app.config, agent, &key, site, vm.port)?;
    match site.start(&program, &config).await {
        Err(LocalError::PortTaken(taken)) => {
            let port = local::free_port()?;
            warn!(agent.id, agent.port = port, "another program took port {taken}, so the agent gets another");
            let config = local::agent_config(&app.config, agent, &key, site, port)?;
            site.start(&program, &config).await?;
        }
        started => started?,
    }
    if agent.deployed_key != key.version || agent.may_hold_key != (key.version != 0) {
        // What is wanted since it was installed is in its configuration now.
        started_with(app, agent.id, key.version).await?;
    }
    Ok(true)
}

/// Notes which key an agent was started with. Should another be wanted since, and no job be on its way to that, one is begun:
/// that job may have ended just before the start.
async fn started_with(app: &App, agent_id: i64, version: i32) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    let Some(agent) = agents::store::lock(&mut tx, agent_id).await? else { return Ok(()) };
    keys::set_deployed(&mut tx, agent_id, version).await?;
    let late = agent.wanted_key != version && agent.status == Status::Running;
    if late && jobs::live(&mut tx, agent_id).await?.is_none() {
        jobs::enqueue(&mut tx, Kind::Redeploy, agent_id, None).await?;
    }
    tx.commit().await?;
    app.wake.wake(Queue::Jobs);
    Ok(())
}

/// The agent itself knows best where it listens: two replicas may have chosen a new port at once.
async fn keep_address(app: &App, site: &Site, vm: &LocalVm, agent: &Agent) {
    let Some(port) = site.port() else { return };
    let found = LocalVm { port, ..vm.clone() };
    if found == *vm && agent.url.as_deref() == Some(&found.url()) {
        return;
    }
    let saved = async {
        let mut tx = database::begin(&app.db).await?;
        store::moved(&mut tx, agent.id, &found).await?;
        tx.commit().await
    };
    match saved.await {
        Ok(()) => info!(agent.id, agent.port = port, "the agent's new address is known"),
        Err(error) => warn!(agent.id, %error, "the agent's new address could not be saved; trying again"),
    }
}

/// Stops agents that run though they are stopped: somebody who looked before their stop was asked for may have started one
/// after it.
async fn stop_stopped(app: &App) -> sqlx::Result<()> {
    for vm in store::stopped(&mut *app.db.acquire().await?, None).await? {
        let Ok(site) = Site::of(&vm) else { continue };
        // silent-ok: what cannot be looked at is looked at again with the next sweep.
        if !site.alive().await.unwrap_or(false) {
            continue;
        }
        if store::stopped(&mut *app.db.acquire().await?, Some(vm.id)).await?.is_empty() {
            continue;
        }
        match site.stop().await {
            Ok(()) => warn!(vm.id = %vm.id, "an agent ran though it is stopped, and is stopped again"),
            Err(error) => warn!(vm.id = %vm.id, %error, "an agent runs though it is stopped"),
        }
    }
    Ok(())
}

/// Removes directories of machines that have ended. There are none, unless a replica that was frozen in the middle of a
/// step woke after another had undone it. Directories that no row knows are left alone: they are not ours.
async fn sweep(app: &App) {
    let root = match Root::find(&app.config.local_dir) {
        Ok(Some(root)) => root,
        Ok(None) => return,
        Err(error) => return warn!(%error, "the directory of agents cannot be looked at; trying again"),
    };
    let entries = match fs::read_dir(root.path()) {
        Ok(entries) => entries,
        Err(error) => return warn!(%error, "the directory of agents cannot be listed; trying again"),
    };
    let ids: Vec<Uuid> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let ended = async { store::ended_among(&mut *app.db.acquire().await?, &root, &ids).await };
    let ended = match ended.await {
        Ok(ended) => ended,
        Err(error) => return warn!(%error, "directories of ended agents could not be looked up; trying again"),
    };
    for vm in ended {
        let removed = match Site::of(&vm) {
            Ok(site) => site.remove().await,
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => warn!(vm.id = %vm.id, "something was left of an agent that had ended, and is removed now"),
            Err(error) => warn!(vm.id = %vm.id, %error, "something is left of an agent that has ended"),
        }
    }
}
