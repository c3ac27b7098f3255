//! Core channel nodes, as the client sees them.

use aleph_sdk::client::{
    AlephAccountClient, AlephAggregateClient, AlephMessageClient, MessageError, MessageFilter, MessageWithStatus,
    PaginationParams,
};
use aleph_types::account::Account;
use aleph_types::message::execution::base::Payment;
use aleph_types::message::{MessageContentEnum, MessageStatus, MessageType};
use futures_util::StreamExt;
use serde_json::json;

use crate::harness::{CHANNEL, DEBIAN, Sim, account, compose, forget};

#[tokio::test]
async fn an_instance_is_processed_once_and_known_to_all_nodes() {
    let sim = Sim::start().await;
    let message = sim.compose(&account(1), 0);
    assert_eq!(sim.standing(0, &message.item_hash).await, "unknown");
    for _ in 0..3 {
        assert_eq!(sim.submit(&message).await.unwrap().message_status, "processed");
    }
    assert_eq!(sim.ccn(1).submit_message(&message, false).await.unwrap().message_status, "pending");
    for n in [0, 1] {
        let MessageWithStatus::Processed { message: got } = sim.ccn(n).get_message(&message.item_hash).await.unwrap()
        else {
            panic!("not processed")
        };
        got.verify_item_hash().unwrap();
        let MessageContentEnum::Instance(content) = got.content() else { panic!("no instance") };
        assert_eq!(content.base.resources.vcpus, 1);
    }
    let state = sim.state().await;
    assert_eq!(state["counts"]["billed"], 1, "{state}");
    assert_eq!(state["hourly"], 14_250.0);
}

#[tokio::test]
async fn a_forgotten_instance_says_so_in_every_list() {
    let sim = Sim::start().await;
    let owner = account(1);
    let message = sim.compose(&owner, 0);
    sim.submit(&message).await.unwrap();
    let by = forget(&owner, &message.item_hash);
    assert_eq!(sim.submit(&by).await.unwrap().message_status, "processed");
    let MessageWithStatus::Forgotten { forgotten_by, .. } = sim.ccn(1).get_message(&message.item_hash).await.unwrap()
    else {
        panic!("not forgotten")
    };
    assert_eq!(forgotten_by.as_slice(), std::slice::from_ref(&by.item_hash));
    let filter = MessageFilter { message_type: Some(MessageType::Instance), ..MessageFilter::default() };
    assert!(sim.ccn(0).get_messages(&filter, PaginationParams::default()).await.unwrap().is_empty());
    assert_eq!(sim.standing(0, &by.item_hash).await, "processed");
    assert_eq!(sim.state().await["counts"]["billed"], 0);
    // Posted again, it does not come back.
    assert_eq!(sim.submit(&message).await.unwrap().message_status, "pending");
    assert_eq!(sim.standing(0, &message.item_hash).await, "forgotten");
}

#[tokio::test]
async fn a_forget_waits_for_its_target() {
    let sim = Sim::start().await;
    let owner = account(1);
    let message = sim.compose(&owner, 0);
    let early = forget(&owner, &message.item_hash);
    assert_eq!(sim.submit(&early).await.unwrap().message_status, "pending");
    assert_eq!(sim.standing(0, &early.item_hash).await, "pending");
    sim.fault(json!({ "kind": "pending" })).await;
    assert_eq!(sim.submit(&message).await.unwrap().message_status, "pending");
    assert_eq!(sim.standing(0, &message.item_hash).await, "pending");
    assert_eq!(sim.standing(0, &early.item_hash).await, "pending");
    sim.post(&format!("/messages/{}", message.item_hash), json!({ "status": "processed" })).await;
    assert_eq!(sim.standing(0, &early.item_hash).await, "processed");
    assert_eq!(sim.standing(0, &message.item_hash).await, "forgotten");
}

#[tokio::test]
async fn what_may_not_be_is_rejected_with_its_code() {
    let sim = Sim::start().await;
    let owner = account(1);
    let code_of = async |message| match sim.submit(&message).await.unwrap_err() {
        MessageError::ApiError { status: 422, body } => {
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            body["error_code"].as_i64().unwrap()
        }
        other => panic!("{other}"),
    };
    let hold = compose(&owner, &sim.crn_hash(0), Payment::hold());
    assert_eq!(code_of(hold.clone()).await, 202);
    assert_eq!(sim.standing(1, &hold.item_hash).await, "rejected");
    let mut stolen = sim.compose(&account(2), 0);
    stolen.sender = owner.address().clone();
    assert_eq!(code_of(stolen).await, 1, "signed by somebody else");
    let mine = sim.compose(&owner, 0);
    sim.submit(&mine).await.unwrap();
    assert_eq!(code_of(forget(&account(2), &mine.item_hash)).await, 2, "forgotten by somebody else");
    let first = forget(&owner, &mine.item_hash);
    sim.submit(&first).await.unwrap();
    assert_eq!(code_of(forget(&owner, &first.item_hash)).await, 502, "a FORGET of a FORGET");
    sim.post("/credits", json!({ "credits": 24 * 14_250 - 1 })).await;
    let poor = sim.compose(&owner, 0);
    assert_eq!(code_of(poor.clone()).await, 6);
    sim.post("/credits", json!({ "credits": 24 * 14_250, "address": owner.address().to_string() })).await;
    assert_eq!(sim.submit(&poor).await.unwrap().message_status, "processed", "looked at again");
    assert_eq!(code_of(sim.compose(&owner, 0)).await, 6, "24 hours of both");
}

#[tokio::test]
async fn lists_can_be_filtered_and_paged() {
    let sim = Sim::start().await;
    let (owner, other) = (account(1), account(2));
    let mut sent = Vec::new();
    for n in 0..5 {
        let message = sim.compose(&owner, n % 3);
        sim.submit(&message).await.unwrap();
        sent.push(message.item_hash);
    }
    sim.submit(&sim.compose(&other, 0)).await.unwrap();
    let filter = MessageFilter {
        message_type: Some(MessageType::Instance),
        owners: Some(vec![owner.address().clone()]),
        channels: Some(vec![CHANNEL.into()]),
        message_statuses: Some(vec![MessageStatus::Processed, MessageStatus::Removing]),
        ..MessageFilter::default()
    };
    let page = async |page| {
        let pagination = PaginationParams { pagination: Some(2), page: Some(page) };
        let messages = sim.ccn(1).get_messages(&filter, pagination).await.unwrap();
        messages.into_iter().map(|message| message.item_hash).collect::<Vec<_>>()
    };
    let newest_first: Vec<_> = sent.iter().rev().cloned().collect();
    assert_eq!([page(1).await, page(2).await, page(3).await].concat(), newest_first);
    let ccn = sim.ccn(0);
    let walked: Vec<_> = ccn
        .get_messages_iterator_with_undecodable(filter.clone(), Some(2))
        .map(|message| message.unwrap().unwrap().item_hash)
        .collect()
        .await;
    assert_eq!(walked, newest_first);
    let none = MessageFilter { channels: Some(vec!["ELSE".into()]), ..filter };
    assert!(ccn.get_messages(&none, PaginationParams::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn credits_prices_and_images_are_told() {
    let sim = Sim::start().await;
    let owner = account(1);
    sim.post("/credits", json!({ "credits": 123, "address": owner.address().to_string() })).await;
    assert_eq!(sim.ccn(0).get_balance(owner.address()).await.unwrap().credits, 123);
    let estimate = sim.ccn(0).estimate_price(&sim.compose(&owner, 0)).await.unwrap();
    assert_eq!(estimate.payment_type, "credit");
    assert!((estimate.required_tokens * 3600.0 - 14_250.0).abs() < 1e-6, "credits a second");
    let images = sim.ccn(0).get_vm_images_aggregate().await.unwrap();
    assert_eq!(images.vm_images.rootfs["debian12"].hash.to_string(), DEBIAN);
    let pricing = sim.ccn(1).get_pricing_aggregate().await.unwrap();
    assert_eq!(pricing.pricing.instance.price["compute_unit"].credit, "14250");
}
