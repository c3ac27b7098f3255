//! What core channel nodes check before they take a message.
//!
//! Outside facts: pyaleph (`schemas/pending_messages.py`, `types/message_status.py` for the codes), aleph-message 1.7.
//! Stricter than the network in one thing: an instance must be pinned to a compute node, for nothing here schedules.

use serde_json::{Value, json};

use super::crypto::{eip191_signer, same_address, sha256_hex};
use super::prices;

/// Why a message will never hold: a code of pyaleph's and words.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    pub code: i64,
    pub why: String,
}

/// Code for what does not have the form of a message.
pub const INVALID_FORMAT: i64 = 0;
const INVALID_SIGNATURE: i64 = 1;
const PERMISSION_DENIED: i64 = 2;
pub const CREDIT_INSUFFICIENT: i64 = 6;
const PAYMENT_METHOD: i64 = 202;
const VOLUME_NOT_FOUND: i64 = 301;
const FORGET_NO_TARGET: i64 = 500;

fn reject<T>(code: i64, why: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection { code, why: why.into() })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Instance,
    Forget,
}

/// A message whose form and hash are right.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: Kind,
    pub item_hash: String,
    pub sender: String,
    pub signature: String,
    pub channel: Option<String>,
    pub time: f64,
    pub item_content: String,
    pub content: Value,
}

impl Message {
    /// Reads a posted message; an error means that nothing is kept of it.
    pub fn read(posted: &Value) -> Result<Self, String> {
        let text = |name: &str| {
            posted[name].as_str().map(str::to_owned).ok_or_else(|| format!("{name}: a string is required"))
        };
        let kind = match text("type")?.as_str() {
            "INSTANCE" => Kind::Instance,
            "FORGET" => Kind::Forget,
            other => return Err(format!("type: {other} messages are not simulated")),
        };
        if text("chain")? != "ETH" {
            return Err("chain: only ETH is simulated".into());
        }
        if text("item_type")? != "inline" {
            return Err("item_type: only inline messages are simulated".into());
        }
        let item_content = text("item_content")?;
        let item_hash = text("item_hash")?;
        if sha256_hex(item_content.as_bytes()) != item_hash {
            return Err("item_hash: 'item_content' does not match 'item_hash'".into());
        }
        let content: Value = serde_json::from_str(&item_content).map_err(|e| format!("item_content: {e}"))?;
        let channel = match &posted["channel"] {
            Value::Null => None,
            Value::String(channel) => Some(channel.clone()),
            _ => return Err("channel: a string is required".into()),
        };
        Ok(Self {
            kind,
            item_hash,
            sender: text("sender")?,
            signature: text("signature")?,
            channel,
            time: posted["time"].as_f64().ok_or("time: a number is required")?,
            item_content,
            content,
        })
    }

    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Instance => "INSTANCE",
            Kind::Forget => "FORGET",
        }
    }

    /// The address in whose name it is.
    pub fn owner(&self) -> &str {
        self.content["address"].as_str().unwrap_or_default()
    }

    /// The compute node that an instance is pinned to.
    pub fn node_hash(&self) -> &str {
        self.content["requirements"]["node"]["node_hash"].as_str().unwrap_or_default()
    }

    /// What a FORGET is about.
    pub fn targets(&self) -> Vec<&str> {
        self.content["hashes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Everything that can be said without knowing other messages.
    pub fn check(&self) -> Result<(), Rejection> {
        let signed = format!("ETH\n{}\n{}\n{}", self.sender, self.type_name(), self.item_hash);
        let signer = eip191_signer(signed.as_bytes(), &self.signature);
        if !signer.is_some_and(|signer| same_address(&signer, &self.sender)) {
            return reject(INVALID_SIGNATURE, "the signature is not the sender's");
        }
        if self.content["time"].as_f64().is_none() {
            return reject(INVALID_FORMAT, "content.time: a number is required");
        }
        if !same_address(self.owner(), &self.sender) {
            return reject(PERMISSION_DENIED, "the sender may not act for content.address");
        }
        match self.kind {
            Kind::Instance => self.check_instance(),
            Kind::Forget if self.targets().is_empty() => reject(FORGET_NO_TARGET, "nothing to forget"),
            Kind::Forget => Ok(()),
        }
    }

    fn check_instance(&self) -> Result<(), Rejection> {
        let content = &self.content;
        if content["payment"]["type"] != "credit" {
            return reject(PAYMENT_METHOD, "instances are paid with credits only");
        }
        if !content["payment"]["receiver"].is_null() {
            return reject(INVALID_FORMAT, "payment.receiver: nobody receives credits");
        }
        for name in ["vcpus", "memory", "seconds"] {
            if content["resources"][name].as_u64().is_none_or(|value| value == 0) {
                return reject(INVALID_FORMAT, format!("resources.{name}: a positive number is required"));
            }
        }
        if !is_hash(content["requirements"]["node"]["node_hash"].as_str()) {
            return reject(INVALID_FORMAT, "requirements.node.node_hash: instances must be pinned here");
        }
        if content["rootfs"]["size_mib"].as_u64().is_none_or(|size| size == 0) {
            return reject(INVALID_FORMAT, "rootfs.size_mib: a positive number is required");
        }
        let image = content["rootfs"]["parent"]["ref"].as_str();
        if !is_hash(image) {
            return reject(INVALID_FORMAT, "rootfs.parent.ref: an item hash is required");
        }
        if !image.is_some_and(prices::is_image) {
            return reject(VOLUME_NOT_FOUND, "rootfs.parent.ref: there is no such image");
        }
        if !content["environment"].is_object() || !content["volumes"].is_array() {
            return reject(INVALID_FORMAT, "environment and volumes are required");
        }
        if !content["authorized_keys"].is_null()
            && !content["authorized_keys"].as_array().is_some_and(|keys| keys.iter().all(Value::is_string))
        {
            return reject(INVALID_FORMAT, "authorized_keys: a list of strings is required");
        }
        Ok(())
    }

    /// As nodes give it out.
    pub fn json(&self) -> Value {
        json!({
            "sender": self.sender, "chain": "ETH", "signature": self.signature, "type": self.type_name(),
            "item_type": "inline", "item_content": self.item_content, "item_hash": self.item_hash, "time": self.time,
            "channel": self.channel, "content": self.content, "confirmed": false, "confirmations": [],
            "size": self.item_content.len(),
        })
    }
}

fn is_hash(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()))
}
