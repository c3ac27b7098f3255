//! The messages that the network knows. All core channel nodes share it.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

use super::crypto::same_address;
use super::message::{CREDIT_INSUFFICIENT, Kind, Message, Rejection};
use super::prices;

/// Hours of all instances that must be paid for before one more is taken.
const HOURS_AHEAD: f64 = 24.0;

#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Told to be: until then, if not for ever.
    Pending(Option<Instant>),
    /// A FORGET whose target cannot be forgotten yet: it is tried again and again. Shown as pending.
    Waiting,
    Processed,
    Removing,
    Removed,
    Forgotten(Vec<String>),
    Rejected(Rejection),
}

impl Status {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending(_) | Self::Waiting => "pending",
            Self::Processed => "processed",
            Self::Removing => "removing",
            Self::Removed => "removed",
            Self::Forgotten(_) => "forgotten",
            Self::Rejected(_) => "rejected",
        }
    }

    /// Whether an instance with it costs credits and may run.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Processed | Self::Removing)
    }

    /// A status by its name, for those who order it.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "pending" => Self::Pending(None),
            "processed" => Self::Processed,
            "removing" => Self::Removing,
            "removed" => Self::Removed,
            "forgotten" => Self::Forgotten(Vec::new()),
            "rejected" => Self::Rejected(Rejection { code: -1, why: "told so".into() }),
            _ => return None,
        })
    }
}

#[derive(Debug)]
pub struct Entry {
    pub message: Message,
    pub status: Status,
    /// The order of arrival.
    pub order: u64,
}

#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    arrived: u64,
}

/// What may come between a message and its being processed.
#[derive(Debug, Default)]
pub struct Hindrance {
    pub rejected: Option<Rejection>,
    /// `Some(None)`: for ever.
    pub pending: Option<Option<Instant>>,
}

impl Ledger {
    pub fn get(&self, item_hash: &str) -> Option<&Entry> {
        self.entries.get(item_hash)
    }

    /// In the order of arrival.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.entries.values().collect();
        entries.sort_by_key(|entry| entry.order);
        entries
    }

    pub fn set_status(&mut self, item_hash: &str, status: Status) -> bool {
        self.entries.get_mut(item_hash).map(|entry| entry.status = status).is_some()
    }

    /// Takes a message. One that is known stays as it is, unless it was rejected: that is looked at again.
    pub fn post(&mut self, message: Message, hindrance: Hindrance, credits: f64) -> &Status {
        let known = self.entries.get(&message.item_hash).map(|entry| &entry.status);
        if matches!(known, None | Some(Status::Rejected(_))) {
            let status = match (message.check(), hindrance) {
                (Err(rejection), _) | (_, Hindrance { rejected: Some(rejection), .. }) => Status::Rejected(rejection),
                (_, Hindrance { pending: Some(until), .. }) => Status::Pending(until),
                _ => self.judge(&message, credits),
            };
            self.arrived += 1;
            let entry = Entry { order: self.arrived, status, message: message.clone() };
            self.entries.insert(message.item_hash.clone(), entry);
        }
        &self.entries[&message.item_hash].status
    }

    /// Credits an hour for all instances of an address that are to be paid.
    pub fn hourly(&self, owner: &str) -> f64 {
        self.entries
            .values()
            .filter(|entry| entry.message.kind == Kind::Instance && entry.status.is_alive())
            .filter(|entry| same_address(entry.message.owner(), owner))
            .map(|entry| prices::hourly(&entry.message.content))
            .sum()
    }

    fn judge(&self, message: &Message, credits: f64) -> Status {
        match message.kind {
            Kind::Instance => {
                let need = (self.hourly(message.owner()) + prices::hourly(&message.content)) * HOURS_AHEAD;
                if credits < need {
                    let why = format!("required_credits {need:.0}, account_credits {credits:.0}");
                    return Status::Rejected(Rejection { code: CREDIT_INSUFFICIENT, why });
                }
                Status::Processed
            }
            Kind::Forget => self.judge_forget(message),
        }
    }

    fn judge_forget(&self, forget: &Message) -> Status {
        let reject = |code, why: &str| Status::Rejected(Rejection { code, why: why.into() });
        for target in forget.targets() {
            let Some(entry) = self.entries.get(target) else { return Status::Waiting };
            if entry.message.kind == Kind::Forget {
                return reject(502, "a FORGET cannot be forgotten");
            }
            if !same_address(entry.message.owner(), &forget.sender) {
                return reject(2, "the target is someone else's");
            }
            if matches!(entry.status, Status::Pending(_) | Status::Waiting | Status::Rejected(_)) {
                return Status::Waiting;
            }
        }
        Status::Processed
    }

    /// Does what time and new messages have made possible; returns instances that have just been forgotten.
    pub fn settle(&mut self, now: Instant, credits_of: impl Fn(&str) -> f64) -> Vec<String> {
        let due: Vec<String> = self
            .entries
            .values()
            .filter(|entry| match entry.status {
                Status::Pending(Some(until)) => until <= now,
                Status::Waiting => true,
                _ => false,
            })
            .map(|entry| entry.message.item_hash.clone())
            .collect();
        for hash in due {
            let message = self.entries[&hash].message.clone();
            let status = self.judge(&message, credits_of(message.owner()));
            self.set_status(&hash, status);
        }
        self.forget_targets()
    }

    fn forget_targets(&mut self) -> Vec<String> {
        let processed = self
            .entries
            .values()
            .filter(|entry| entry.message.kind == Kind::Forget && entry.status == Status::Processed)
            .flat_map(|entry| {
                let by = &entry.message.item_hash;
                entry.message.targets().into_iter().map(|target| (target.to_owned(), by.clone())).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>();
        let mut forgotten = Vec::new();
        for (target, by) in processed {
            let Some(entry) = self.entries.get_mut(&target) else { continue };
            match &mut entry.status {
                Status::Forgotten(all) if !all.contains(&by) => all.push(by),
                Status::Forgotten(_) => {}
                status => {
                    *status = Status::Forgotten(vec![by]);
                    forgotten.push(target);
                }
            }
        }
        forgotten
    }
}

impl Entry {
    /// Answer to `GET /api/v0/messages/{hash}`, if its status were `status`.
    #[expect(clippy::cast_possible_truncation, reason = "times are in this century")]
    pub fn json(&self, status: &Status) -> Value {
        let message = &self.message;
        let received = DateTime::from_timestamp_millis((message.time * 1000.0) as i64).unwrap_or_default();
        let received = received.to_rfc3339_opts(SecondsFormat::Micros, false);
        let mut full = message.json();
        let mut skeleton = full.clone();
        if let Some(fields) = skeleton.as_object_mut() {
            for name in ["content", "item_content", "confirmed", "confirmations", "size"] {
                fields.remove(name);
            }
        }
        let mut answer = json!({ "status": status.name(), "item_hash": message.item_hash, "reception_time": received });
        match status {
            Status::Pending(_) | Status::Waiting => {
                full["time"] = received.into();
                answer["messages"] = json!([full]);
            }
            Status::Processed => answer["message"] = full,
            Status::Removing => {
                answer["message"] = full;
                answer["reason"] = "credit_insufficient".into();
            }
            Status::Removed => {
                skeleton["owner"] = message.owner().into();
                skeleton["payment_type"] = "credit".into();
                skeleton["removed_at"] = message.time.into();
                answer["message"] = skeleton;
                answer["reason"] = "credit_insufficient".into();
            }
            Status::Forgotten(by) => {
                answer["message"] = skeleton;
                answer["forgotten_by"] = json!(by);
            }
            Status::Rejected(rejection) => {
                answer["message"] = full;
                answer["error_code"] = rejection.code.into();
                answer["details"] = json!({ "errors": [rejection.why] });
            }
        }
        answer
    }
}
