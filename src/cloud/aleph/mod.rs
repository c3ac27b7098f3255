//! Aleph Cloud: instances, paid with credits, on compute nodes (CRNs) that we choose; messages go through core channel nodes
//! (CCNs). Nothing here knows the database: what must be remembered is returned, and stored before it is acted upon.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

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

/// Credits that are there and credits that would be needed. 1,000,000 credits are one US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the account has {have} credits, but {need} are needed to run {machines} machines for a day; add credits to {} or lower MAX_VMS",
    "it"
)]
pub struct Shortage {
    /// Credits of the account.
    pub have: u64,
    /// Credits for 24 hours of all machines.
    pub need: u64,
    /// How many machines that would be.
    pub machines: i64,
}

/// What the account can pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funds {
    /// Credits of the account.
    pub credits: u64,
    /// Credits that one instance costs an hour.
    pub hourly: u64,
}

impl Funds {
    /// Whether so many machines can be paid for the next 24 hours.
    pub fn check(self, machines: i64) -> Result<(), Shortage> {
        let need = self.hourly.saturating_mul(24).saturating_mul(u64::try_from(machines).unwrap_or(0));
        if self.credits >= need { Ok(()) } else { Err(Shortage { have: self.credits, need, machines }) }
    }
}

/// A compute node that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crn {
    /// Its node hash.
    pub hash: String,
    /// Base URL without a slash at the end.
    pub url: String,
    /// What its operator calls it; untrusted.
    pub name: String,
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

/// The account and its ways to the network; every call has a deadline.
#[derive(Debug)]
pub struct Aleph {}

impl Aleph {
    /// Channel of all our messages.
    pub const CHANNEL: &'static str = "BAAL";

    /// Reads key and addresses; nothing is sent.
    pub fn new(_config: &Config) -> anyhow::Result<Self> {
        todo!()
    }

    /// The account's address, to which credits are sent.
    pub fn address(&self) -> String {
        todo!()
    }

    /// The account's credits and what an instance costs.
    pub async fn funds(&self) -> Result<Funds, AlephError> {
        todo!()
    }

    /// Compute nodes that are fit for an instance, best first, without those whose hashes are in `avoid`.
    pub async fn candidates(&self, _avoid: &HashSet<String>) -> Result<Vec<Crn>, AlephError> {
        todo!()
    }

    /// A signed message for a new instance on this node. Nothing is sent.
    pub async fn compose(&self, _crn: &Crn, _installation: Uuid, _vm: Uuid) -> Result<Instance, AlephError> {
        todo!()
    }

    /// Posts the message; posting it again changes nothing. Says how it stands then.
    pub async fn post(&self, _instance: &Instance) -> Result<Standing, AlephError> {
        todo!()
    }

    /// How the message stands at the first core channel node that answers.
    pub async fn standing(&self, _item_hash: &str) -> Result<Standing, AlephError> {
        todo!()
    }

    /// How it stands at every core channel node; an error unless all answer. For decisions that destroy.
    pub async fn standing_everywhere(&self, _item_hash: &str) -> Result<Vec<Standing>, AlephError> {
        todo!()
    }

    /// Asks the node to bring the instance up; asking again changes nothing.
    pub async fn start(&self, _instance: &Instance) -> Result<(), AlephError> {
        todo!()
    }

    /// Asks the node to boot the instance anew.
    pub async fn reboot(&self, _instance: &Instance) -> Result<(), AlephError> {
        todo!()
    }

    /// What the node says of the instance.
    pub async fn execution(&self, _instance: &Instance) -> Result<Execution, AlephError> {
        todo!()
    }

    /// Asks the node to stop the instance and to erase its disk. True if the node has nothing of it (any more).
    pub async fn erase(&self, _instance: &Instance) -> Result<bool, AlephError> {
        todo!()
    }

    /// Posts a FORGET for the instance's message and says how that stands now; to be repeated until it [is
    /// over](Standing::is_over). An instance that was never known counts as over.
    pub async fn forget(&self, _item_hash: &str) -> Result<Standing, AlephError> {
        todo!()
    }

    /// The instance's public name: four words and the gateway's domain, with the port where that has one.
    pub fn public_name(&self, _item_hash: &str) -> Result<String, AlephError> {
        todo!()
    }

    /// Whether the gateway routes the instance's name already.
    pub async fn routed(&self, _item_hash: &str) -> Result<bool, AlephError> {
        todo!()
    }

    /// Instances of this account and channel that exist, by all core channel nodes together: one that any of them lists is
    /// listed. An error unless all answer.
    pub async fn list(&self) -> Result<Vec<Listed>, AlephError> {
        todo!()
    }
}
