//! A cloud of its own for each test, accounts, and hosts that echo.

use std::net::SocketAddr;
use std::time::Duration;

use aleph_sdk::client::{
    AlephClient, AlephMessageClient, MessageError, MessageWithStatus, PostMessageResponse, RetryConfig,
};
use aleph_sdk::crn::CrnClient;
use aleph_sdk::messages::{ForgetBuilder, InstanceBuilder};
use aleph_types::account::{Account, EvmAccount};
use aleph_types::chain::Chain;
use aleph_types::channel::Channel;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::execution::base::Payment;
use aleph_types::message::execution::environment::{HostRequirements, Hypervisor, NodeRequirements};
use aleph_types::message::execution::volume::PersistentVolumeSize;
use aleph_types::message::pending::PendingMessage;
use baal_simulators::aleph::{Aleph, Options};
use memsizes::MiB;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

pub const DEBIAN: &str = "b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717";
pub const CHANNEL: &str = "BAAL";

pub struct Sim {
    pub aleph: Aleph,
    pub urls: Value,
    pub http: reqwest::Client,
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.aleph.stop();
    }
}

impl Sim {
    pub async fn start() -> Self {
        // silent-ok: another test has installed it
        let _ = rustls::crypto::ring::default_provider().install_default();
        let aleph = Aleph::start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap();
        let sim = Self { urls: aleph.urls(), aleph, http: reqwest::Client::builder().no_proxy().build().unwrap() };
        sim.post("/settings", json!({ "boot_ms": 0 })).await;
        sim
    }

    /// Posts to the control interface.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.urls["control"].as_str().unwrap());
        let response = self.http.post(url).json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {} {}", response.status(), response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub async fn fault(&self, fault: Value) {
        self.post("/faults", fault).await;
    }

    pub async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.urls["control"].as_str().unwrap());
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    pub async fn state(&self) -> Value {
        self.get("/state").await
    }

    /// The instance as the state shows it.
    pub async fn instance(&self, hash: &ItemHash) -> Value {
        let state = self.state().await;
        let all = state["instances"].as_array().unwrap().clone();
        all.into_iter().find(|instance| instance["item_hash"] == hash.to_string()).unwrap()
    }

    pub fn ccn_url(&self, n: usize) -> String {
        self.urls["ccns"][n].as_str().unwrap().to_owned()
    }

    pub fn crn_url(&self, n: usize) -> String {
        self.urls["crns"][n]["url"].as_str().unwrap().to_owned()
    }

    pub fn crn_hash(&self, n: usize) -> String {
        self.urls["crns"][n]["hash"].as_str().unwrap().to_owned()
    }

    /// A client that tries everything once.
    pub fn ccn(&self, n: usize) -> AlephClient {
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        AlephClient::builder(Url::parse(&self.ccn_url(n)).unwrap()).retry_config(retry).build()
    }

    pub fn crn(&self, account: &EvmAccount, n: usize) -> CrnClient {
        CrnClient::new(account, Url::parse(&self.crn_url(n)).unwrap()).unwrap()
    }

    /// A signed message for an instance that is pinned to compute node `n`.
    pub fn compose(&self, account: &EvmAccount, n: usize) -> PendingMessage {
        compose(account, &self.crn_hash(n), Payment::credits())
    }

    pub async fn submit(&self, message: &PendingMessage) -> Result<PostMessageResponse, MessageError> {
        self.ccn(0).submit_message(message, true).await
    }

    /// An instance that was posted and notified to node `n`.
    pub async fn launch(&self, account: &EvmAccount, n: usize) -> ItemHash {
        let message = self.compose(account, n);
        assert_eq!(self.submit(&message).await.unwrap().message_status, "processed");
        assert!(self.crn(account, n).start_instance(&message.item_hash).await.unwrap().success);
        message.item_hash
    }

    pub async fn standing(&self, n: usize, hash: &ItemHash) -> &'static str {
        match self.ccn(n).get_message(hash).await {
            Ok(MessageWithStatus::Pending { .. }) => "pending",
            Ok(MessageWithStatus::Processed { .. }) => "processed",
            Ok(MessageWithStatus::Removing { .. }) => "removing",
            Ok(MessageWithStatus::Removed { .. }) => "removed",
            Ok(MessageWithStatus::Forgotten { .. }) => "forgotten",
            Ok(MessageWithStatus::Rejected { .. }) => "rejected",
            Err(error) if error.is_not_found() => "unknown",
            Err(error) => panic!("{error}"),
        }
    }

    /// A host that sends back what it gets, after a letter that says by which door it came.
    pub async fn add_host(&self) -> usize {
        let (ssh, https) = (echo(b's').await, echo(b't').await);
        let added = self.post("/hosts", json!({ "ssh": ssh, "https": https })).await;
        usize::try_from(added["n"].as_u64().unwrap()).unwrap()
    }

    /// Where the instance's SSH is, as its node says.
    pub async fn ssh_of(&self, n: usize, hash: &ItemHash) -> Option<SocketAddr> {
        let url = Url::parse(&self.crn_url(n)).unwrap();
        let listed = aleph_sdk::crn::fetch_active_vms(&Default::default(), &url).await.unwrap();
        let networking = listed.0.get(hash)?.networking.clone()?;
        let port = networking.mapped_ports.get(&22)?.host;
        Some(format!("{}:{port}", networking.host_ipv4?).parse().unwrap())
    }
}

pub fn account(n: u8) -> EvmAccount {
    EvmAccount::new(Chain::Ethereum, &[n; 32]).unwrap()
}

pub fn compose(account: &EvmAccount, node_hash: &str, payment: Payment) -> PendingMessage {
    let node = NodeRequirements {
        owner: None,
        address_regex: None,
        node_hash: Some(node_hash.to_owned()),
        terms_and_conditions: None,
    };
    let metadata = [("test".to_owned(), json!(uuid::Uuid::new_v4().to_string()))];
    InstanceBuilder::new(account, DEBIAN.parse().unwrap(), PersistentVolumeSize::from(MiB::from(20_480)))
        .vcpus(1)
        .memory(MiB::from(2048))
        .hypervisor(Hypervisor::Qemu)
        .payment(payment)
        .ssh_keys(vec!["ssh-ed25519 AAAA test".into()])
        .metadata(metadata.into())
        .requirements(HostRequirements { cpu: None, node: Some(node), gpu: None })
        .channel(Channel::from(CHANNEL.to_owned()))
        .build()
        .unwrap()
}

pub fn forget(account: &EvmAccount, target: &ItemHash) -> PendingMessage {
    let channel = Channel::from(CHANNEL.to_owned());
    ForgetBuilder::new(account, vec![target.clone()]).reason("test").channel(channel).build().unwrap()
}

/// A message by hand, signed by `account`: as it is posted.
pub fn signed(account: &EvmAccount, kind: &str, content: &Value) -> Value {
    let item_content = content.to_string();
    let item_hash = ItemHash::from(aleph_types::item_hash::AlephItemHash::from_bytes(item_content.as_bytes()));
    let buffer = format!("ETH\n{}\n{kind}\n{item_hash}", account.address());
    let signature = account.sign_raw(buffer.as_bytes()).unwrap();
    json!({
        "sender": account.address().to_string(), "chain": "ETH", "signature": signature.as_str(), "type": kind,
        "item_type": "inline", "item_content": item_content, "item_hash": item_hash.to_string(),
        "time": content["time"], "channel": CHANNEL,
    })
}

async fn echo(door: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 || stream.write_all(&[door]).await.is_err() {
                        return;
                    }
                    // silent-ok: the test has gone away
                    let _ = stream.write_all(&buffer[..read]).await;
                }
            });
        }
    });
    address
}

/// What comes back for `sent`, until `count` bytes are there or the connection ends.
pub async fn exchange(to: SocketAddr, sent: &[u8], count: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(sent).await.unwrap();
    read(&mut stream, count).await
}

pub async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    let all = async {
        while got.len() < count {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => got.extend_from_slice(&buffer[..read]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
    got
}

/// Waits until it holds.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within ten seconds");
}
