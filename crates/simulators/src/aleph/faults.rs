//! Misbehaviour on order.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call: answered with `status` and `body`, nothing is done.
    Status,
    /// A call: handled `seconds` later.
    Slow,
    /// A call: never answered; nothing is done, unless `processed`.
    Hang,
    /// A call: the connection is closed without an answer; it was handled before, unless `processed` is false.
    Lost,
    /// A call: handled, and answered with nonsense.
    Garbled,
    /// A start: accepted, and the instance stays `booting`.
    NeverRuns,
    /// A start: accepted, and the instance becomes `failed`.
    Fails,
    /// A start: SSH moves to another port `seconds` later.
    Remap,
    /// A FORGET: the instance runs on, for `seconds` or until it is erased.
    StillRunning,
    /// A core channel node says that a message is `says`: `unknown` or the name of a status.
    WrongStatus,
    /// A core channel node leaves instances out of its list; with `contains`, those of that hash.
    Omit,
    /// A posted message is rejected with `code`.
    Reject,
    /// A posted message stays pending, for `seconds` or until it is told otherwise.
    Pending,
    /// An SSH connection is cut after `bytes`.
    SshCut,
    /// The gateway does not know a name yet.
    NotRouting,
    /// A node refuses all connections.
    Dead,
}

impl Kind {
    /// Kinds that are about HTTP calls of any kind.
    pub const CALLS: [Self; 5] = [Self::Status, Self::Slow, Self::Hang, Self::Lost, Self::Garbled];
}

/// An ordered fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub kind: Kind,
    /// Only at this one: `ccn2`, `crn1`, `list`, `scheduler`, `gateway`; or at all of a kind: `ccn`, `crn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub party: Option<String>,
    /// Only calls with this HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only calls whose route, with its placeholders, contains this: `/start`, `/api/v0/messages/{hash}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Only what has this in its path or body; for others than calls, in the instance's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// How many matches pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// How many are met then; 0 is all of them.
    #[serde(default = "once")]
    pub count: u64,
    /// Ends by itself after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processed: Option<bool>,
}

fn once() -> u64 {
    1
}

impl Fault {
    /// `seconds` as a duration, if there are any.
    pub fn wait(&self) -> Option<Duration> {
        self.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    fn is_at(&self, party: &str) -> bool {
        self.party.as_deref().is_none_or(|wanted| {
            party.strip_prefix(wanted).is_some_and(|rest| {
                rest.is_empty() || (wanted.bytes().all(|b| b.is_ascii_alphabetic()) && rest.parse::<u32>().is_ok())
            })
        })
    }
}

/// What may be met by a fault.
#[derive(Debug, Default)]
pub struct Occasion<'a> {
    pub party: &'a str,
    pub method: &'a str,
    pub route: &'a str,
    /// Path and body, or the hash of an instance.
    pub text: &'a str,
}

struct Ordered {
    fault: Fault,
    ends: Option<Instant>,
}

#[derive(Default)]
pub struct Faults(Mutex<Vec<Ordered>>);

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Vec<Ordered>> {
        let mut ordered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        ordered.retain(|order| order.ends.is_none_or(|ends| ends > now));
        ordered
    }

    pub fn order(&self, fault: Fault) {
        let lasts = fault.lasts_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.lock().push(Ordered { ends: lasts.map(|lasts| Instant::now() + lasts), fault });
    }

    /// Takes back all, or all of a kind.
    pub fn clear(&self, kind: Option<Kind>) {
        self.lock().retain(|order| kind.is_some_and(|kind| order.fault.kind != kind));
    }

    pub fn left(&self) -> Vec<Fault> {
        self.lock().iter().map(|order| order.fault.clone()).collect()
    }

    /// The oldest fault of these kinds that this meets, used up by one.
    pub fn take(&self, kinds: &[Kind], occasion: &Occasion<'_>) -> Option<Fault> {
        let mut ordered = self.lock();
        let mut met = None;
        for (at, order) in ordered.iter_mut().enumerate() {
            let fault = &mut order.fault;
            if !matches(fault, kinds, occasion) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            met = Some(at);
            break;
        }
        let at = met?;
        let fault = ordered[at].fault.clone();
        if fault.count == 1 {
            ordered.remove(at);
        } else if fault.count > 1 {
            ordered[at].fault.count -= 1;
        }
        Some(fault)
    }

    /// Whether one of this kind would be met now.
    pub fn is_due(&self, kind: Kind, occasion: &Occasion<'_>) -> bool {
        self.lock().iter().any(|order| order.fault.skip == 0 && matches(&order.fault, &[kind], occasion))
    }

    /// Which of these nodes refuse connections.
    pub fn dead<'a>(&self, parties: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let ordered = self.lock();
        let is_dead = |party: &&str| ordered.iter().any(|o| o.fault.kind == Kind::Dead && o.fault.is_at(party));
        parties.filter(is_dead).map(str::to_owned).collect()
    }
}

fn matches(fault: &Fault, kinds: &[Kind], occasion: &Occasion<'_>) -> bool {
    kinds.contains(&fault.kind)
        && fault.is_at(occasion.party)
        && fault.method.as_deref().is_none_or(|method| method.eq_ignore_ascii_case(occasion.method))
        && fault.route.as_deref().is_none_or(|route| occasion.route.contains(route))
        && fault.contains.as_deref().is_none_or(|part| occasion.text.contains(part))
}
