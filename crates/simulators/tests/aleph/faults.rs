//! Misbehaviour on order.

use std::time::Duration;

use aleph_sdk::client::{AlephMessageClient, MessageFilter, PaginationParams};
use aleph_sdk::crn::CrnError;
use serde_json::{Value, json};

use crate::harness::{Sim, account, eventually, forget};

#[tokio::test]
async fn a_lost_answer_was_a_call_all_the_same() {
    let sim = Sim::start().await;
    let message = sim.compose(&account(1), 0);
    sim.fault(json!({ "kind": "lost", "method": "POST" })).await;
    sim.submit(&message).await.unwrap_err();
    assert_eq!(sim.standing(0, &message.item_hash).await, "processed");
    let other = sim.compose(&account(1), 0);
    sim.fault(json!({ "kind": "lost", "processed": false, "contains": other.item_hash.to_string() })).await;
    sim.submit(&message).await.unwrap();
    sim.submit(&other).await.unwrap_err();
    assert_eq!(sim.standing(0, &other.item_hash).await, "unknown");
}

#[tokio::test]
async fn every_answer_can_be_lost_in_its_turn() {
    let sim = Sim::start().await;
    let owner = account(1);
    let run = async || {
        let message = sim.compose(&owner, 0);
        let (crn, mut failed) = (sim.crn(&owner, 0), 0);
        failed += usize::from(sim.submit(&message).await.is_err());
        failed += usize::from(sim.ccn(1).get_message(&message.item_hash).await.is_err());
        failed += usize::from(crn.start_instance_allocation(&message.item_hash).await.is_err());
        failed + usize::from(crn.erase_instance(&message.item_hash).await.is_err())
    };
    sim.post("/calls", json!({})).await;
    assert_eq!(run().await, 0);
    let calls = sim.get("/calls").await;
    assert_eq!(calls["total"], 4, "{calls}");
    assert_eq!(calls["counts"]["ccn1 POST /api/v0/messages"]["200"], 1);
    assert_eq!(calls["counts"]["crn1 POST /control/machine/{hash}/erase"]["200"], 1);
    for n in 0..4 {
        sim.post("/calls", json!({})).await;
        sim.fault(json!({ "kind": "lost", "skip": n })).await;
        assert_eq!(run().await, 1, "call {n}");
        let lost = sim.get("/calls").await["calls"][n].clone();
        assert_eq!((&lost["fault"], &lost["status"]), (&json!("lost"), &json!(200)), "{lost}");
    }
    assert_eq!(sim.get("/faults").await, json!([]));
}

#[tokio::test]
async fn a_call_can_fail_dawdle_hang_and_be_nonsense() {
    let sim = Sim::start().await;
    let owner = account(1);
    sim.add_host().await;
    let message = sim.compose(&owner, 0);
    sim.submit(&message).await.unwrap();
    let crn = sim.crn(&owner, 0);
    let start = || crn.start_instance_allocation(&message.item_hash);
    let notify = |fault: Value| {
        let mut fault = fault;
        fault["route"] = "/control/allocation/notify".into();
        fault["party"] = "crn1".into();
        sim.fault(fault)
    };
    notify(json!({ "kind": "status", "status": 503 })).await;
    assert!(matches!(start().await, Err(CrnError::Api { status: 503, .. })));
    notify(json!({ "kind": "garbled" })).await;
    assert!(start().await.is_err());
    notify(json!({ "kind": "slow", "seconds": 0.3 })).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), start()).await.is_err());
    notify(json!({ "kind": "hang" })).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), start()).await.is_err());
    assert!(start().await.unwrap().success);
}

#[tokio::test]
async fn one_core_channel_node_can_be_wrong() {
    let sim = Sim::start().await;
    let message = sim.compose(&account(1), 0);
    sim.submit(&message).await.unwrap();
    let hash = &message.item_hash;
    for says in ["unknown", "forgotten", "rejected", "pending", "removing", "removed"] {
        sim.fault(json!({ "kind": "wrong_status", "party": "ccn2", "says": says, "contains": hash.to_string() })).await;
        assert_eq!(sim.standing(0, hash).await, "processed");
        assert_eq!(sim.standing(1, hash).await, says);
        assert_eq!(sim.standing(1, hash).await, "processed", "once");
    }
    sim.fault(json!({ "kind": "omit", "party": "ccn2", "count": 0 })).await;
    let list = async |n: usize| {
        sim.ccn(n).get_messages(&MessageFilter::default(), PaginationParams::default()).await.unwrap().len()
    };
    assert_eq!((list(0).await, list(1).await), (1, 0));
}

#[tokio::test]
async fn a_message_can_be_rejected_or_take_its_time() {
    let sim = Sim::start().await;
    let owner = account(1);
    sim.fault(json!({ "kind": "reject", "code": 304 })).await;
    let message = sim.compose(&owner, 0);
    assert!(sim.submit(&message).await.unwrap_err().to_string().contains("304"));
    assert_eq!(sim.standing(1, &message.item_hash).await, "rejected");
    sim.fault(json!({ "kind": "pending", "seconds": 0.2 })).await;
    let message = sim.compose(&owner, 0);
    assert_eq!(sim.submit(&message).await.unwrap().message_status, "pending");
    eventually(async || sim.standing(0, &message.item_hash).await == "processed").await;
}

#[tokio::test]
async fn an_accepted_instance_may_never_run() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    sim.fault(json!([{ "kind": "never_runs", "party": "crn1" }, { "kind": "fails", "party": "crn2" }])).await;
    let (never, failed) = (sim.launch(&owner, 0).await, sim.launch(&owner, 1).await);
    assert_eq!(sim.instance(&never).await["execution"]["state"], "booting");
    assert_eq!(sim.instance(&failed).await["execution"]["state"], "failed");
    assert!(sim.ssh_of(0, &never).await.is_none());
    assert_eq!(sim.state().await["counts"]["hosts_free"], 1);
}

#[tokio::test]
async fn a_forgotten_instance_may_run_on() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let hash = sim.launch(&owner, 0).await;
    sim.fault(json!({ "kind": "still_running" })).await;
    sim.submit(&forget(&owner, &hash)).await.unwrap();
    let instance = sim.instance(&hash).await;
    assert_eq!(instance["status"], "forgotten");
    assert_eq!(instance["execution"]["running"], true);
    sim.crn(&owner, 0).erase_instance(&hash).await.unwrap();
    assert_eq!(sim.state().await["counts"]["running"], 0);
}

#[tokio::test]
async fn ssh_moves_after_a_start() {
    let sim = Sim::start().await;
    sim.add_host().await;
    sim.fault(json!({ "kind": "remap", "seconds": 0.3 })).await;
    let hash = sim.launch(&account(1), 0).await;
    let first = sim.ssh_of(0, &hash).await.unwrap();
    eventually(async || sim.ssh_of(0, &hash).await.is_some_and(|ssh| ssh != first)).await;
}

#[tokio::test]
async fn a_dead_node_refuses_everybody_and_comes_back() {
    let sim = Sim::start().await;
    sim.add_host().await;
    let owner = account(1);
    let hash = sim.launch(&owner, 0).await;
    let url = format!("{}/status/config", sim.crn_url(0));
    assert_eq!(sim.http.get(&url).send().await.unwrap().status(), 200);
    sim.fault(json!({ "kind": "dead", "party": "crn1" })).await;
    assert!(sim.http.get(&url).send().await.unwrap_err().is_connect());
    assert!(sim.http.get(format!("{}/status/config", sim.crn_url(1))).send().await.is_ok());
    assert_eq!(sim.state().await["crns"][0]["dead"], true);
    let control = format!("{}/faults?kind=dead", sim.urls["control"].as_str().unwrap());
    sim.http.delete(control).send().await.unwrap();
    assert_eq!(sim.http.get(&url).send().await.unwrap().status(), 200);
    assert!(sim.ssh_of(0, &hash).await.is_some());
}
