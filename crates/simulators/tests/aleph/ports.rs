//! SSH ports and the gateway: bytes get to the right host.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Sim, account, eventually, exchange, forget, read};

/// The first bytes that a TLS client sends to `name`.
fn client_hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    hello
}

/// Name without port, and the gateway's address.
fn public_name(instance: &Value) -> (String, SocketAddr) {
    let url = instance["url"].as_str().unwrap();
    let (name, port) = url.strip_prefix("https://").unwrap().rsplit_once(':').unwrap();
    (name.to_owned(), format!("127.0.0.1:{port}").parse().unwrap())
}

#[tokio::test]
async fn ssh_gets_through_until_the_instance_ends() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let hash = sim.launch(&owner, 0).await;
    let ssh = sim.ssh_of(0, &hash).await.unwrap();
    let mut stream = TcpStream::connect(ssh).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(read(&mut stream, 6).await, b"shello");
    sim.submit(&forget(&owner, &hash)).await.unwrap();
    assert_eq!(read(&mut stream, 1).await, b"", "cut");
    eventually(async || TcpStream::connect(ssh).await.is_err()).await;
}

#[tokio::test]
async fn the_gateway_passes_tls_on_by_name() {
    let sim = Sim::start().await;
    let (owner, hosts) = (account(1), [sim.add_host().await, sim.add_host().await]);
    let hashes = [sim.launch(&owner, 0).await, sim.launch(&owner, 1).await];
    assert_eq!(hosts, [0, 1]);
    for hash in &hashes {
        let (name, gateway) = public_name(&sim.instance(hash).await);
        assert_eq!(name.split(['.', '-']).count(), 6, "{name}");
        let hello = client_hello(&name);
        let expected = [b"t", hello.as_slice()].concat();
        assert_eq!(exchange(gateway, &hello, expected.len()).await, expected);
    }
    let (_, gateway) = public_name(&sim.instance(&hashes[0]).await);
    let hello = client_hello("zoo-zoo-zoo-zoo.vm.localhost");
    assert_eq!(exchange(gateway, &hello, 1).await, b"", "nobody's name");
    sim.crn(&owner, 0).stop_instance(&hashes[0]).await.unwrap();
    let (name, _) = public_name(&sim.instance(&hashes[0]).await);
    assert_eq!(exchange(gateway, &client_hello(&name), 1).await, b"", "it does not run");
}

#[tokio::test]
async fn the_gateway_says_what_it_routes() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let message = sim.compose(&owner, 0);
    sim.submit(&message).await.unwrap();
    let url = format!("{}/api/hash/{}", sim.urls["gateway_api"].as_str().unwrap(), message.item_hash);
    let ask = async || sim.http.get(&url).send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(ask().await["active"], false);
    sim.crn(&owner, 0).start_instance(&message.item_hash).await.unwrap();
    let answer = ask().await;
    assert_eq!(answer["active"], true);
    assert_eq!(answer["url"], sim.instance(&message.item_hash).await["url"]);
    sim.fault(json!({ "kind": "not_routing", "count": 0 })).await;
    assert_eq!(ask().await["active"], false);
    let (name, gateway) = public_name(&sim.instance(&message.item_hash).await);
    assert_eq!(exchange(gateway, &client_hello(&name), 1).await, b"");
}

#[tokio::test]
async fn ssh_can_be_cut_and_moved() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let hash = sim.launch(&account(1), 0).await;
    let ssh = sim.ssh_of(0, &hash).await.unwrap();
    sim.fault(json!({ "kind": "ssh_cut", "skip": 1 })).await;
    sim.fault(json!({ "kind": "ssh_cut", "bytes": 7, "contains": hash.to_string() })).await;
    assert_eq!(exchange(ssh, b"12345", 100).await, b"s1", "5 there, 2 back");
    assert_eq!(exchange(ssh, b"12345", 100).await, b"", "at once");
    assert_eq!(exchange(ssh, b"12345", 6).await, b"s12345");
    sim.post(&format!("/instances/{hash}/remap"), json!({})).await;
    let moved = sim.ssh_of(0, &hash).await.unwrap();
    assert_ne!(moved, ssh);
    eventually(async || TcpStream::connect(ssh).await.is_err()).await;
    assert_eq!(exchange(moved, b"12345", 6).await, b"s12345");
}
