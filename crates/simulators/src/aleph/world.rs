//! Nodes, hosts and instances: what runs where.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::crypto::same_address;
use super::ledger::Ledger;
use super::relay::Forward;

/// Credits that an address has that was given none: a thousand dollars.
const CREDITS: u64 = 1_000_000_000;

/// A node under its name, `ccn1` or `crn1`.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    /// Node hash; empty for core channel nodes.
    pub hash: String,
    /// Base URL without a slash at the end.
    pub url: String,
    pub address: SocketAddr,
    /// The entry in the list of compute nodes.
    pub listing: Value,
}

impl Node {
    /// A compute node that is fit for instances.
    pub fn compute(name: &str, hash: String, address: SocketAddr) -> Self {
        let url = format!("http://{address}");
        let listing = json!({
            "hash": hash, "name": name, "address": url, "score": 0.95, "version": "2.1.0",
            "payment_receiver_address": null, "gpu_support": false, "confidential_support": false,
            "qemu_support": true, "ipv6_check": { "host": true, "vm": true }, "terms_and_conditions": null,
            "compatible_available_gpus": [],
            "system_usage": {
                "active": true,
                "cpu": { "count": 16, "load_average": { "load1": 0.5, "load5": 0.4, "load15": 0.3 } },
                "mem": { "total_kB": 67_108_864, "available_kB": 33_554_432 },
                "disk": { "total_kB": 1_048_576_000, "available_kB": 524_288_000 },
            },
        });
        Self { name: name.to_owned(), hash, url, address, listing }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    Free,
    Used(String),
    /// Released, and not wiped yet.
    Dirty,
}

/// A real machine that instances run on, one at a time.
#[derive(Debug, Clone)]
pub struct Host {
    pub ssh: SocketAddr,
    pub https: SocketAddr,
    pub usage: Use,
}

/// Body of `POST /sim/aleph/hosts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    /// Where its SSH server listens: `172.31.77.2:22`.
    pub ssh: SocketAddr,
    /// Where it serves TLS; port 443 of the same address if it is not said.
    #[serde(default)]
    pub https: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Started(Instant),
    /// Accepted, and nothing more comes of it.
    Never,
    Failed,
    Stopped,
}

/// An instance on its compute node.
#[derive(Debug)]
pub struct Execution {
    /// The compute node's name.
    pub crn: String,
    pub host: Option<usize>,
    pub stage: Stage,
    pub forward: Option<Forward>,
    /// Which one it is, for its addresses.
    pub number: u64,
    /// Runs on although its message was forgotten: until then, or until it is erased.
    pub outlives: Option<Option<Instant>>,
}

#[derive(Debug)]
pub struct World {
    pub ledger: Ledger,
    pub ccns: Vec<Node>,
    pub crns: Vec<Node>,
    pub hosts: Vec<Host>,
    pub executions: BTreeMap<String, Execution>,
    pub credits: BTreeMap<String, u64>,
    pub default_credits: u64,
    /// How long an instance takes from its start until it runs.
    pub boot: Duration,
    pub started: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            ledger: Ledger::default(),
            ccns: Vec::new(),
            crns: Vec::new(),
            hosts: Vec::new(),
            executions: BTreeMap::new(),
            credits: BTreeMap::new(),
            default_credits: CREDITS,
            boot: Duration::from_millis(300),
            started: 0,
        }
    }
}

impl World {
    /// Credits of an address.
    pub fn credits_of(&self, address: &str) -> u64 {
        Self::credits_among(&self.credits, self.default_credits, address)
    }

    /// Credits of an address where these are given and others have `default`.
    pub fn credits_among(given: &BTreeMap<String, u64>, default: u64, address: &str) -> u64 {
        given.iter().find(|(of, _)| same_address(of, address)).map_or(default, |(_, credits)| *credits)
    }

    pub fn crn(&self, name: &str) -> Option<&Node> {
        self.crns.iter().find(|crn| crn.name == name)
    }

    /// Takes a free host for an instance.
    pub fn occupy(&mut self, item_hash: &str) -> Option<usize> {
        let n = self.hosts.iter().position(|host| host.usage == Use::Free)?;
        self.hosts[n].usage = Use::Used(item_hash.to_owned());
        Some(n)
    }

    /// An instance is no more: its port is closed, its host released. False if there was none.
    pub fn end(&mut self, item_hash: &str) -> bool {
        let Some(execution) = self.executions.remove(item_hash) else { return false };
        if let Some(forward) = execution.forward {
            forward.stop.cancel();
        }
        if let Some(host) = execution.host.and_then(|n| self.hosts.get_mut(n)) {
            host.usage = Use::Dirty;
        }
        true
    }

    /// An instance stops: its port is closed, its host stays its own.
    pub fn stop(&mut self, item_hash: &str) {
        let Some(execution) = self.executions.get_mut(item_hash) else { return };
        execution.stage = Stage::Stopped;
        if let Some(forward) = execution.forward.take() {
            forward.stop.cancel();
        }
    }

    /// In aleph-vm's words (2.1).
    pub fn state(&self, execution: &Execution) -> &'static str {
        match execution.stage {
            Stage::Started(_) if execution.host.is_none() => "defined",
            Stage::Started(since) if since.elapsed() < self.boot => "booting",
            Stage::Started(_) => "running",
            Stage::Never => "booting",
            Stage::Failed => "failed",
            Stage::Stopped => "stopped",
        }
    }

    pub fn is_running(&self, execution: &Execution) -> bool {
        self.state(execution) == "running"
    }

    /// The instance's host, while it runs.
    pub fn host_of(&self, item_hash: &str) -> Option<&Host> {
        let execution = self.executions.get(item_hash)?;
        if !self.is_running(execution) {
            return None;
        }
        self.hosts.get(execution.host?)
    }
}
