//! A cloud that misbehaves: every agent ends up running, or its owner is told why not, and nothing is paid for in vain.

use serde_json::{Value, json};

use crate::chat::{create, delete, wish};
use crate::field::{Field, PATIENCE};

/// What goes wrong while an agent is made and deleted, and whether the first node can still be the one.
fn troubles() -> Vec<(&'static str, Value)> {
    vec![
        (
            "nodes refuse to start instances",
            json!({"kind": "status", "party": "crn", "method": "POST", "status": 503, "count": 6}),
        ),
        ("a node accepts an instance and never runs it", json!({"kind": "never_runs"})),
        ("an instance fails on its node", json!({"kind": "fails"})),
        ("SSH moves to another port", json!({"kind": "remap", "seconds": 0.4})),
        ("core channel nodes are slow", json!({"kind": "slow", "party": "ccn", "seconds": 2, "count": 4})),
        ("nodes are slow", json!({"kind": "slow", "party": "crn", "seconds": 2, "count": 4})),
        (
            "a core channel node does not know the message",
            json!({"kind": "wrong_status", "party": "ccn1", "says": "unknown", "count": 4}),
        ),
        (
            "a core channel node takes the message for forgotten",
            json!({"kind": "wrong_status", "party": "ccn1", "says": "forgotten", "count": 2}),
        ),
        ("a message is rejected", json!({"kind": "reject", "code": 300})),
        ("a message stays pending for a while", json!({"kind": "pending", "seconds": 2})),
        (
            "the answer to a message is lost",
            json!({"kind": "lost", "party": "ccn", "method": "POST", "route": "messages", "count": 2}),
        ),
        ("what was forgotten runs on", json!({"kind": "still_running", "count": 2})),
        ("a node hangs", json!({"kind": "hang", "party": "crn", "count": 2})),
        ("the gateway is late", json!({"kind": "not_routing", "count": 3})),
        (
            "SSH connections break",
            json!([
                {"kind": "ssh_cut", "bytes": 0}, {"kind": "ssh_cut", "bytes": 2000}, {"kind": "ssh_cut", "bytes": 100_000},
            ]),
        ),
    ]
}

/// Which of the troubles come together in one life, in the short form: those that meet it at different places.
const TOGETHER: [[&str; 4]; 3] = [
    [
        "nodes refuse to start instances",
        "SSH connections break",
        "a core channel node takes the message for forgotten",
        "what was forgotten runs on",
    ],
    [
        "a node accepts an instance and never runs it",
        "SSH moves to another port",
        "core channel nodes are slow",
        "the gateway is late",
    ],
    ["a message is rejected", "an instance fails on its node", "nodes are slow", "the answer to a message is lost"],
];

/// With `E2E_LONG=1` every trouble for itself; else the rest of them together too.
fn lives() -> Vec<Vec<(&'static str, Value)>> {
    let all = troubles();
    if std::env::var_os("E2E_LONG").is_some() {
        return all.into_iter().map(|trouble| vec![trouble]).collect();
    }
    let mut lives = vec![Vec::new(); TOGETHER.len() + 1];
    for trouble in all {
        let life = TOGETHER.iter().position(|names| names.contains(&trouble.0)).unwrap_or(TOGETHER.len());
        lives[life].push(trouble);
    }
    lives
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_cloud_does_an_agent_runs_in_the_end_and_goes_without_a_trace() {
    let field = Field::build(2, |builder| builder.env("VM_START_SECONDS", 3).env("CRN_AVOID_SECONDS", 0)).await;
    let ann = field.stack.user(1);
    for life in lives() {
        let begun = std::time::Instant::now();
        let names: Vec<&str> = life.iter().map(|(name, _)| *name).collect();
        for (_, fault) in &life {
            field.cloud.fault(fault.clone()).await;
        }
        let id = create(&field.stack, &ann, "Ada").await;
        ann.asks("hello", "message 1 of our conversation").await;
        delete(&field.stack, &ann, id).await;
        field.cloud.no_faults().await;
        field.rests().await;
        assert!(field.paid().await.is_empty(), "{names:?}");
        println!("{}: {:.1} s", names.join(", "), begun.elapsed().as_secs_f64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_for_which_no_machine_comes_up_fails_with_a_reason_and_costs_nothing() {
    let field = Field::build(1, |builder| builder.env("VM_START_SECONDS", 1)).await;
    let ann = field.stack.user(1);
    field.cloud.fault(json!({"kind": "never_runs", "count": 0})).await;
    wish(&ann, "Ada").await;
    ann.wait_for(|m| {
        m.text.contains("Ada") && m.buttons().iter().any(|b| b.label.contains("Repair") || b.label.contains("Try"))
    })
    .await;
    field.rests().await;
    assert!(field.paid().await.is_empty());
    let tried: i64 = field.stack.sql("select count(distinct crn_hash) from vms").await;
    assert_eq!(tried, 3, "every node should have been tried");

    // It can be tried again when the cloud is well.
    field.cloud.no_faults().await;
    sqlx::query("delete from crns_avoided").execute(&field.stack.db).await.unwrap();
    ann.says("/repair 1").await;
    field.stack.wait_for_sql_within(PATIENCE, "select status from agents", "running".to_owned()).await;
    field.rests().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credits_nothing_is_created_and_operators_are_told() {
    let field = Field::build(1, |builder| builder.env("OPERATOR_IDS", 9)).await;
    let (ann, operator) = (field.stack.user(1), field.stack.user(9));
    operator.asks("/start", "").await;
    field.cloud.post("/credits", json!({"credits": 1000})).await;
    wish(&ann, "Ada").await;
    ann.wait_for(|m| m.text.contains("run out of credits")).await;
    operator.wait_for(|m| m.text.contains("Add credits to it")).await;
    field.agrees().await;
    let errors = field.stack.errors();
    assert!(!errors.is_empty() && errors.iter().all(|line| line.contains("no machine can be paid for")), "{errors:?}");
    assert!(field.cloud.instances().await.is_empty());
}
