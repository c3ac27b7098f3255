//! The headers by which a compute node knows us (aleph-vm, `orchestrator/views/authentication.py`; the official crate makes
//! the same ones, but only within its own calls).
//!
//! `X-SignedPubKey`: an ephemeral P-256 key as a JWK, signed by the account (EIP-191 over the payload's bytes), for ten minutes.
//! `X-SignedOperation`: time, method, path (without query) and domain (the node's host name), signed with that key (ES256,
//! 64 bytes). Both are JSON with payload and signature in hexadecimal. A clock that is two minutes off breaks them.

use aleph_types::account::Account;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::rand_core::OsRng;
use serde_json::{Value, json};

use super::{Aleph, AlephError};

/// Name of the header with the ephemeral key.
pub(super) const KEY_HEADER: &str = "X-SignedPubKey";
/// Name of the header with the operation.
pub(super) const OPERATION_HEADER: &str = "X-SignedOperation";
/// How long an ephemeral key would be taken. It is used once; the rest is for clocks that differ.
const KEY_LIFE: TimeDelta = TimeDelta::minutes(10);

/// The headers of one request.
pub(super) struct Signed {
    pub(super) key: String,
    pub(super) operation: String,
}

impl Aleph {
    /// Signs a request to the node at this URL. `path` is without a query.
    pub(super) fn sign(&self, crn_url: &str, method: &str, path: &str) -> Result<Signed, AlephError> {
        let url = reqwest::Url::parse(crn_url).ok();
        let domain = url.as_ref().and_then(|url| url.host_str());
        let domain = domain.ok_or_else(|| AlephError::Own("the node's URL names no host".into()))?;
        let ephemeral = SigningKey::random(&mut OsRng);
        let now = now();
        let point = ephemeral.verifying_key().to_encoded_point(false);
        let coordinate = |bytes: Option<&_>| bytes.map(|bytes: &p256::FieldBytes| URL_SAFE_NO_PAD.encode(bytes));
        let grant = json!({
            "pubkey": { "kty": "EC", "crv": "P-256", "x": coordinate(point.x()), "y": coordinate(point.y()) },
            "alg": "ECDSA",
            "domain": domain,
            "address": self.address(),
            "expires": stamp(now + KEY_LIFE),
            // Every EVM chain signs alike, and nodes only know this name.
            "chain": "ETH",
        });
        let grant = grant.to_string();
        let signature = self.account.sign_raw(grant.as_bytes());
        let signature = signature.map_err(|e| AlephError::Own(format!("the node's headers: {e}")))?;
        let key = json!({
            "sender": self.address(),
            "payload": hex::encode(&grant),
            "signature": signature.as_str(),
            "content": { "domain": domain },
        });
        let operation = json!({ "time": stamp(now), "method": method, "path": path, "domain": domain });
        Ok(Signed { key: key.to_string(), operation: operation_header(&ephemeral, &operation) })
    }
}

fn operation_header(key: &SigningKey, operation: &Value) -> String {
    let operation = operation.to_string();
    let signature: Signature = key.sign(operation.as_bytes());
    json!({ "payload": hex::encode(&operation), "signature": hex::encode(signature.to_bytes()) }).to_string()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a node compares the request's time with its own clock, not with the database's"
)]
fn now() -> DateTime<Utc> {
    Utc::now()
}

fn stamp(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
