//! Instances at compute nodes.

use super::*;

#[tokio::test]
async fn starting_is_signed_and_old_nodes_are_notified() {
    let node = Server::saying(200, json!({})).await;
    let aleph = aleph(&[]);
    let made = instance(&aleph, node.crn()).await;
    aleph.start(&made).await.unwrap();
    let request = &node.seen()[0];
    assert_eq!(request.uri.path(), format!("/control/machine/{}/start", made.item_hash));
    let operation: Value = serde_json::from_slice(request.headers["X-SignedOperation"].as_bytes()).unwrap();
    let payload: Value = serde_json::from_slice(&hex::decode(operation["payload"].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!((&payload["method"], &payload["domain"]), (&json!("POST"), &json!("127.0.0.1")));
    assert_eq!(payload["path"], json!(request.uri.path()));
    assert!(request.headers.contains_key("X-SignedPubKey"));

    let cases = [
        (200, true, true),
        (207, true, true),
        (207, false, false),
        (503, false, false),
        (402, true, false),
        (409, false, true),
    ];
    for (code, successful, fits) in cases {
        let old = Server::new(move |seen| match seen.uri.path() {
            "/control/allocation/notify" => {
                let body = json!({"success": successful, "successful": successful, "failing": [], "errors": {}});
                Some((code, body.to_string()))
            }
            _ => Some((404, String::new())),
        })
        .await;
        let made = instance(&aleph, old.crn()).await;
        let started = aleph.start(&made).await;
        assert_eq!(started.is_ok(), fits, "{code} {successful}");
        assert!(fits || matches!(started, Err(AlephError::Refused { .. })));
        assert_eq!(old.seen()[1].body, json!({"instance": made.item_hash}));
    }
}

#[tokio::test]
async fn a_node_that_hangs_redirects_or_breaks_costs_its_deadline_at_most() {
    let aleph = hasty(&[]);
    let hangs = Server::hanging().await;
    let made = instance(&aleph, hangs.crn()).await;
    for result in [aleph.start(&made).await, aleph.reboot(&made).await, aleph.erase(&made).await.map(drop)] {
        assert!(matches!(result, Err(AlephError::Unreachable { .. })), "{result:?}");
    }
    assert!(aleph.execution(&made).await.is_err());
    for (code, body) in [(307, "elsewhere"), (402, "pay"), (403, "no\u{1b}[2J")] {
        let node = Server::new(move |_| Some((code, body.into()))).await;
        let made = instance(&aleph, node.crn()).await;
        let error = aleph.reboot(&made).await.unwrap_err();
        assert!(matches!(error, AlephError::Refused { status, .. } if status == code), "{error}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}

#[tokio::test]
async fn erased_is_what_the_node_does_not_run_any_more() {
    let aleph = aleph(&[]);
    let erase = async |code: u16, execution: Value| {
        let hash: Arc<Mutex<String>> = Arc::default();
        let known = Arc::clone(&hash);
        let node = Server::new(move |seen| match seen.method {
            Method::POST => Some((code, "{}".into())),
            _ => reply(json!({ known.lock().unwrap().as_str(): execution })),
        })
        .await;
        let made = instance(&aleph, node.crn()).await;
        hash.lock().unwrap().clone_from(&made.item_hash);
        aleph.erase(&made).await
    };
    assert!(erase(404, json!({"running": true})).await.unwrap());
    assert!(erase(200, json!(null)).await.unwrap());
    assert!(erase(200, json!({"state": "stopped", "running": false})).await.unwrap());
    assert!(!erase(200, json!({"running": true})).await.unwrap(), "a node that lies");
    assert!(!erase(200, json!({"state": "stopping"})).await.unwrap());
    assert!(erase(403, json!(null)).await.is_err());
}

#[tokio::test]
async fn a_node_with_only_the_older_list_is_asked_there() {
    let aleph = aleph(&[]);
    let node = Server::new(|seen| match seen.uri.path() {
        "/about/executions/list" => reply(json!({"else": {}})),
        _ => Some((404, String::new())),
    })
    .await;
    let made = instance(&aleph, node.crn()).await;
    assert_eq!(aleph.execution(&made).await.unwrap(), Execution::Absent);
    let odd = Server::saying(200, json!(["x"])).await;
    let made = instance(&aleph, odd.crn()).await;
    assert!(matches!(aleph.execution(&made).await, Err(AlephError::Garbled { .. })));
}
