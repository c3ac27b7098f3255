//! Telegram refuses, fails, is slow and loses its answers, all mixed, while people talk.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chance::{Chance, long};
use crate::load::{PEOPLE, People, usual};
use crate::settled::{Allowed, Duplicates, assert_settled};

#[tokio::test(flavor = "multi_thread")]
async fn a_telegram_that_fails_in_every_way_doubles_only_what_it_took_in_silence() {
    let chance = Chance::of("telegram");
    let stack = usual().start().await;
    let mut people = People::meet(&stack).await;
    let mut ordered = 0;
    let faults = async {
        let until = tokio::time::Instant::now() + Duration::from_secs(if long() { 240 } else { 8 });
        while tokio::time::Instant::now() < until {
            let faults: Vec<Value> = (0..chance.number(1..6)).map(|_| fault(&chance)).collect();
            ordered += faults.len();
            stack.simulator.post("/sim/faults", json!(faults)).await;
            tokio::time::sleep(chance.pause(100..700)).await;
        }
        stack.simulator.ask(reqwest::Method::DELETE, "/sim/faults", None).await;
    };
    people.talk_during(&stack, &chance, faults).await;
    let allowed = Allowed { duplicates: Duplicates::LostAnswers, ..Allowed::USUAL };
    let count = assert_settled(&stack, &people, allowed).await;
    let lost: i64 = stack.sql("select coalesce(sum(losses), 0)::int8 from outbox").await;
    println!("telegram: {ordered} faults, {lost} answers to sends lost; {count}");
    assert!(count.duplicates <= lost, "{} messages are there twice, {lost} answers were lost", count.duplicates);
    assert!(lost > 0, "no answer was lost");
}

/// One of everything that Telegram can do, to one chat or to whichever comes.
fn fault(chance: &Chance) -> Value {
    let kind = ["429", "500", "502html", "delay", "drop_after", "drop_before"][chance.number(0..6) as usize];
    let method = ["sendMessage", "editMessageText", "*"][chance.number(0..3) as usize];
    let mut fault = json!({
        "kind": kind,
        "method": method,
        "times": chance.number(1..3),
        "retry_after": 1,
        "ms": chance.number(50..1_500),
    });
    // A flood is a chat's own: two of different chats within a second slow down everybody.
    if kind == "429" || chance.once_in(2) {
        fault["chat_id"] = json!(chance.number(1..PEOPLE as u64 + 1));
    }
    fault
}
