//! What agents stream: anything, for as long as it is read.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use baal::agents::http::AgentsHttp;
use baal::config::Config;
use baal::turns::agent_client::{AgentClient, AgentError};
use baal_protocol::{Event, EventKind};
use futures_util::StreamExt as _;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use crate::counted;
use crate::harness::Stack;
use crate::hostile::{
    Act, Hostile, MEMORY, SECRET, SSE, answered_meanwhile, canary, head, in_sockets, most_memory, stream,
};

/// What becomes of a turn, and what its chat shows of it; no part: it goes on until its user stops it.
struct Attack {
    name: &'static str,
    act: Act,
    status: &'static str,
    part: &'static str,
}

const NOT_KNOWN: &str = "";
const MEBIBYTE: u64 = 1024 * 1024;

fn text(content: &str) -> serde_json::Value {
    json!({"type": "text", "content": content})
}

/// 256 MiB of zeros, about 1 MiB on the wire.
fn bomb() -> Vec<u8> {
    let mut bomb = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..256 {
        bomb.write_all(&zeros).unwrap();
    }
    bomb.finish().unwrap()
}

fn attacks(ports: &[u16]) -> Vec<Attack> {
    let attack = |name, act, status, part| Attack { name, act, status, part };
    let events = |events: &[serde_json::Value]| Act::events(events);
    let done = json!({"type": "done"});
    let tiny = "data: {\"type\":\"keepalive\"}\n\n".repeat(100_000) + &stream(&[text("after many"), done.clone()]);
    let huge = [
        json!({"type": "usage", "prompt_tokens": i64::MAX, "completion_tokens": i64::MIN, "cost": 1e308}),
        text("of great cost"),
        done.clone(),
    ];
    let odd_numbers = "data: {\"type\":\"usage\",\"prompt_tokens\":1e400,\"completion_tokens\":-1,\"cost\":1e400}\n\n\
        data: {\"seq\":99999999999999999999,\"type\":\"text\",\"content\":\"never\"}\n\n"
        .to_owned()
        + &stream(&[text("no numbers"), done.clone()]);
    let jumping = [
        json!({"seq": 5, "type": "text", "content": "fifth"}),
        json!({"seq": 3, "type": "text", "content": "SHOULD NOT BE SEEN"}),
        json!({"seq": -7, "type": "text", "content": "SHOULD NOT BE SEEN"}),
        json!({"seq": i64::MAX, "type": "text", "content": "last"}),
        json!({"seq": 1, "type": "text", "content": "SHOULD NOT BE SEEN"}),
        done.clone(),
    ];
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\nzz\r\n\0\0";
    let many_heads = Act::Forever(b"HTTP/1.1 200 OK\r\n".to_vec(), format!("x-a: {}\r\n", "a".repeat(1_000)).into());
    let endless_head = Act::Forever(b"HTTP/1.1 200 OK\r\nx-a: ".to_vec(), vec![b'a'; 1_000]);
    let mut attacks = vec![
        attack("endless-line", Act::endless("data: ", &[b'x'; 1_000]), "unknown", NOT_KNOWN),
        attack("endless-event", Act::endless("", b"data: x\n"), "unknown", NOT_KNOWN),
        attack("endless-field", Act::endless("id: ", &[b'x'; 1_000]), "unknown", NOT_KNOWN),
        attack("returns", Act::endless("data: x", b"\rdata: xxxxxxxx"), "unknown", NOT_KNOWN),
        attack("no-utf8", Act::body(SSE, b"data: \xff\xfe{}\n\n"), "unknown", NOT_KNOWN),
        attack("tiny", Act::body(SSE, tiny), "completed", "after many"),
        attack("huge", events(&huge), "completed", "of great cost"),
        attack("odd-numbers", Act::body(SSE, odd_numbers), "completed", "no numbers"),
        attack("jumping", events(&jumping), "completed", "fifth\n\nlast"),
        attack("plain", Act::body("image/png", stream(&[text("no image"), done.clone()])), "completed", "no image"),
        attack("chunks", Act::Whole(chunked.into()), "unknown", NOT_KNOWN),
        attack("late", events(&[text("in time"), done.clone(), text("SHOULD NOT BE SEEN")]), "completed", "in time"),
        attack("page", Act::body("text/html", "<html>\n<b>hello</b>\n</html>\n"), "unknown", NOT_KNOWN),
        attack("zip", Act::with("content-encoding: gzip\r\n", bomb()), "unknown", NOT_KNOWN),
        attack("many-heads", many_heads, "unknown", NOT_KNOWN),
        attack("endless-head", endless_head, "unknown", NOT_KNOWN),
        attack("ten-megabytes", events(&[text(&"long ".repeat(2_000_000)), done.clone()]), "unknown", NOT_KNOWN),
        attack("deep", Act::body(SSE, format!("data: {}\n\n", "[".repeat(1_000_000))), "unknown", NOT_KNOWN),
    ];
    for (name, bomb) in
        [("brackets", "["), ("stars", "*"), ("quotes", ">"), ("links", "[a]("), ("ticks", "` "), ("lists", "- ")]
    {
        let markdown = bomb.repeat(100_000 / bomb.len());
        attacks.push(attack(
            name,
            events(&[text(&markdown), text("after all"), done.clone()]),
            "completed",
            "after all",
        ));
    }
    for (name, to) in ["one", "two", "three"].into_iter().zip(ports) {
        let to = format!(
            "HTTP/1.1 307 Temporary\r\nlocation: http://127.0.0.1:{to}/api/v1/agents\r\ncontent-length: 0\r\n\r\n"
        );
        attacks.push(attack(name, Act::Whole(to.into()), "failed", NOT_KNOWN));
    }
    let metadata = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/\r\ncontent-length: 0\r\n\r\n";
    attacks.push(attack("metadata", Act::Whole(metadata.into()), "failed", NOT_KNOWN));
    attacks
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_agent_streams_only_its_own_chat_notices() {
    let stack = Stack::start().await;
    let (canary, called) = canary().await;
    let hostile = Hostile::start().await;
    let postgres = sqlx::query_scalar::<_, i32>("select coalesce(inet_server_port(), 5432)").fetch_one(&stack.db);
    let own = stack.baal(0).url().rsplit(':').next().unwrap().parse().unwrap();
    let attacks = attacks(&[canary, own, u16::try_from(postgres.await.unwrap()).unwrap()]);
    hostile.acts("/good/chat", Act::events(&[text("I am here."), json!({"type": "done"})]));
    hostile.agent_of(&stack, 1, "good", 2).await;
    for (user, attack) in (100..).zip(&attacks) {
        hostile.acts(&format!("/{}/chat", attack.name), attack.act.clone());
        hostile.agent_of(&stack, user, attack.name, 1).await;
    }
    // These go on for as long as anybody listens.
    let floods =
        [(11, "flood", &b"data: {\"type\":\"keepalive\"}\n\n"[..]), (12, "noise", b"data:\n\n"), (13, "hum", b":\n\n")];
    for (user, name, again) in floods {
        hostile.acts(&format!("/{name}/chat"), Act::endless("", again));
        hostile.agent_of(&stack, user, name, 1).await;
    }
    hostile.acts("/drip/chat", Act::Drip(head(SSE).into()));
    hostile.agent_of(&stack, 14, "drip", 1).await;
    hostile.acts("/silence/chat", Act::Silence);
    hostile.agent_of(&stack, 15, "silence", 1).await;

    let begun = std::time::Instant::now();
    let slowest = answered_meanwhile(&stack, 1, async {
        for user in (11..=15).chain((100..).take(attacks.len())) {
            stack.user(user).says("go").await;
        }
        stack.wait_for_sql("select count(*) from turns where not done and chat_id >= 100", 0i64).await;
        stack.wait_for_sql("select count(*) from turns where done and chat_id >= 100", attacks.len() as i64).await;
    })
    .await;
    let took = begun.elapsed();
    for (user, attack) in (100..).zip(&attacks) {
        let status: String = sqlx::query_scalar("select status from turns where chat_id = $1")
            .bind(user)
            .fetch_one(&stack.db)
            .await
            .unwrap();
        let sent = hostile.sent(&format!("/{}/chat", attack.name));
        println!("{:<16} {status:<10} {sent:>10} bytes", attack.name);
        assert_eq!(status, attack.status, "{}", attack.name);
        // Nor more than the parser holds.
        assert!(sent < 8 * MEBIBYTE + in_sockets(), "{}: {sent} bytes were read", attack.name);
        let person = stack.user(user);
        let chat = person.wait_until(|messages| {
            let said: Vec<String> = messages.iter().filter(|m| m.is_reply()).map(|m| m.text.clone()).collect();
            (!said.is_empty() && said.iter().any(|said| said.contains(attack.part))).then_some(said)
        });
        let chat = chat.await.join("\n");
        assert!(!chat.contains("SHOULD NOT BE SEEN") && !chat.contains(SECRET), "{}: {chat}", attack.name);
    }
    // Those that go on are read slowly, and can be stopped.
    // Where that took longer than silence is borne, the silent ones have ended as such.
    let going_on = "select count(*) from turns
         where chat_id between 11 and 15 and (not done or chat_id in (14, 15) and status = 'unknown')";
    assert_eq!(stack.sql::<i64>(going_on).await, 5);
    for (_, name, _) in floods {
        let sent = hostile.sent(&format!("/{name}/chat"));
        println!("{name:<16} {sent:>21} bytes");
        let most = (8 + begun.elapsed().as_secs() * 2) * MEBIBYTE + in_sockets();
        assert!(sent < most, "{name}: {sent} bytes were read in {took:?}");
    }
    if std::env::var_os("ATTACK_UPDATES").is_some() {
        // Silence ends by itself: of a connection that drips no events as well as of one that says nothing.
        let ended = "select count(*) from turns where chat_id in (14, 15) and status = 'unknown'";
        stack.wait_for_sql_within(Duration::from_secs(120), ended, 2i64).await;
    }
    for user in 11..=15 {
        stack.user(user).says("/stop").await;
    }
    stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;

    let usage = reqwest::Client::new()
        .get(format!("{}/api/v1/usage", stack.baal(0).url()))
        .bearer_auth("test-admin-token-of-more-than-32-characters");
    let usage = usage.send().await.unwrap();
    assert_eq!(usage.status(), 200, "sums hold what agents tell");
    assert_eq!(called.load(Ordering::Relaxed), 0, "an agent led into our network");
    let memory = most_memory(&stack);
    println!("attacks took {took:?}; the slowest good answer {slowest:?}; at most {} MiB", memory / MEBIBYTE);
    assert!(memory < MEMORY, "{memory} bytes");
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    let own: Vec<String> =
        stack.user(1).messages().await.into_iter().filter(|m| m.is_reply()).map(|m| m.text).collect();
    assert!(own.iter().all(|said| said == "I am here."), "{own:?}");
    assert_eq!(stack.errors(), [""; 0]);
}

/// A client of agents at private addresses, as the program has it.
fn client(base: &str) -> AgentClient {
    // silent-ok: the provider is installed already, by another test of this process
    let _ = rustls::crypto::ring::default_provider().install_default();
    let values = [
        ("TELEGRAM_BOT_TOKEN", "1000000001:test-token-test-token-test-token-1"),
        ("DATABASE_URL", "postgres://nobody@localhost/nothing"),
        ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
        ("LIBERTAI_API_KEY", "test-key"),
        ("CLOUD", "local"),
        ("AGENT_ALLOW_PRIVATE", "true"),
        ("TELEGRAM_MODE", "polling"),
    ];
    let values: BTreeMap<String, String> = values.map(|(name, value)| (name.into(), value.into())).into();
    let config = Config::from_values(values, vec![]).unwrap_or_else(|error| panic!("{error}"));
    AgentClient::new(AgentsHttp::new(&config).unwrap().of(true), base, SECRET.to_owned().into())
}

/// All that is heard until the end, and how it ended.
async fn heard(client: &AgentClient) -> (Vec<Event>, Option<AgentError>) {
    let mut stream = match client.resume(Uuid::nil(), 0).await {
        Ok(stream) => stream,
        Err(error) => return (vec![], Some(error)),
    };
    let mut events = vec![];
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => events.push(event),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

fn any_event() -> impl Strategy<Value = Event> {
    let words = "\\PC{0,40}";
    let kind = prop_oneof![
        words.prop_map(|content| EventKind::Text { content }),
        words.prop_map(|content| EventKind::Delta { content }),
        (words, words).prop_map(|(name, input)| EventKind::ToolUse { name, input }),
        (words, proptest::option::of(words)).prop_map(|(path, caption)| EventKind::File { path, caption }),
        Just(EventKind::Keepalive),
        (any::<i64>(), any::<i64>()).prop_map(|(prompt_tokens, completion_tokens)| EventKind::Usage {
            prompt_tokens,
            completion_tokens,
            cost: None
        }),
    ];
    (any::<i64>(), kind).prop_map(|(seq, kind)| Event { seq, kind })
}

/// Pieces of what a stream is made of, right or wrong.
fn any_piece() -> impl Strategy<Value = Vec<u8>> {
    let known =
        ["data: ", "data:", "\n", "\r", "\r\n", "\n\n", "id:", "event: x\n", "retry: 9\n", ":", "{\"type\":\"done\"}"];
    prop_oneof![
        proptest::sample::select(known.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..30),
    ]
}

#[test]
fn events_are_read_whole_however_they_are_cut_and_garbage_ends_in_an_error() {
    let cases = if std::env::var_os("ATTACK_UPDATES").is_some() { 20_000 } else { 150 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let hostile = runtime.block_on(Hostile::start());
    let client = client(&hostile.url("any"));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    });
    let chunked = |pieces: &[Vec<u8>]| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Act::Whole(bytes)
    };
    let good = (proptest::collection::vec(any_event(), 0..12), 1..60usize, proptest::bool::ANY);
    let read = runner.run(&good, |(events, length, returns)| {
        let end = if returns { "\r\n" } else { "\n" };
        let text: String =
            events.iter().map(|event| format!("data: {}{end}{end}", serde_json::to_string(event).unwrap())).collect();
        let pieces: Vec<Vec<u8>> = text.as_bytes().chunks(length).map(<[u8]>::to_vec).collect();
        hostile.acts("/any", chunked(&pieces));
        prop_assert_eq!(runtime.block_on(heard(&client)), (events, None));
        Ok(())
    });
    read.unwrap();
    let ends = runner.run(&proptest::collection::vec(any_piece(), 0..40), |pieces| {
        hostile.acts("/any", chunked(&pieces));
        let reading = async { tokio::time::timeout(Duration::from_secs(30), heard(&client)).await };
        let (events, error) = runtime.block_on(reading).map_err(|_| TestCaseError::fail("it never ends"))?;
        prop_assert!(events.len() <= pieces.len());
        prop_assert!(error.is_none_or(|error| matches!(error, AgentError::Broken(_))));
        Ok(())
    });
    ends.unwrap();
    counted("agents' streams", format!("{cases} cut anywhere, {cases} of random pieces"), "read whole, or an error");
}
