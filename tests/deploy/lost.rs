//! Every call's answer is lost once.
//!
//! In the short form the first answer of every route is, all in one life of an agent; with `E2E_LONG=1` each call of a life has
//! a life of its own in which it alone is lost.

use std::collections::BTreeSet;

use serde_json::json;

use crate::aleph::Call;
use crate::chat::{create, delete};
use crate::field::Field;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_calls_are_handled_but_never_answered_lives_and_goes() {
    let field = Field::start(2).await;
    let ann = field.stack.user(1);
    field.cloud.forget_calls().await;
    let id = create(&field.stack, &ann, "Ada").await;
    delete(&field.stack, &ann, id).await;
    field.rests().await;
    let calls: Vec<Call> = field.cloud.calls().await.into_iter().filter(|call| !call.route.is_empty()).collect();
    assert!(calls.len() > 5, "an agent's life takes more calls than {calls:?}");

    let long = std::env::var_os("E2E_LONG").is_some();
    let lives = if long {
        (0..calls.len()).map(|n| vec![json!({"kind": "lost", "skip": n})]).collect()
    } else {
        let routes: BTreeSet<(String, String, String)> = calls
            .into_iter()
            .map(|call| (call.party.trim_end_matches(|c: char| c.is_ascii_digit()).into(), call.method, call.route))
            .collect();
        let lost = routes
            .into_iter()
            .map(|(party, method, route)| json!({"kind": "lost", "party": party, "method": method, "route": route}));
        vec![lost.collect::<Vec<_>>()]
    };
    for faults in lives {
        // It asks again for what it would remember: prices, images.
        field.stack.baal(0).restart().await;
        field.cloud.fault(json!(faults)).await;
        let id = create(&field.stack, &ann, "Ada").await;
        ann.asks("hello", "message 1 of our conversation").await;
        delete(&field.stack, &ann, id).await;
        field.rests().await;
        assert!(field.paid().await.is_empty(), "{faults:?}");
        let left = field.cloud.faults_left().await;
        // The other loops call too, so that in the long form the last ones may not come up.
        assert!(long || left == json!([]), "these calls were not made: {left}");
        field.cloud.no_faults().await;
    }
}
