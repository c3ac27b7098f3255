//! Aleph Cloud: instances, paid with credits, on compute nodes (CRNs) that we choose; messages go through core channel nodes
//! (CCNs). Nothing here knows the database: what must be remembered is returned, and stored before it is acted upon.
//!
//! Facts that this is built on (from the crates `aleph-sdk` and `aleph-types` 0.22, pyaleph, aleph-vm, aleph-message 1.7):
//!
//! - A message's hash is the SHA-256 of its content, so an instance has its name before anything is sent, and posting the
//!   same message again changes nothing. Its signature is EIP-191 over `ETH\n{sender}\nINSTANCE\n{hash}`.
//! - An instance pinned to a node (`requirements.node.node_hash`) is accepted by that node alone; another node takes another
//!   message with another hash.
//! - `POST {CCN}/api/v0/messages` with `sync` waits up to 30 s: 200 processed, 202 pending, 422 rejected.
//! - Nodes know us by two headers: an ephemeral P-256 key signed by the account, and the operation signed by that key,
//!   good for two minutes around the node's clock.
//! - One million credits are one US dollar; an instance needs a day's credits to be accepted.
//! - A FORGET needs its target processed (or removing); until then it is refused and has to be repeated.
//!
//! The official crate makes accounts, messages, hashes and signatures. Requests are plain ones: stored messages are posted
//! byte for byte, answers are read tolerantly (one odd field must not hide how a message stands), and every server, most of
//! which anybody may run, gets a deadline and a size limit and cannot send us elsewhere.

mod cached;
mod ccn;
mod crn;
mod gateway;
mod http;
mod instances;
mod listed;
mod nodes;
pub mod preview;
mod price;
mod signing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use aleph_types::account::{Account as _, EvmAccount};
use aleph_types::chain::Chain;
use aleph_types::item_hash::ItemHash;
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use self::cached::Cached;
use self::http::Http;
use self::instances::Size;
use crate::config::Config;
use crate::ssh;

/// Why something could not be done. The texts are for the operator; [`AlephError::words`] are for an agent's owner.
#[derive(Debug, thiserror::Error)]
pub enum AlephError {
    /// A server did not answer, or not in time.
    #[error("{what} did not answer: {cause}")]
    Unreachable {
        /// Which server.
        what: String,
        /// Why, without URLs that carry secrets.
        cause: String,
    },
    /// A server refused, and will refuse again.
    #[error("{what} refused ({status}): {body}")]
    Refused {
        /// Which server.
        what: String,
        /// HTTP status, or 0.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// An answer that cannot be understood.
    #[error("{what} said something that cannot be understood: {cause}")]
    Garbled {
        /// Which server.
        what: String,
        /// Why.
        cause: String,
    },
    /// Not enough credits.
    #[error("{0}")]
    Credits(Shortage),
    /// No compute node passes the checks at the moment.
    #[error("of {seen} compute nodes none is fit at the moment")]
    NoNode {
        /// Nodes in the list.
        seen: usize,
    },
    /// Our own key or configuration.
    #[error("{0}")]
    Own(String),
}

impl AlephError {
    /// For an agent's owner: part of a sentence, without a full stop.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "the cloud does not answer at the moment",
            Self::Refused { .. } | Self::Garbled { .. } => "the cloud refused to do it",
            Self::Credits(_) => "this service's account at the cloud has run out of credits; its operators are told",
            Self::NoNode { .. } => "the cloud has no free place at the moment",
            Self::Own(_) => "this service is not set up rightly; its operators have to look",
        }
    }
}

/// What credits are worth in US dollars.
pub fn dollars(credits: u64) -> f64 {
    credits as f64 / 1_000_000.0
}

/// Credits that are there and credits that would be needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the account {address} has {have} credits, but {need} are needed to run {machines} machines for a day: add credits to \
     {address} (on https://app.aleph.cloud, or from another account), or lower MAX_VMS"
)]
pub struct Shortage {
    /// The account's address.
    pub address: String,
    /// Credits of the account.
    pub have: u64,
    /// Credits for 24 hours of all machines.
    pub need: u64,
    /// How many machines that would be.
    pub machines: i64,
}

/// What the account can pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Funds {
    /// The account's address.
    pub address: String,
    /// Credits of the account.
    pub credits: u64,
    /// Credits that one instance costs an hour.
    pub hourly: u64,
}

impl Funds {
    /// Whether so many machines can be paid for the next 24 hours.
    pub fn check(&self, machines: i64) -> Result<(), Shortage> {
        let need = self.hourly.saturating_mul(24).saturating_mul(u64::try_from(machines).unwrap_or(0));
        if self.credits >= need {
            Ok(())
        } else {
            Err(Shortage { address: self.address.clone(), have: self.credits, need, machines })
        }
    }
}

/// A compute node that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crn {
    /// Its node hash.
    pub hash: String,
    /// Base URL without a slash at the end; empty where the node is in no list any more.
    pub url: String,
    /// What its operator calls it; untrusted.
    pub name: String,
}

impl Crn {
    /// Whether it can be asked anything. Of an instance on a node that cannot, only the message is left to be forgotten.
    pub fn is_known(&self) -> bool {
        !self.url.is_empty()
    }
}

/// An instance as it is kept in `vms.data`: known before it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// SHA-256 of the message's content, in hexadecimal: the instance's name everywhere.
    pub item_hash: String,
    /// The node it is pinned to.
    pub crn: Crn,
    /// The signed message, exactly as it is posted, again and again if need be.
    pub message: Value,
}

/// What a core channel node says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It does not know it.
    Unknown,
    /// It is looking at it.
    Pending,
    /// It holds.
    Processed,
    /// Cannot be paid any more, ends within a day.
    Removing,
    /// Ended for want of credits.
    Removed,
    /// We had it forgotten.
    Forgotten,
    /// It will never hold, and why.
    Rejected(String),
}

impl Standing {
    /// Whether nothing of the instance is owed any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Removed | Self::Forgotten | Self::Rejected(_))
    }
}

/// An instance on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Execution {
    /// The node does not have it.
    Absent,
    /// On its way up.
    Booting,
    /// The node gave up, in its words.
    Failed(String),
    /// It runs.
    Running {
        /// Where its SSH is reached now; ports move, so it is asked for before every use. None while networking is not known.
        ssh: Option<ssh::Address>,
    },
}

/// An instance of this account and channel as the core channel nodes list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub item_hash: String,
    /// The installation that made it, if its metadata says so.
    pub installation: Option<Uuid>,
    /// The row of `vms` that it was made for, if its metadata says so.
    pub vm: Option<Uuid>,
    /// The node it is pinned to.
    pub crn_hash: Option<String>,
    /// When it was made.
    pub time: DateTime<Utc>,
}

/// How long calls may take; each has a deadline of its own.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// For what only reads.
    read: Duration,
    /// For posting a message: the node waits up to 30 s for its own verdict.
    post: Duration,
    /// For what a compute node does with an instance: starting one downloads its image at times, within the request.
    operate: Duration,
}

const DEADLINES: Deadlines =
    Deadlines { read: Duration::from_secs(12), post: Duration::from_secs(45), operate: Duration::from_secs(60) };

/// A core channel node.
struct Ccn {
    /// Base URL without a slash at the end.
    url: String,
}

/// The account and its ways to the network; every call has a deadline. `Debug` shows the public half.
pub struct Aleph {
    account: EvmAccount,
    /// Put on every instance, in OpenSSH's form.
    ssh_public: String,
    size: Size,
    ccns: Vec<Ccn>,
    crn_list_url: String,
    gateway_url: String,
    gateway_domain: String,
    /// Whether nodes and machines may be at plain http and private addresses.
    allow_private: bool,
    http: Http,
    /// For compute nodes.
    nodes_http: Http,
    deadlines: Deadlines,
    image: Cached<ItemHash>,
    hourly: Cached<u64>,
    funds: Cached<Funds>,
}

impl fmt::Debug for Aleph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ccns: Vec<_> = self.ccns.iter().map(|ccn| &ccn.url).collect();
        f.debug_struct("Aleph").field("address", &self.address()).field("ccns", &ccns).finish_non_exhaustive()
    }
}

impl Aleph {
    /// Channel of all our messages.
    pub const CHANNEL: &'static str = "BAAL";

    /// Reads key and addresses; nothing is sent. `ssh_public` is the key that instances let in, in OpenSSH's form.
    pub fn new(config: &Config, ssh_public: String) -> anyhow::Result<Self> {
        let key = config.aleph_private_key.as_ref().context("ALEPH_PRIVATE_KEY is missing")?;
        // Neither error is shown: they may tell something of the key.
        let key = hex::decode(key.expose_secret()).ok().context("ALEPH_PRIVATE_KEY is not hexadecimal")?;
        let account = EvmAccount::new(Chain::Ethereum, &key).ok().context("ALEPH_PRIVATE_KEY is not a private key")?;
        let ccns: Vec<_> = config.aleph_api_urls.iter().map(|url| Ccn { url: url.clone() }).collect();
        anyhow::ensure!(!ccns.is_empty(), "ALEPH_API_URL names no core channel node");
        Ok(Self {
            account,
            ssh_public,
            size: Size::of(config)?,
            ccns,
            crn_list_url: config.aleph_crn_list_url.clone(),
            gateway_url: config.aleph_gateway_url.clone(),
            gateway_domain: config.aleph_gateway_domain.clone(),
            allow_private: config.agent_allow_private,
            http: Http::new()?,
            nodes_http: Http::to_strangers(config.agent_allow_private)?,
            deadlines: DEADLINES,
            image: Cached::new(),
            hourly: Cached::new(),
            funds: Cached::new(),
        })
    }

    /// The account's address, to which credits are sent.
    pub fn address(&self) -> String {
        self.account.address().as_str().to_owned()
    }
}

impl Ccn {
    /// As errors name it.
    fn name(&self) -> String {
        format!("the core channel node {}", http::host(&self.url))
    }
}
