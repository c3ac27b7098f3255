//! What an agent offers besides words: files, messages that nobody asked for, claims about itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Stack;
use crate::hostile::{Act, Hostile, MEMORY, SECRET, answered_meanwhile, canary, head, in_sockets, most_memory};

const MEBIBYTE: u64 = 1024 * 1024;

fn good(hostile: &Hostile) {
    hostile
        .acts("/good/chat", Act::events(&[json!({"type": "text", "content": "I am here."}), json!({"type": "done"})]));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_lie_are_told_of_in_their_chat_and_lead_nowhere() {
    let stack = Stack::start().await;
    let (port, called) = canary().await;
    let hostile = Hostile::start().await;
    good(&hostile);
    hostile.agent_of(&stack, 1, "good", 2).await;
    let bytes = "application/octet-stream";
    let liar = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n";
    let miser = "content-length: 1000000\r\ncontent-type: text/plain\r\n";
    let boaster = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\nconnection: close\r\n\r\n";
    let leads = format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n");
    for (path, act) in [
        ("/bad/files/liar", Act::Forever(liar.into(), vec![b'x'; 64 * 1024])),
        ("/bad/files/miser", Act::with(miser, b"little")),
        ("/bad/files/boaster", Act::Forever(boaster.into(), vec![b'x'; 64 * 1024])),
        ("/bad/files/endless", Act::Forever(head(bytes).into(), vec![b'x'; 64 * 1024])),
        ("/bad/files/leads", Act::Whole(leads.into())),
        ("/bad/files/out/", Act::body(bytes, b"MZ")),
    ] {
        hostile.acts(path, act);
    }
    let paths = [
        "../../etc/passwd",
        "/etc/passwd",
        "a\0/../../pending",
        "..\\..\\pending",
        "%2e%2e/pending",
        ".\t./pending",
        &format!("http://127.0.0.1:{port}/"),
        &format!("//127.0.0.1:{port}/"),
        &"n".repeat(4_096),
        "out/invoice\u{202e}fdp.exe",
        "out/\"; filename=\"a.sh",
        "leads",
        "liar",
        "boaster",
        "endless",
    ];
    let mut events: Vec<Value> =
        paths.iter().map(|path| json!({"type": "file", "path": path, "caption": "*c*"})).collect();
    events.push(json!({"type": "text", "content": "Here you are."}));
    events.push(json!({"type": "done"}));
    hostile.acts("/bad/chat", Act::events(&events));
    hostile.agent_of(&stack, 2, "bad", 1).await;
    // A file that ends before its end is asked for again for a while, so it has a chat of its own.
    hostile.acts("/mean/chat", Act::events(&[json!({"type": "file", "path": "miser"}), json!({"type": "done"})]));
    hostile.acts("/mean/files/miser", Act::with(miser, b"little"));
    hostile.agent_of(&stack, 3, "mean", 1).await;

    let slowest = answered_meanwhile(&stack, 1, async {
        stack.user(2).says("give").await;
        stack.user(3).says("give").await;
        stack.wait_for_sql("select count(*) from turns where done and chat_id in (2, 3)", 2i64).await;
        stack.wait_for_sql("select count(*) from outbox where chat_id = 2 and not done", 0i64).await;
    })
    .await;
    let chat: Vec<_> = stack.user(2).messages().await.into_iter().filter(|m| m.is_reply()).collect();
    let documents: Vec<&str> = chat.iter().filter_map(|m| m.more.get("document")?["file_name"].as_str()).collect();
    assert_eq!(documents, ["invoicefdp.exe", "_; filename=_a.sh", "liar"], "{chat:#?}");
    let told =
        chat.iter().filter(|m| m.text.contains("could not be fetched") || m.text.contains("larger than")).count();
    // All but those, and the one whose name was no name.
    assert_eq!(told, paths.len() - documents.len() - 1, "{chat:#?}");
    let sent = |file| hostile.sent(&format!("/bad/files/{file}")).saturating_sub(in_sockets());
    assert!(sent("endless") < 64 * MEBIBYTE && sent("liar") < 8 * MEBIBYTE);
    for request in hostile.requests().iter().filter(|request| request.contains("/bad/")) {
        let path = request.split(' ').nth(1).unwrap();
        let known = ["/bad/chat", "/bad/files/", "/bad/pending", "/bad/health", "/bad/version"];
        assert!(
            known.iter().any(|known| path.starts_with(known))
                && !path.split('/').any(|part| matches!(part, "." | "..")),
            "{request}"
        );
    }
    assert_eq!(called.load(Ordering::Relaxed), 0, "an agent led into our network");
    let memory = most_memory(&stack);
    println!("files: the slowest good answer {slowest:?}; at most {} MiB", memory / MEBIBYTE);
    assert!(memory < MEMORY && slowest < Duration::from_secs(20), "{memory} bytes, {slowest:?}");
    assert_eq!(stack.errors(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_unasked_fills_nobodys_chat_and_nobodys_memory() {
    let stack = Stack::start().await;
    let hostile = Hostile::start().await;
    good(&hostile);
    hostile.agent_of(&stack, 1, "good", 2).await;
    stack.user(7).asks("/start", "Hello").await;
    let message = |id: i64, chat: &str, content: &str| json!({"id": id, "chat_id": chat, "content": content, "source": "heartbeat"});
    let pending = |messages: Vec<Value>| Act::json(&json!({"messages": messages, "database_id": uuid::Uuid::nil()}));
    let many: Vec<Value> = (0..60_000).map(|n| message(n, "7", "x")).collect();
    let too_many: Vec<Value> = (0..100_000).map(|n| message(n, "7", "too much by far")).collect();
    // Strangers, words that are no chats, ids that lie, and an acknowledgement that never works.
    let odd = vec![
        message(i64::MIN, "7", "x"),
        message(3, "7", "x"),
        message(3, "7", "x"),
        message(2, "-7", "x"),
        message(1, "7; drop table agents", "x"),
        message(5, "٧", "x"),
        message(6, &"7".repeat(100_000), "x"),
        message(7, "23", &format!("{SECRET} {}", "*".repeat(39_000))),
    ];
    let answers: [(i64, &str, i32, Act); 7] = [
        (20, "sweep", 1, pending(many)),
        (21, "flood", 1, pending(too_many)),
        (22, "endless", 3, Act::Forever(head("application/json").into(), b"{\"messages\":[".to_vec())),
        (23, "odd", 3, pending(odd)),
        (24, "silent", 3, Act::Silence),
        (25, "words", 3, Act::json(&json!({"messages": "PRIVATE WORDS"}))),
        (26, "last", 3, pending(vec![message(i64::MAX, "26", "the last")])),
    ];
    let slowest = answered_meanwhile(&stack, 1, async {
        for (owner, name, protocol, act) in answers {
            hostile.acts(&format!("/{name}/pending"), act);
            hostile.acts(
                &format!("/{name}/pending/ack"),
                Act::Whole(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into()),
            );
            hostile.agent_of(&stack, owner, name, protocol).await;
        }
        let dropped = "select coalesce(sum(pending_dropped), 0)::int8 from agents where name = 'sweep'";
        stack.wait_for_sql(dropped, 60_000i64).await;
        stack.wait_for_sql("select count(*) from agents where name = 'odd' and pending_after = 7", 1i64).await;
        stack
            .wait_for_sql(
                "select count(*) from agents where name = 'last' and pending_after = 9223372036854775807",
                1i64,
            )
            .await;
        stack.wait_for_sql("select count(*) from outbox where kind = 'notice' and chat_id = 26 and done", 1i64).await;
        for name in ["flood", "endless", "words"] {
            while !hostile.requests().iter().any(|request| request.contains(&format!("/{name}/pending"))) {
                tokio::time::sleep(crate::harness::POLL).await;
            }
        }
    })
    .await;
    // Those of a stranger go to nobody; the one for its owner goes to its owner.
    let dropped: i64 = stack.sql("select pending_dropped from agents where name = 'odd'").await;
    assert_eq!(dropped, 6, "all above zero but the owner's own");
    assert_eq!(
        stack.sql::<i64>("select count(*) from outbox where kind = 'notice' and chat_id not in (23, 26)").await,
        0
    );
    let stranger = stack.user(7).messages().await;
    assert_eq!(stranger.iter().filter(|m| m.is_reply()).count(), 1, "the greeting: {stranger:#?}");
    let sent = hostile.sent("/endless/pending");
    // It is asked again now and then.
    assert!(sent < 24 * MEBIBYTE + 3 * in_sockets(), "{sent}");
    let logs = stack.logs().into_iter().map(|log| String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned());
    assert!(!logs.collect::<String>().contains("PRIVATE WORDS"), "what cannot be read is in the logs");
    let memory = most_memory(&stack);
    println!("unasked: the slowest good answer {slowest:?}; at most {} MiB", memory / MEBIBYTE);
    assert!(memory < MEMORY && slowest < Duration::from_secs(20), "{memory} bytes, {slowest:?}");
    assert_eq!(stack.errors(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_about_itself_that_cannot_be_are_not_believed() {
    let stack = Stack::builder().env("AGENT_ALLOW_PRIVATE", "true").env("HEALTH_INTERVAL", "1").start().await;
    let (port, called) = canary().await;
    let hostile = Hostile::start().await;
    good(&hostile);
    hostile.agent_of(&stack, 1, "good", 2).await;
    stack.user(42).asks("/start", "Hello").await;
    let well = Act::json(&json!({"status": "ok", "agent_name": "whoever"}));
    let version = |protocol: &str, version: &str| {
        Act::body("application/json", format!("{{\"version\":\"{version}\",\"protocol\":{protocol},\"features\":[]}}"))
    };
    let leads = format!("HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n");
    let claims: Vec<(&str, Act, Act)> = vec![
        ("negative", well.clone(), version("-1", "1")),
        ("large", well.clone(), version("2147483648", "1")),
        ("huge", well.clone(), version("1e400", "1")),
        ("long", well.clone(), version("3", &"9".repeat(1_000_000))),
        ("endless", Act::Forever(head("application/json").into(), b"{\"status\":\"ok\"".to_vec()), Act::Silence),
        ("endless-version", well.clone(), Act::Forever(head("application/json").into(), b" ".to_vec())),
        ("slow", Act::Drip(head("application/json").into()), Act::Silence),
        ("silent", well.clone(), Act::Silence),
        ("leads", Act::Whole(leads.clone().into()), Act::Silence),
        ("leads-later", well.clone(), Act::Whole(leads.into())),
        ("null", Act::body("application/json", b"null"), Act::Silence),
        ("deep", Act::body("application/json", "[".repeat(60_000)), Act::Silence),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let take_in = async |name: &str| {
        let answer = http
            .post(format!("{}/api/v1/agents", stack.baal(0).url()))
            .bearer_auth("test-admin-token-of-more-than-32-characters")
            .header("Idempotency-Key", name)
            .json(&json!({"owner_id": 42, "name": name, "system_prompt": "You lie.",
                "endpoint": {"url": hostile.url(name), "secret": SECRET}}));
        let answer = answer.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let slowest = answered_meanwhile(&stack, 1, async {
        let asked = claims.iter().map(|(name, health, version)| {
            hostile.acts(&format!("/{name}/health"), health.clone());
            hostile.acts(&format!("/{name}/version"), version.clone());
            async { (*name, take_in(name).await) }
        });
        for (name, (status, words)) in futures_util::future::join_all(asked).await {
            assert!((400..500).contains(&status) && words.len() < 2_000, "{name}: {status} {words}");
            assert!(!words.contains(SECRET), "{name}: {words}");
        }
    })
    .await;
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, 1);
    // One that is taken in and then answers nothing but noise is told of as one that is away.
    hostile.acts("/turncoat/health", well);
    hostile.acts("/turncoat/version", version("2147483647", "1"));
    let (status, words) = take_in("turncoat").await;
    assert_eq!(status, 201, "{words}");
    hostile.acts("/turncoat/health", Act::Forever(head("application/json").into(), b"[".to_vec()));
    stack.user(42).wait_for(|m| m.text.contains("hasn't answered for a while")).await;
    assert_eq!(called.load(Ordering::Relaxed), 0, "an agent led into our network");
    let memory = most_memory(&stack);
    println!("claims: the slowest good answer {slowest:?}; at most {} MiB", memory / MEBIBYTE);
    assert!(memory < MEMORY && slowest < Duration::from_secs(20), "{memory} bytes, {slowest:?}");
    assert_eq!(stack.errors(), [""; 0]);
}
