//! What a polite client never sends.

use aleph_types::account::{Account, EvmAccount};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use crate::harness::{Sim, account, signed};

async fn post(sim: &Sim, message: Value) -> (u16, String) {
    let url = format!("{}/api/v0/messages", sim.ccn_url(0));
    let response = sim.http.post(url).json(&json!({ "sync": true, "message": message })).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn content(sim: &Sim) -> Value {
    serde_json::from_str(&sim.compose(&account(1), 0).item_content).unwrap()
}

#[tokio::test]
async fn a_message_is_taken_only_as_it_was_hashed_and_signed() {
    let sim = Sim::start().await;
    let owner = account(1);
    let good = signed(&owner, "INSTANCE", &content(&sim));
    let mut other_content = good.clone();
    other_content["item_content"] = content(&sim).to_string().into();
    let (status, body) = post(&sim, other_content).await;
    assert!(status == 422 && body.contains("item_hash"), "{status} {body}");
    let mut unsigned = good.clone();
    unsigned["signature"] = format!("0x{}", "11".repeat(65)).into();
    let (status, body) = post(&sim, unsigned).await;
    assert!(status == 422 && body.contains("\"error_code\":1"), "{status} {body}");
    // A forged copy does not spoil the real one.
    assert_eq!(post(&sim, good).await.0, 200);
}

#[tokio::test]
async fn an_instance_must_say_all_that_it_needs() {
    let sim = Sim::start().await;
    let owner = account(1);
    type Change = fn(&mut Value);
    let broken: [(&str, Change); 7] = [
        ("\"error_code\":0", |content| content["requirements"] = Value::Null),
        ("\"error_code\":0", |content| content["resources"]["vcpus"] = 0.into()),
        ("\"error_code\":0", |content| content["rootfs"]["size_mib"] = "20480".into()),
        ("\"error_code\":301", |content| content["rootfs"]["parent"]["ref"] = "0".repeat(64).into()),
        ("\"error_code\":202", |content| content["payment"] = Value::Null),
        ("\"error_code\":0", |content| content["payment"]["receiver"] = "0x0".into()),
        ("\"error_code\":2", |content| content["address"] = "0x0".into()),
    ];
    for (code, change) in broken {
        let mut content = content(&sim);
        change(&mut content);
        let (status, body) = post(&sim, signed(&owner, "INSTANCE", &content)).await;
        assert!(status == 422 && body.contains(code), "{code}: {status} {body}");
    }
    assert_eq!(sim.state().await["counts"]["billed"], 0);
}

/// How a request to erase is signed.
struct Request {
    domain: &'static str,
    path: Option<&'static str>,
    method: &'static str,
    age: TimeDelta,
    expires: TimeDelta,
    /// Another ephemeral key than the one that was vouched for.
    other_key: bool,
    /// Vouched for by another account than the one that is named.
    other_account: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            domain: "127.0.0.1",
            path: None,
            method: "POST",
            age: TimeDelta::zero(),
            expires: TimeDelta::hours(24),
            other_key: false,
            other_account: false,
        }
    }
}

fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

async fn erase(sim: &Sim, owner: &EvmAccount, hash: &str, request: Request) -> u16 {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let point = key.verifying_key().to_encoded_point(false);
    let coordinate = |bytes: Option<&p256::FieldBytes>| URL_SAFE_NO_PAD.encode(bytes.unwrap());
    let pubkey = json!({ "kty": "EC", "crv": "P-256", "x": coordinate(point.x()), "y": coordinate(point.y()) });
    let payload = json!({
        "pubkey": pubkey, "alg": "ECDSA", "domain": request.domain, "address": owner.address().to_string(),
        "expires": (now() + request.expires).to_rfc3339(), "chain": "ETH",
    })
    .to_string();
    let vouching = if request.other_account { &account(9) } else { owner };
    let vouched = vouching.sign_raw(payload.as_bytes()).unwrap();
    let vouched = json!({ "payload": hex::encode(&payload), "signature": vouched.as_str() });

    let path = format!("/control/machine/{hash}/erase");
    let operation = json!({
        "time": (now() - request.age).to_rfc3339(), "method": request.method,
        "path": request.path.unwrap_or(&path), "domain": request.domain,
    })
    .to_string();
    let key = if request.other_key { SigningKey::from_slice(&[8; 32]).unwrap() } else { key };
    let signature: Signature = key.sign(operation.as_bytes());
    let operation = json!({ "payload": hex::encode(&operation), "signature": hex::encode(signature.to_bytes()) });
    let sent = sim
        .http
        .post(format!("{}{path}", sim.crn_url(0)))
        .header("X-SignedPubKey", vouched.to_string())
        .header("X-SignedOperation", operation.to_string());
    sent.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_compute_node_lets_in_only_what_is_signed_for_it_now() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let hash = sim.launch(&owner, 0).await.to_string();
    let refused = [
        Request { domain: "crn.example.org", ..Request::default() },
        Request { path: Some("/control/machine/else/erase"), ..Request::default() },
        Request { method: "GET", ..Request::default() },
        Request { age: TimeDelta::seconds(125), ..Request::default() },
        Request { age: TimeDelta::seconds(-125), ..Request::default() },
        Request { expires: TimeDelta::seconds(-1), ..Request::default() },
        Request { other_key: true, ..Request::default() },
        Request { other_account: true, ..Request::default() },
    ];
    for (n, request) in refused.into_iter().enumerate() {
        assert_eq!(erase(&sim, &owner, &hash, request).await, 401, "request {n}");
    }
    let url = format!("{}/control/machine/{hash}/erase", sim.crn_url(0));
    assert_eq!(sim.http.post(url).send().await.unwrap().status(), 400, "without headers");
    assert_eq!(erase(&sim, &account(2), &hash, Request::default()).await, 403, "someone else's");
    assert_eq!(erase(&sim, &owner, &"0".repeat(64), Request::default()).await, 404);
    assert_eq!(sim.state().await["counts"]["running"], 1);
    assert_eq!(erase(&sim, &owner, &hash, Request { age: TimeDelta::seconds(100), ..Request::default() }).await, 200);
    assert_eq!(sim.state().await["counts"]["running"], 0);
}
