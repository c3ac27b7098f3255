//! Aleph Cloud on local ports, with real machines for instances.
//!
//! - core channel nodes (`ccn1`, …), compute nodes (`crn1`, …): each on a port of its own, for their clients take paths from
//!   the root and sign the host's name;
//! - on the first port: the list of compute nodes, the scheduler, the gateway's API, and `/sim/aleph/…` to steer all of it;
//! - the gateway: TLS is passed on by the name in the ClientHello (`four-words-of-it.vm.localhost`);
//! - SSH: each running instance has a port that leads to the host that it was given.
//!
//! An instance runs on a real host that was given before (`POST /sim/aleph/hosts`). A host that was used is dirty until
//! whoever runs the simulator has wiped it and says so.
//!
//! Facts come from the sources of pyaleph, aleph-vm and aleph-message; signatures are checked by code of our own, not by the
//! crates that the control plane makes them with.

mod auth;
mod ccn;
mod clock;
mod control;
mod crn;
mod crypto;
mod directory;
mod faults;
mod gateway;
mod journal;
mod ledger;
mod listing;
mod message;
mod names;
mod prices;
mod relay;
mod server;
mod world;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use faults::{Faults, Kind, Occasion};
use journal::Journal;
use relay::{Forward, Lead};
use world::{Execution, Node, Stage, World};

/// What there is at the start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Core channel nodes.
    pub ccns: u32,
    /// Compute nodes.
    pub crns: u32,
    /// Domain of the instances' public names, without a port.
    pub domain: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { ccns: 2, crns: 3, domain: "vm.localhost".into() }
    }
}

/// A whole cloud. A clone is the same cloud; it runs until [`Aleph::stop`].
#[derive(Clone)]
pub struct Aleph {
    inner: Arc<Inner>,
}

struct Inner {
    world: Mutex<World>,
    faults: Faults,
    journal: Journal,
    /// Names of nodes that refuse connections.
    dead: watch::Sender<BTreeSet<String>>,
    stop: CancellationToken,
    /// Of the list, the scheduler, the gateway's API and the control interface.
    address: SocketAddr,
    gateway: SocketAddr,
    domain: String,
}

impl Inner {
    /// Domain of the instances' names with the gateway's port.
    fn public_domain(&self) -> String {
        format!("{}:{}", self.domain, self.gateway.port())
    }
}

impl Aleph {
    /// Listens on `address` (port 0: any free one) and, for all nodes, on free ports of the same IP address.
    pub async fn start(address: SocketAddr, options: Options) -> io::Result<Self> {
        let any = SocketAddr::new(address.ip(), 0);
        let shared = TcpListener::bind(address).await?;
        let gateway = TcpListener::bind(any).await?;
        let aleph = Self {
            inner: Arc::new(Inner {
                world: Mutex::default(),
                faults: Faults::default(),
                journal: Journal::default(),
                dead: watch::Sender::default(),
                stop: CancellationToken::new(),
                address: shared.local_addr()?,
                gateway: gateway.local_addr()?,
                domain: options.domain.to_ascii_lowercase(),
            }),
        };
        for n in 1..=options.ccns {
            let (name, listener) = (format!("ccn{n}"), TcpListener::bind(any).await?);
            let address = listener.local_addr()?;
            let url = format!("http://{address}");
            let node = Node { name: name.clone(), hash: String::new(), url, address, listing: Value::Null };
            aleph.world().ccns.push(node);
            let router = ccn::router(&aleph, &name);
            tokio::spawn(server::serve(aleph.clone(), name, listener, router));
        }
        for _ in 0..options.crns {
            aleph.add_crn().await?;
        }
        let router = directory::router(&aleph).merge(control::router(&aleph));
        tokio::spawn(server::serve(aleph.clone(), String::new(), shared, router));
        tokio::spawn(gateway::serve(aleph.clone(), gateway));
        Ok(aleph)
    }

    /// Closes all ports and cuts all connections.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// Where everything is: `control`, `ccns`, `crns`, `crn_list`, `scheduler`, `gateway_api`, `gateway_domain`, and under
    /// `env` what a control plane is to be given.
    pub fn urls(&self) -> Value {
        let world = self.world();
        let base = format!("http://{}", self.inner.address);
        let ccns: Vec<&str> = world.ccns.iter().map(|ccn| ccn.url.as_str()).collect();
        let crns: Vec<Value> =
            world.crns.iter().map(|crn| json!({ "name": crn.name, "hash": crn.hash, "url": crn.url })).collect();
        let list = format!("{base}/crns.json");
        let domain = self.inner.public_domain();
        json!({
            "control": format!("{base}/sim/aleph"), "ccns": ccns, "crns": crns, "crn_list": list, "scheduler": base,
            "gateway_api": base, "gateway_domain": domain,
            "env": {
                "ALEPH_API_URL": ccns.join(","), "ALEPH_CRN_LIST_URL": list, "ALEPH_SCHEDULER_URL": base,
                "ALEPH_GATEWAY_URL": base, "ALEPH_GATEWAY_DOMAIN": domain,
            },
        })
    }

    /// One more compute node; returns its name.
    async fn add_crn(&self) -> io::Result<String> {
        let listener = TcpListener::bind(SocketAddr::new(self.inner.address.ip(), 0)).await?;
        let address = listener.local_addr()?;
        let name = {
            let mut world = self.world();
            let name = format!("crn{}", world.crns.len() + 1);
            let hash = crypto::sha256_hex(format!("{name} of the simulated Aleph Cloud").as_bytes());
            world.crns.push(Node::compute(&name, hash, address));
            name
        };
        let router = crn::router(self, &name);
        tokio::spawn(server::serve(self.clone(), name.clone(), listener, router));
        Ok(name)
    }

    /// The state, after everything that time has brought about.
    fn world(&self) -> MutexGuard<'_, World> {
        let mut guard = self.inner.world.lock().unwrap_or_else(PoisonError::into_inner);
        let world = &mut *guard;
        let now = Instant::now();
        let credits = (world.credits.clone(), world.default_credits);
        #[expect(clippy::cast_precision_loss, reason = "credits are far below 2^52")]
        let credits_of = |address: &str| World::credits_among(&credits.0, credits.1, address) as f64;
        for hash in world.ledger.settle(now, credits_of) {
            let crn = world.executions.get(&hash).map(|execution| execution.crn.clone()).unwrap_or_default();
            let occasion = Occasion { party: &crn, text: &hash, ..Occasion::default() };
            match self.inner.faults.take(&[Kind::StillRunning], &occasion) {
                Some(fault) => {
                    if let Some(execution) = world.executions.get_mut(&hash) {
                        execution.outlives = Some(fault.wait().map(|wait| now + wait));
                    }
                }
                None => {
                    world.end(&hash);
                }
            }
        }
        let over: Vec<String> = world
            .executions
            .iter()
            .filter(|(hash, execution)| {
                let alive = world.ledger.get(hash).is_some_and(|entry| entry.status.is_alive());
                !alive && execution.outlives.is_none_or(|until| until.is_some_and(|until| until <= now))
            })
            .map(|(hash, _)| hash.clone())
            .collect();
        for hash in over {
            world.end(&hash);
        }
        guard
    }

    /// Resolves as soon as a node is dead.
    async fn is_dead(&self, party: &str) {
        // silent-ok: the sender lives as long as we do
        let _ = self.inner.dead.subscribe().wait_for(|dead| dead.contains(party)).await;
    }

    /// Finds out anew which nodes are dead.
    fn refresh_dead(&self) {
        let world = self.world();
        let names = world.ccns.iter().chain(&world.crns).map(|node| node.name.as_str());
        let dead = self.inner.faults.dead(names.chain(["gateway", "list", "scheduler"]));
        drop(world);
        self.inner.dead.send_replace(dead);
    }

    /// Brings an instance up on a compute node, if it is not up. Without a free host it is accepted, and that is all.
    fn start_instance(&self, world: &mut World, crn: &str, hash: &str) -> io::Result<()> {
        let known = world.executions.get(hash);
        if known.is_some_and(|execution| execution.stage != Stage::Stopped) {
            return Ok(());
        }
        let occasion = Occasion { party: crn, text: hash, ..Occasion::default() };
        let fault = self.inner.faults.take(&[Kind::NeverRuns, Kind::Fails], &occasion);
        let stage = match fault.map(|fault| fault.kind) {
            Some(Kind::Fails) => Stage::Failed,
            Some(_) => Stage::Never,
            None => Stage::Started(Instant::now()),
        };
        let starts = matches!(stage, Stage::Started(_));
        if known.is_none() {
            world.started += 1;
            let number = world.started;
            let host = if starts { world.occupy(hash) } else { None };
            let execution = Execution { crn: crn.to_owned(), host, stage, forward: None, number, outlives: None };
            world.executions.insert(hash.to_owned(), execution);
        } else if let Some(execution) = world.executions.get_mut(hash) {
            execution.stage = stage;
        }
        if !starts {
            return Ok(());
        }
        self.open_port(world, hash)?;
        if let Some(fault) = self.inner.faults.take(&[Kind::Remap], &occasion) {
            let (aleph, hash) = (self.clone(), hash.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(fault.wait().unwrap_or(Duration::from_secs(1))).await;
                if let Err(error) = aleph.open_port(&mut aleph.world(), &hash) {
                    tracing::error!(%error, "a simulated node cannot open another port");
                }
            });
        }
        Ok(())
    }

    /// Opens a new port for an instance's SSH and closes the one that it had.
    fn open_port(&self, world: &mut World, hash: &str) -> io::Result<()> {
        let Some(execution) = world.executions.get_mut(hash) else { return Ok(()) };
        let Some(host) = execution.host.and_then(|n| world.hosts.get(n)) else { return Ok(()) };
        let lead = Lead { party: execution.crn.clone(), item_hash: hash.to_owned(), to: host.ssh };
        let forward = Forward::open(self, self.inner.address.ip(), lead)?;
        if let Some(old) = execution.forward.replace(forward) {
            old.stop.cancel();
        }
        Ok(())
    }

    /// The host is not touched; the instance counts as booting again, and connections through its port are cut.
    fn reboot_instance(&self, world: &mut World, hash: &str) {
        if let Some(execution) = world.executions.get_mut(hash) {
            execution.stage = Stage::Started(Instant::now());
        }
        if let Err(error) = self.open_port(world, hash) {
            tracing::error!(%error, "a simulated node cannot open another port");
        }
    }

    /// The instance that a public name is for, its node, and where its host serves TLS, if it runs.
    fn host_of_name(&self, name: &str) -> Option<(String, String, SocketAddr)> {
        let words = name.strip_suffix(&self.inner.domain)?.strip_suffix('.')?;
        let world = self.world();
        let (hash, execution) =
            world.executions.iter().find(|(hash, _)| names::words(hash).is_some_and(|own| own == words))?;
        Some((hash.clone(), execution.crn.clone(), world.host_of(hash)?.https))
    }
}
