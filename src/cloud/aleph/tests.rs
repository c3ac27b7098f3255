//! Against small servers of this process that answer, hang, lie or break.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::*;

mod at_nodes;
mod messages;
mod network;

const HASH: &str = "b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717";
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// A request as a server saw it.
#[derive(Debug, Clone)]
struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Value,
}

/// A server on a random port; it ends when it is dropped.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server answers; `None` hangs for ever.
type Reply = Option<(u16, String)>;

impl Server {
    async fn new(answer: impl Fn(&Seen) -> Reply + Clone + Send + Sync + 'static) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let request = Seen { method, uri, headers, body };
            log.lock().unwrap().push(request.clone());
            let reply = answer(&request);
            async move {
                match reply {
                    Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
                    None => std::future::pending().await,
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { url, seen, task: serving.abort_handle() }
    }

    async fn saying(status: u16, body: Value) -> Self {
        Self::new(move |_| Some((status, body.to_string()))).await
    }

    async fn hanging() -> Self {
        Self::new(|_| None).await
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn crn(&self) -> Crn {
        Crn { hash: "ab".repeat(32), url: self.url.clone(), name: "node".into() }
    }
}

fn reply(body: Value) -> Reply {
    Some((200, body.to_string()))
}

/// Everything at these core channel nodes; lists and gateway at the first one.
fn aleph(ccns: &[&Server]) -> Aleph {
    Aleph::new(&config(ccns), "ssh-ed25519 AAAA".into()).unwrap()
}

fn config(ccns: &[&Server]) -> Config {
    drop(rustls::crypto::ring::default_provider().install_default());
    let urls: Vec<_> = ccns.iter().map(|ccn| ccn.url.clone()).collect();
    let first = urls.first().cloned().unwrap_or_else(|| "http://127.0.0.1:1".into());
    let values = [
        ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
        ("TELEGRAM_MODE", "polling"),
        ("DATABASE_URL", "postgres://127.0.0.1:1/none"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "key"),
        ("ALEPH_PRIVATE_KEY", KEY),
        ("ALEPH_SSH_PUBKEY", "ssh-ed25519 AAAA"),
        ("ALEPH_API_URL", &if urls.is_empty() { first.clone() } else { urls.join(",") }),
        ("ALEPH_CRN_LIST_URL", &first),
        ("ALEPH_GATEWAY_URL", &first),
        ("ALEPH_GATEWAY_DOMAIN", "vm.localhost:18443"),
        ("AGENT_ALLOW_PRIVATE", "true"),
    ];
    let values: BTreeMap<_, _> = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Config::from_values(values, vec![]).unwrap()
}

/// The same, for tests with a server that hangs.
fn hasty(ccns: &[&Server]) -> Aleph {
    let short = Duration::from_secs(1);
    Aleph { deadlines: Deadlines { read: short, post: short, operate: short }, ..aleph(ccns) }
}

async fn instance(aleph: &Aleph, crn: Crn) -> Instance {
    aleph.compose(&crn, Uuid::from_u128(1), Uuid::from_u128(2)).await.unwrap()
}

fn status(name: &str) -> Value {
    json!({ "status": name, "error_code": 6 })
}

/// Jobs run on any thread.
#[expect(dead_code, reason = "that it compiles is the test")]
fn calls_may_move_between_threads(aleph: &Aleph, instance: &Instance, crn: &Crn, avoid: &HashSet<String>) {
    fn sends(_: impl Send) {}
    sends(aleph.funds());
    sends(aleph.candidates(avoid));
    sends(aleph.compose(crn, Uuid::nil(), Uuid::nil()));
    sends(aleph.post(instance));
    sends(aleph.standing_everywhere(HASH));
    sends(aleph.forget(HASH));
    sends(aleph.start(instance));
    sends(aleph.erase(instance));
    sends(aleph.execution(instance));
    sends(aleph.list());
    sends(aleph.routed(HASH));
}
