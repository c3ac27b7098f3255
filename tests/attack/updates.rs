//! Malformed updates in great numbers through the real webhook, while somebody well-behaved uses the bot.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::harness::{Stack, User};
use crate::{corpus, how_many, mutate, seed};

/// Deliveries at once.
const LANES: usize = 64;
/// Far from whatever the mutations make.
const WELL_BEHAVED: i64 = 424_242_001;
/// The ids that the simulator gives are far below.
const FIRST_ID: i64 = 900_000_000_000;

const OPEN: &str = "select (select count(*) from updates where not done) + (select count(*) from turns where not done)
    + (select count(*) from outbox where not done) + (select count(*) from errands where not done)
    + (select count(*) from jobs where not done)";

/// The `index`th body; the same for the same seed.
fn body(seed: u64, index: usize, corpora: &[Vec<Value>]) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(index as u64));
    let mut update = corpora.choose(&mut rng).unwrap().choose(&mut rng).unwrap().clone();
    // Some come a second time, with other words.
    let repeated = if rng.random_ratio(1, 20) { rng.random_range(0..=index) } else { index };
    update["update_id"] = (FIRST_ID + repeated as i64).into();
    mutate::mutated(&mut rng, &update)
}

/// Delivers as Telegram does: what its chat has no room for comes again later. The status that it ended with, and how often
/// it had to wait.
async fn deliver(http: &reqwest::Client, url: &str, body: Vec<u8>) -> (u16, usize) {
    let (mut waited, mut broken) = (0, 0);
    loop {
        let request =
            http.post(url).header("x-telegram-bot-api-secret-token", "test-webhook-secret").body(body.clone());
        match request.send().await.map(|answer| answer.status().as_u16()) {
            Ok(429) => waited += 1,
            Ok(status) => return (status, waited),
            // What is too long is refused before it is read whole, and that closes the connection, which another may just use.
            Err(error) => {
                broken += 1;
                assert!(broken < 10, "{error:?}");
            }
        }
        assert!(waited < 3_000, "a chat stays full");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks for help and talks to an agent until `over`, with a rest in between; how often.
async fn chats(user: User<'_>, rest: Duration, over: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        user.asks("/help", "What you can do here").await;
        rounds += 1;
        // Its own words come back; how many there were does not, for an agent sums up a long conversation.
        let words = format!("hello for the {rounds}th time");
        user.asks(&words, &words).await;
        tokio::time::sleep(rest).await;
    }
    rounds
}

/// Whatever can be read is handled, and nothing failed again and again. Why updates were given up, and how many.
async fn only_what_is_no_update_failed(stack: &Stack) -> BTreeMap<String, i64> {
    // Telegram refuses to edit and delete messages whose numbers were mutated; that is all that went wrong.
    let errors = stack.errors().into_iter();
    let others: Vec<String> = errors.filter(|line| !line.contains("Telegram refuses a call for good")).collect();
    assert_eq!(others, Vec::<String>::new());
    let reasons: Vec<(String, i64)> = sqlx::query_as(
        "select regexp_replace(error, '[0-9]+', 'N', 'g'), count(*) from updates where error is not null group by 1 order by 1",
    )
    .fetch_all(&stack.db)
    .await
    .unwrap();
    for (reason, _) in &reasons {
        let known = ["not an update: wrong at line N, column N", "an update of a kind that is not handled"];
        assert!(known.contains(&&**reason), "a dead letter for another reason: {reason}");
    }
    reasons.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_updates_break_nothing_and_hold_nobody_up() {
    let (count, seed) = (how_many(), seed());
    let patience = Duration::from_secs(120);
    let builder = Stack::builder().patience(patience).env("FREE_TIER_DAILY_MESSAGES", 5);
    // Not for other people's code to judge: what is said about nonsense is too much for that.
    let stack = builder.simulators("--telegram-requests", "/dev/null").start().await;
    stack.simulator.tell_model("/sim/pace", serde_json::json!({"first_ms": 5, "piece_ms": 0})).await;
    let user = stack.user(WELL_BEHAVED);
    assert_eq!(user.creates_agent("Ada", "You count.").await, 1, "the corpus names it");
    sqlx::query("update users set daily_messages = 1000000").execute(&stack.db).await.unwrap();

    // Enough that none has much to wait, few enough to be held in memory.
    let people = 200 * (count / 20_000).clamp(1, 5);
    let corpora: Vec<Vec<Value>> = (0..people).map(|n| corpus::of(10_000 + n as i64)).collect();
    // A chat is looked at from its beginning, so it stays of a length that costs nothing.
    let rest = Duration::from_millis(300 * (count / 50_000).clamp(1, 10) as u64);
    let url = format!("{}/telegram/webhook", stack.baal(0).url());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (statuses, waits) = (Mutex::new(BTreeMap::<u16, usize>::new()), AtomicUsize::new(0));
    let began = Instant::now();
    let lane = async || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let body = body(seed, index, &corpora);
            let (status, waited) = deliver(&http, &url, body).await;
            assert!(matches!(status, 200 | 413), "update {index} of seed {seed} got {status}");
            *statuses.lock().unwrap().entry(status).or_default() += 1;
            waits.fetch_add(waited, Ordering::Relaxed);
        }
    };
    let attack = async {
        join_all((0..LANES).map(|_| lane())).await;
        let delivered = began.elapsed();
        stack
            .wait_for_sql_within(patience.max(began.elapsed()), "select count(*) from updates where not done", 0i64)
            .await;
        over.store(true, Ordering::Relaxed);
        delivered
    };
    let deepest = async {
        let mut deepest = 0;
        while !over.load(Ordering::Relaxed) {
            deepest = deepest.max(stack.sql::<i64>("select count(*) from updates where not done").await);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        deepest
    };
    let (delivered, deepest, rounds) = tokio::join!(attack, deepest, chats(user, rest, &over));
    stack.wait_for_sql_within(patience.max(began.elapsed()), OPEN, 0i64).await;

    // It is all there, and works.
    user.asks("/help", "What you can do here").await;
    user.asks("the last", "“the last”").await;
    let reasons = only_what_is_no_update_failed(&stack).await;
    assert_eq!(stack.sql::<i64>("select count(*) from updates where error is null and body <> ''").await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from updates where body <> '' and body not like 'gAAAA%'").await, 0);
    for log in stack.logs().iter().filter(|log| log.file_name().is_some_and(|name| name != "simulators.log")) {
        let text = std::fs::read(log).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("LTAI-attack"), "a secret is in {}", log.display());
    }
    let dead: i64 = reasons.values().sum();
    let kept = stack.sql::<i64>("select count(*) from updates").await;
    println!(
        "| mutated updates | {count} of {people} people in {:.0} s ({:.0}/s), {:?}, {} waits for a full chat, at most {deepest} open | \
         {kept} kept, {dead} dead letters with a reason, none stuck; {rounds} rounds of a well-behaved user answered |",
        delivered.as_secs_f64(),
        count as f64 / delivered.as_secs_f64(),
        statuses.lock().unwrap(),
        waits.load(Ordering::Relaxed),
    );
}

/// Where the texts are in it, as JSON pointers (RFC 6901).
fn texts(of: &Value, at: &str, found: &mut Vec<String>) {
    match of {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| texts(item, &format!("{at}/{n}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| texts(value, &format!("{at}/{name}"), found)),
        _ => {}
    }
}

/// Postgres' text cannot hold it: a field that is stored as it came makes a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_is_harmless_wherever_there_is_text() {
    let stack = Stack::builder().simulators("--telegram-requests", "/dev/null").start().await;
    assert_eq!(stack.user(WELL_BEHAVED).creates_agent("Ada", "You count.").await, 1, "the corpus names it");
    let url = format!("{}/telegram/webhook", stack.baal(0).url());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut next = FIRST_ID;
    for update in corpus::of(10_000) {
        let mut places = Vec::new();
        texts(&update, "", &mut places);
        for place in places {
            let mut update = update.clone();
            let text = update.pointer_mut(&place).unwrap();
            *text = format!("{}\0", text.as_str().unwrap()).into();
            update["update_id"] = next.into();
            next += 1;
            assert_eq!(deliver(&http, &url, update.to_string().into_bytes()).await.0, 200, "{place}");
        }
    }
    assert!(next > FIRST_ID + 100, "the corpus is full of texts");
    stack.wait_for_sql(OPEN, 0i64).await;
    only_what_is_no_update_failed(&stack).await;
    println!("| a NUL in every text | {} updates | none failed |", next - FIRST_ID);
}
