//! The simulated cloud, and the machines that it rents out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use baal_e2e::aleph::{Aleph, Options};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::machines::Host;

/// An instance, as the cloud itself sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub item_hash: String,
    /// What the core channel nodes say of its message.
    pub status: String,
    /// What its message says of it.
    pub metadata: Value,
    /// Whether it costs credits.
    pub billed: bool,
    /// The node that it is pinned to, such as `crn1`.
    pub crn: Option<String>,
    /// What that node has of it; null if nothing.
    pub execution: Value,
}

impl Instance {
    /// The installation that its metadata names.
    pub fn installation(&self) -> Option<&str> {
        self.metadata["baal_installation"].as_str()
    }
}

/// One call of a far side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Call {
    pub party: String,
    pub method: String,
    /// With placeholders.
    pub route: String,
}

/// A cloud of its own. It is gone when this is dropped.
pub struct Cloud {
    aleph: Aleph,
    control: String,
    http: reqwest::Client,
    cleaner: tokio::task::JoinHandle<()>,
}

impl Cloud {
    /// A cloud with so many compute nodes that rents out these machines, and cleans each that an instance has left.
    pub async fn start(address: SocketAddr, crns: u32, hosts: Arc<Vec<Host>>) -> Self {
        let aleph = Aleph::start(address, Options { crns, ..Options::default() }).await.unwrap();
        let control = aleph.urls()["control"].as_str().unwrap().to_owned();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        let idle = tokio::spawn(std::future::ready(()));
        let mut cloud = Self { aleph, control, http, cleaner: idle };
        for host in hosts.iter() {
            cloud.post("/hosts", json!({"ssh": SocketAddr::new(host.ip(), 22)})).await;
        }
        cloud.cleaner = tokio::spawn(keep_clean(cloud.http.clone(), cloud.control.clone(), hosts));
        cloud
    }

    /// The variables with which `baal` finds it.
    pub fn env(&self) -> BTreeMap<String, String> {
        serde_json::from_value(self.aleph.urls()["env"].clone()).unwrap()
    }

    /// The port at which public names are reached.
    pub fn gateway_port(&self) -> u16 {
        let domain = self.env().remove("ALEPH_GATEWAY_DOMAIN").unwrap();
        domain.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// All instances that there ever were.
    pub async fn instances(&self) -> Vec<Instance> {
        serde_json::from_value(self.get("/state").await["instances"].take()).unwrap()
    }

    /// The calls since the last [`Cloud::forget_calls`], in their order.
    pub async fn calls(&self) -> Vec<Call> {
        serde_json::from_value(self.get("/calls").await["calls"].take()).unwrap()
    }

    pub async fn forget_calls(&self) {
        self.post("/calls", json!({})).await;
    }

    /// Orders something to go wrong, or several things.
    pub async fn fault(&self, fault: Value) {
        self.post("/faults", fault).await;
    }

    /// Faults that met nothing yet.
    pub async fn faults_left(&self) -> Value {
        self.get("/faults").await
    }

    /// Nothing goes wrong from now on.
    pub async fn no_faults(&self) {
        let answer = self.http.delete(format!("{}/faults", self.control)).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.control)).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}{path}", self.control)).json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "POST {path} {body}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.cleaner.abort();
        self.aleph.stop();
    }
}

/// Cleans machines that were released, as a cloud does by giving out new disks.
async fn keep_clean(http: reqwest::Client, control: String, hosts: Arc<Vec<Host>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // silent-ok: the cloud ends before this does
        let Ok(answer) = http.get(format!("{control}/hosts")).send().await else { continue };
        // silent-ok: as above
        let Ok(Value::Array(known)) = answer.json().await else { continue };
        let dirty = known.iter().filter(|host| host["state"] == "dirty").filter_map(|host| host["n"].as_u64());
        let cleaning = dirty.map(|n| {
            let (hosts, http, control) = (hosts.clone(), http.clone(), control.clone());
            async move {
                let at = usize::try_from(n).unwrap();
                let cleaned = tokio::task::spawn_blocking(move || hosts[at].clean()).await.unwrap();
                match cleaned {
                    Ok(()) => drop(http.post(format!("{control}/hosts/{n}/clean")).send().await),
                    // A machine that is off, perhaps: it stays dirty.
                    Err(error) => eprintln!("machine {n} cannot be cleaned: {error:#}"),
                }
            }
        });
        futures_util::future::join_all(cleaning).await;
    }
}
