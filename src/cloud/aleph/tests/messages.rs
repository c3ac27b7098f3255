//! Messages at core channel nodes: posted, asked for, forgotten, listed.

use super::*;

#[tokio::test]
async fn debug_shows_the_address_and_no_secret() {
    let aleph = aleph(&[]);
    let shown = format!("{aleph:?}");
    assert!(shown.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266") && !shown.contains(&KEY[..8]), "{shown}");
}

#[tokio::test]
async fn a_message_is_posted_as_it_was_stored_again_and_again() {
    let ccn = Server::new(|seen| match seen.method {
        Method::POST => reply(json!({"publication_status": {"status": "success"}, "message_status": "processed"})),
        _ => Some((500, String::new())),
    })
    .await;
    let aleph = aleph(&[&ccn]);
    let made = instance(&aleph, ccn.crn()).await;
    let content: Value = serde_json::from_str(made.message["item_content"].as_str().unwrap()).unwrap();
    assert_eq!(content["requirements"], json!({"node": {"node_hash": ccn.crn().hash}}));
    assert_eq!(content["payment"], json!({"type": "credit"}));
    assert_eq!(content["metadata"]["baal_installation"], json!(Uuid::from_u128(1)));
    // As it comes back from the database.
    let stored: Instance = serde_json::from_value(serde_json::to_value(&made).unwrap()).unwrap();
    assert_eq!(stored, made);
    for _ in 0..2 {
        assert_eq!(aleph.post(&stored).await.unwrap(), Standing::Processed);
    }
    let posts: Vec<_> = ccn.seen().into_iter().filter(|seen| seen.method == Method::POST).collect();
    assert_eq!(posts.len(), 2);
    // Read from text like what the server saw: reading a float may change its last bit.
    let expected = json!({"sync": true, "message": made.message}).to_string();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    for post in posts {
        assert_eq!(post.uri.path(), "/api/v0/messages");
        assert_eq!(post.body, expected);
    }
}

#[tokio::test]
async fn what_a_posted_message_becomes_is_told() {
    let pending = json!({"message_status": "pending"});
    let cases = [(202, pending, Standing::Pending), (200, json!({"message_status": "processed"}), Standing::Processed)];
    for (code, body, expected) in cases {
        let ccn = Server::saying(code, body).await;
        let aleph = aleph(&[&ccn]);
        let made = instance(&aleph, ccn.crn()).await;
        assert_eq!(aleph.post(&made).await.unwrap(), expected);
    }
    let ccn = Server::new(|seen| match seen.method {
        Method::POST => Some((422, json!({"message_status": "rejected"}).to_string())),
        _ => reply(status("rejected")),
    })
    .await;
    let aleph = aleph(&[&ccn]);
    let made = instance(&aleph, ccn.crn()).await;
    let why = "the account has too few credits (error 6)";
    assert_eq!(aleph.post(&made).await.unwrap(), Standing::Rejected(why.into()));
}

#[tokio::test]
async fn a_node_that_hangs_breaks_or_talks_nonsense_is_passed_over() {
    let hangs = Server::hanging().await;
    let broken = Server::saying(502, json!("bad gateway")).await;
    let nonsense = Server::new(|_| Some((200, "<html>".into()))).await;
    let good = Server::saying(200, status("processed")).await;
    for bad in [&hangs, &broken, &nonsense] {
        assert_eq!(hasty(&[bad, &good]).standing(HASH).await.unwrap(), Standing::Processed);
        // For what destroys, one that does not answer is one too few.
        assert!(hasty(&[bad, &good]).standing_everywhere(HASH).await.is_err());
    }
    let error = hasty(&[&hangs]).standing(HASH).await.unwrap_err();
    assert!(matches!(&error, AlephError::Unreachable { cause, .. } if cause.contains("no answer within")), "{error}");
    let error = hasty(&[&nonsense]).standing(HASH).await.unwrap_err();
    assert!(matches!(error, AlephError::Garbled { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let endless = Server::new(|_| Some((200, "x".repeat(http::ANSWER + 1)))).await;
    let error = aleph(&[&endless]).standing(HASH).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn a_node_that_talks_for_long_is_cut_off_sooner() {
    let endless = Server::new(|_| Some((200, format!("{{\"x\": \"{}\"}}", "x".repeat(http::NODE_ANSWER))))).await;
    let aleph = aleph(&[]);
    let made = instance(&aleph, endless.crn()).await;
    let errors = [aleph.start(&made).await.err(), aleph.execution(&made).await.err(), aleph.erase(&made).await.err()];
    for error in errors {
        assert!(error.as_ref().is_some_and(|error| error.to_string().contains("larger than")), "{error:?}");
    }
}

#[tokio::test]
async fn a_node_whose_name_leads_into_our_own_network_is_asked_nothing() {
    let node = Server::saying(200, json!({})).await;
    let crn = Crn { url: node.url.replace("127.0.0.1", "localhost"), ..node.crn() };
    let near = aleph(&[]);
    let made = instance(&near, crn).await;
    let public = Aleph { allow_private: false, nodes_http: Http::to_strangers(false).unwrap(), ..aleph(&[]) };
    let error = public.start(&made).await.unwrap_err();
    assert!(matches!(&error, AlephError::Unreachable { cause, .. } if cause.contains("on the internet")), "{error}");
    assert!(public.execution(&made).await.is_err() && node.seen().is_empty());
    near.start(&made).await.unwrap();
}

#[tokio::test]
async fn every_standing_is_understood_and_404_means_unknown() {
    for (name, expected) in [
        ("pending", Standing::Pending),
        ("processed", Standing::Processed),
        ("removing", Standing::Removing),
        ("removed", Standing::Removed),
        ("forgotten", Standing::Forgotten),
    ] {
        let ccn = Server::saying(200, status(name)).await;
        assert_eq!(aleph(&[&ccn]).standing(HASH).await.unwrap(), expected);
    }
    let ccn = Server::saying(404, json!("not found")).await;
    assert_eq!(aleph(&[&ccn]).standing(HASH).await.unwrap(), Standing::Unknown);
    assert!(matches!(aleph(&[&ccn]).standing("../../etc").await, Err(AlephError::Own(_))));
}

#[tokio::test]
async fn forgetting_posts_a_forget_once_the_target_is_processed() {
    let forgotten = Arc::new(Mutex::new(false));
    let state = Arc::clone(&forgotten);
    let ccn = Server::new(move |seen| {
        let mut forgotten = state.lock().unwrap();
        if seen.method == Method::POST {
            *forgotten = true;
            return reply(json!({"message_status": "processed"}));
        }
        reply(status(if *forgotten { "forgotten" } else { "processed" }))
    })
    .await;
    assert_eq!(aleph(&[&ccn]).forget(HASH).await.unwrap(), Standing::Forgotten);
    let posts: Vec<_> = ccn.seen().into_iter().filter(|seen| seen.method == Method::POST).collect();
    let message = &posts[0].body["message"];
    let content: Value = serde_json::from_str(message["item_content"].as_str().unwrap()).unwrap();
    assert_eq!((&message["type"], &message["channel"]), (&json!("FORGET"), &json!("BAAL")));
    assert_eq!(content["hashes"], json!([HASH]));
}

#[tokio::test]
async fn forgetting_waits_for_what_is_pending_and_needs_no_forget_for_what_is_over() {
    for (name, expected) in [("pending", Standing::Pending), ("removed", Standing::Removed)] {
        let ccn = Server::saying(200, status(name)).await;
        assert_eq!(aleph(&[&ccn]).forget(HASH).await.unwrap(), expected);
        assert!(ccn.seen().iter().all(|seen| seen.method == Method::GET));
    }
}

#[tokio::test]
async fn an_instance_is_over_or_unknown_only_if_all_nodes_say_so() {
    let (unknown, other) = (Server::saying(404, json!(0)).await, Server::saying(404, json!(0)).await);
    assert_eq!(aleph(&[&unknown, &other]).forget(HASH).await.unwrap(), Standing::Unknown);
    let hangs = Server::hanging().await;
    assert!(hasty(&[&unknown, &hangs]).forget(HASH).await.is_err());
    // One where it holds outweighs another; one that says it ended is no proof beside one that is down.
    let (ended, holds) = (Server::saying(200, status("forgotten")).await, Server::saying(200, status("pending")).await);
    assert!(hasty(&[&hangs, &ended]).forget(HASH).await.is_err());
    assert_eq!(aleph(&[&unknown, &ended]).forget(HASH).await.unwrap(), Standing::Forgotten);
    assert_eq!(hasty(&[&hangs, &holds]).forget(HASH).await.unwrap(), Standing::Pending);
    assert_eq!(aleph(&[&ended, &holds]).forget(HASH).await.unwrap(), Standing::Pending);
}

#[tokio::test]
async fn a_forget_that_is_refused_while_the_target_lives_is_an_error() {
    let ccn = Server::new(|seen| match seen.method {
        Method::POST => Some((422, json!({"message_status": "rejected"}).to_string())),
        // It keeps nothing of the message that it refused.
        _ if !seen.uri.path().ends_with(HASH) => Some((404, "{}".into())),
        _ => reply(status("processed")),
    })
    .await;
    assert!(matches!(aleph(&[&ccn]).forget(HASH).await, Err(AlephError::Refused { status: 422, .. })));
}

/// Messages of instances as a node lists them.
async fn listed(aleph: &Aleph, count: u128) -> Vec<Value> {
    let crn = Crn { hash: "ab".repeat(32), url: String::new(), name: String::new() };
    let mut messages = Vec::new();
    for n in 0..count {
        messages.push(aleph.compose(&crn, Uuid::from_u128(1), Uuid::from_u128(n)).await.unwrap().message);
    }
    messages
}

/// A node that lists these, so many a page.
async fn lister(messages: Vec<Value>) -> Server {
    Server::new(move |seen| {
        let query: BTreeMap<_, _> = seen.uri.query()?.split('&').filter_map(|pair| pair.split_once('=')).collect();
        assert_eq!((query["msgType"], query["channels"]), ("INSTANCE", "BAAL"));
        assert!(query["msgStatuses"].contains("removing") && query["msgStatuses"].contains("pending"));
        let (page, size): (usize, usize) = (query["page"].parse().unwrap(), query["pagination"].parse().unwrap());
        let part: Vec<_> = messages.iter().skip((page - 1) * size).take(size).collect();
        reply(json!({"messages": part, "pagination_per_page": size, "pagination_total": messages.len()}))
    })
    .await
}

#[tokio::test]
async fn a_list_has_all_pages_of_all_nodes_and_leaves_out_what_cannot_be_read() {
    let mut messages = listed(&aleph(&[]), 250).await;
    let only_there = messages.split_off(249);
    messages.insert(100, json!({"item_hash": "odd"}));
    messages.insert(101, json!(7));
    let (one, other) = (lister(messages).await, lister(only_there).await);
    let found = aleph(&[&one, &other]).list().await.unwrap();
    assert_eq!(found.len(), 250);
    assert_eq!(one.seen().len(), 2);
    let vms: HashSet<_> = found.iter().filter_map(|instance| instance.vm).collect();
    assert_eq!(vms.len(), 250);
    assert!(found.iter().all(|instance| instance.installation == Some(Uuid::from_u128(1))));
}

#[tokio::test]
async fn a_list_is_nothing_unless_all_nodes_answer() {
    let (good, bad) = (lister(vec![]).await, Server::saying(500, json!(0)).await);
    assert!(aleph(&[&good, &bad]).list().await.is_err());
    let odd = Server::saying(200, json!({"messages": "none"})).await;
    assert!(matches!(aleph(&[&odd]).list().await, Err(AlephError::Garbled { .. })));
    let endless = Server::saying(200, json!({"messages": [1], "pagination_per_page": 1})).await;
    assert!(matches!(aleph(&[&endless]).list().await, Err(AlephError::Garbled { .. })));
}
