//! Who calls a compute node: the headers `X-SignedPubKey` and `X-SignedOperation`.
//!
//! Outside facts: aleph-vm, `doc/operator_auth.md` and `src/aleph/vm/orchestrator/views/authentication.py`.

use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::clock;
use super::crypto::{eip191_signer, es256_holds, same_address};

/// How far an operation's time may be from ours.
const SKEW: TimeDelta = TimeDelta::minutes(2);

/// What a node says to who it does not let in.
pub type Refusal = (StatusCode, &'static str);

#[derive(Deserialize)]
struct Signed {
    /// Hexadecimal of JSON.
    payload: String,
    signature: String,
}

#[derive(Deserialize)]
struct PubKey {
    pubkey: Jwk,
    address: String,
    expires: String,
    #[serde(default)]
    domain: Option<String>,
    #[serde(default = "ethereum")]
    chain: String,
}

fn ethereum() -> String {
    "ETH".into()
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Operation {
    time: DateTime<Utc>,
    method: String,
    path: String,
    domain: String,
}

/// The address in whose name an operation is asked for.
pub fn caller(headers: &HeaderMap, domain: &str, method: &str, path: &str) -> Result<String, Refusal> {
    let (key, key_bytes, key_signature) = read::<PubKey>(headers, "X-SignedPubKey", "Invalid X-SignedPubKey data")?;
    if key.chain != "ETH" || key.pubkey.kty != "EC" || key.pubkey.crv != "P-256" {
        return Err((StatusCode::BAD_REQUEST, "Invalid X-SignedPubKey data"));
    }
    let expires = DateTime::parse_from_rfc3339(&key.expires)
        .map_err(|_| (StatusCode::BAD_REQUEST, "Invalid X-SignedPubKey data"))?;
    if expires <= clock::now() {
        return Err((StatusCode::UNAUTHORIZED, "Token expired"));
    }
    if !eip191_signer(&key_bytes, &key_signature).is_some_and(|signer| same_address(&signer, &key.address)) {
        return Err((StatusCode::UNAUTHORIZED, "Invalid signature"));
    }
    let (operation, bytes, signature) =
        read::<Operation>(headers, "X-SignedOperation", "Invalid X-SignedOperation fields")?;
    if (operation.time - clock::now()).abs() > SKEW {
        return Err((StatusCode::UNAUTHORIZED, "Time is too far in the past or the future"));
    }
    if operation.domain != domain || key.domain.is_some_and(|of_key| of_key != domain) {
        return Err((StatusCode::UNAUTHORIZED, "Invalid domain"));
    }
    if operation.path != path {
        return Err((StatusCode::UNAUTHORIZED, "Invalid path"));
    }
    if operation.method != method {
        return Err((StatusCode::UNAUTHORIZED, "Invalid method"));
    }
    let coordinate = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let signature = hex::decode(signature).unwrap_or_default();
    if !es256_holds(&coordinate(&key.pubkey.x), &coordinate(&key.pubkey.y), &bytes, &signature) {
        return Err((StatusCode::UNAUTHORIZED, "Signature could not verified"));
    }
    Ok(key.address)
}

/// A header's payload, its bytes as they were signed, and the signature.
fn read<T: for<'de> Deserialize<'de>>(
    headers: &HeaderMap,
    name: &str,
    problem: &'static str,
) -> Result<(T, Vec<u8>, String), Refusal> {
    let refused = (StatusCode::BAD_REQUEST, problem);
    let header = headers.get(name).ok_or((StatusCode::BAD_REQUEST, "Missing header"))?;
    let signed: Signed = serde_json::from_slice(header.as_bytes()).map_err(|_| refused)?;
    let bytes = hex::decode(&signed.payload).map_err(|_| refused)?;
    let payload = serde_json::from_slice(&bytes).map_err(|_| refused)?;
    Ok((payload, bytes, signed.signature))
}
