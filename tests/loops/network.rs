//! Two core channel nodes and a list of compute nodes that say what the tests want.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use uuid::Uuid;

/// A byte of the only compute node's hash.
pub const CRN: &str = "cc";

#[derive(Default)]
struct Node {
    down: bool,
    /// Messages by hash, and how they stand.
    messages: BTreeMap<String, (Value, &'static str)>,
}

/// Both nodes, `a` and `b`.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<BTreeMap<String, Node>>>);

impl Network {
    /// Listens; the variables that lead to it.
    pub async fn start() -> (Self, Vec<(&'static str, String)>) {
        let network = Self::default();
        for name in ["a", "b"] {
            network.with(name, |_| ());
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new()
            .route("/{node}/api/v0/messages.json", get(list))
            .route("/{node}/api/v0/messages/{hash}", get(message))
            .route("/crns.json", get(nodes))
            .with_state(network.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let variables = vec![
            ("ALEPH_API_URL", format!("{base}/a,{base}/b")),
            ("ALEPH_CRN_LIST_URL", format!("{base}/crns.json")),
            ("AGENT_ALLOW_PRIVATE", "true".to_owned()),
        ];
        (network, variables)
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Node) -> T) -> T {
        change(self.0.lock().expect("not poisoned").entry(name.to_owned()).or_default())
    }

    /// An instance of this account that both nodes hold, made so many seconds ago.
    pub fn add(&self, sender: &str, installation: Option<Uuid>, vm: Option<Uuid>, age: i64) -> String {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        let time = now as i64 - age;
        let mut metadata = json!({ "name": "vm" });
        if let Some(id) = installation {
            metadata["baal_installation"] = json!(id);
        }
        if let Some(id) = vm {
            metadata["baal_vm"] = json!(id);
        }
        let salt = Uuid::now_v7();
        let content = json!({
            "address": sender, "time": time, "metadata": metadata, "salt": salt,
            "requirements": {"node": {"node_hash": CRN.repeat(32)}},
        })
        .to_string();
        let hash: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        let message = json!({
            "sender": sender, "channel": "BAAL", "type": "INSTANCE", "time": time, "item_hash": hash, "item_type": "inline",
            "item_content": content,
        });
        for node in ["a", "b"] {
            self.with(node, |node| node.messages.insert(hash.clone(), (message.clone(), "processed")));
        }
        hash
    }

    /// From now on this node says that about the instance; nothing where it is to know nothing of it.
    pub fn set(&self, node: &str, hash: &str, status: Option<&'static str>) {
        self.with(node, |node| match (status, node.messages.get_mut(hash)) {
            (Some(status), Some(message)) => message.1 = status,
            _ => drop(node.messages.remove(hash)),
        });
    }

    pub fn set_down(&self, node: &str, down: bool) {
        self.with(node, |node| node.down = down);
    }
}

async fn list(State(network): State<Network>, Path(node): Path<String>) -> Result<Json<Value>, StatusCode> {
    network.with(&node, |node| {
        let held = node.messages.values().filter(|(_, status)| matches!(*status, "processed" | "removing" | "pending"));
        let messages: Vec<_> = held.map(|(message, _)| message.clone()).collect();
        if node.down { Err(StatusCode::BAD_GATEWAY) } else { Ok(Json(json!({ "messages": messages }))) }
    })
}

async fn message(
    State(network): State<Network>,
    Path((node, hash)): Path<(String, String)>,
) -> Result<Json<Value>, StatusCode> {
    network.with(&node, |node| match node.messages.get(&hash) {
        _ if node.down => Err(StatusCode::BAD_GATEWAY),
        None => Err(StatusCode::NOT_FOUND),
        Some((_, status)) => Ok(Json(json!({ "status": status, "item_hash": hash }))),
    })
}

async fn nodes() -> Json<Value> {
    Json(json!({ "crns": [{"hash": CRN.repeat(32), "name": "node", "address": "http://127.0.0.1:9/"}] }))
}
