//! Compute nodes, their list and the scheduler, as the client sees them.

use aleph_sdk::crn::CrnError;
use aleph_sdk::crns_list::fetch_crns_list;
use aleph_sdk::scheduler::SchedulerClient;
use aleph_types::account::Account;
use serde_json::json;
use url::Url;

use crate::harness::{Sim, account, eventually, forget};

#[tokio::test]
async fn an_instance_runs_on_its_own_node_only_and_takes_a_host() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let message = sim.compose(&owner, 1);
    let hash = &message.item_hash;
    let Err(CrnError::Api { status: 404, .. }) = sim.crn(&owner, 1).start_instance(hash).await else {
        panic!("started before it was posted")
    };
    sim.submit(&message).await.unwrap();
    let Err(CrnError::Api { status: 400, .. }) = sim.crn(&owner, 0).start_instance(hash).await else {
        panic!("started on another node")
    };
    for _ in 0..2 {
        assert!(sim.crn(&owner, 1).start_instance(hash).await.unwrap().success);
    }
    let instance = sim.instance(hash).await;
    assert_eq!(instance["execution"]["running"], true, "{instance}");
    assert_eq!(instance["execution"]["host"], 0);
    assert!(sim.ssh_of(1, hash).await.is_some());
    assert!(sim.ssh_of(0, hash).await.is_none());
    let url = Url::parse(&sim.crn_url(1)).unwrap();
    let v1 = aleph_sdk::crn::fetch_executions(&Default::default(), &url).await.unwrap();
    assert!(v1.contains_key(&hash.to_string()));
}

#[tokio::test]
async fn an_owner_stops_starts_reboots_and_erases() {
    let sim = Sim::start().await;
    let host = sim.add_host().await;
    let owner = account(1);
    let hash = sim.launch(&owner, 0).await;
    let crn = sim.crn(&owner, 0);
    let first = sim.ssh_of(0, &hash).await.unwrap();
    crn.stop_instance(&hash).await.unwrap();
    assert_eq!(sim.instance(&hash).await["execution"]["state"], "stopped");
    assert!(sim.ssh_of(0, &hash).await.is_none());
    crn.start_instance(&hash).await.unwrap();
    crn.reboot_instance(&hash).await.unwrap();
    let instance = sim.instance(&hash).await;
    assert_eq!((&instance["execution"]["running"], &instance["execution"]["host"]), (&json!(true), &json!(host)));
    assert_ne!(sim.ssh_of(0, &hash).await.unwrap(), first, "ports move");
    let stranger = sim.crn(&account(2), 0).erase_instance(&hash).await;
    assert!(matches!(stranger, Err(CrnError::Unauthorized(_))), "{stranger:?}");
    crn.erase_instance(&hash).await.unwrap();
    assert!(matches!(crn.erase_instance(&hash).await, Err(CrnError::VmNotFound(_))));
    assert_eq!(sim.state().await["counts"]["billed"], 1, "erased is not forgotten");
}

#[tokio::test]
async fn a_used_host_comes_back_only_clean() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let first = sim.launch(&owner, 0).await;
    let second = sim.launch(&owner, 1).await;
    assert_eq!(sim.instance(&second).await["execution"]["state"], "defined", "accepted, and no host for it");
    sim.submit(&forget(&owner, &first)).await.unwrap();
    let state = sim.state().await;
    assert_eq!(state["hosts"][0]["state"], "dirty", "{state}");
    assert_eq!(state["counts"]["running"], 0);
    sim.post("/hosts/0/clean", json!({})).await;
    let third = sim.launch(&owner, 2).await;
    assert_eq!(sim.instance(&third).await["execution"]["running"], true);
    assert_eq!(sim.instance(&second).await["execution"]["running"], false, "what was accepted in vain stays so");
}

#[tokio::test]
async fn an_instance_boots_before_it_runs() {
    let sim = Sim::start().await;
    sim.add_host().await;
    sim.post("/settings", json!({ "boot_ms": 200 })).await;
    let hash = sim.launch(&account(1), 0).await;
    eventually(async || sim.instance(&hash).await["execution"]["state"] == "running").await;
    assert!(sim.ssh_of(0, &hash).await.is_some());
}

#[tokio::test]
async fn the_list_shows_what_it_is_told() {
    let sim = Sim::start().await;
    let url = Url::parse(sim.urls["crn_list"].as_str().unwrap()).unwrap();
    let http = Default::default();
    let listed = fetch_crns_list(&http, &url, true).await.unwrap();
    assert_eq!(listed.crns.len(), 3);
    assert_eq!(listed.crns[0].address, sim.crn_url(0));
    sim.post("/crns/crn2", json!({ "score": 0.1, "system_usage": { "active": false } })).await;
    sim.post("/crns", json!({})).await;
    let listed = fetch_crns_list(&http, &url, true).await.unwrap();
    let names: Vec<_> = listed.crns.iter().map(|crn| crn.name.as_str()).collect();
    assert_eq!(names, ["crn1", "crn3", "crn4"]);
    let all = fetch_crns_list(&http, &url, false).await.unwrap();
    assert_eq!(all.crns[1].score, Some(0.1));
    assert_eq!(all.crns[1].system_usage.as_ref().unwrap().cpu.count, 16);
}

#[tokio::test]
async fn the_scheduler_knows_where_instances_are() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let hash = sim.launch(&owner, 1).await;
    let scheduler = SchedulerClient::new(Url::parse(sim.urls["scheduler"].as_str().unwrap()).unwrap());
    let vm = scheduler.get_vm(&hash).await.unwrap().unwrap();
    assert_eq!((vm.status.as_str(), vm.allocated_node), ("dispatched", Some(sim.crn_hash(1))));
    assert_eq!(scheduler.list_vms_by_owner(owner.address()).await.unwrap().len(), 1);
    let node = scheduler.get_node(&sim.crn_hash(1)).await.unwrap().unwrap();
    assert_eq!(node.address, Some(sim.crn_url(1)));
    let unknown = sim.compose(&owner, 0).item_hash;
    assert!(scheduler.get_vm(&unknown).await.unwrap().is_none());
}
