//! Half an hour of talk in which nothing goes wrong: memory and waiting times stay what they are.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::chance::{Chance, long};
use crate::harness::Stack;
use crate::load::{PEOPLE, People, pace, usual};
use crate::settled::{Allowed, assert_settled};

/// What was seen in one interval.
struct Sample {
    /// Of the replica that has most in memory, in MiB.
    memory: f64,
    /// From a message to its whole answer as its user sees it, in milliseconds: the median, and the longest.
    median: f64,
    longest: f64,
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_waiting_times_stay_what_they_are() {
    let chance = Chance::of("soak");
    // Not the model's time, but ours.
    let (samples, interval) = if long() { (30, Duration::from_secs(60)) } else { (4, Duration::from_secs(4)) };
    let stack = usual().start().await;
    let mut people = People::meet(&stack).await;
    pace(&stack, 0, 0).await;
    let mut seen = Vec::new();
    let watching = async {
        for number in 0..samples {
            seen.push(sample(&stack, number, interval).await);
            // Otherwise the conversations grow for half an hour, and with them the agent's work.
            let anew = (1..=PEOPLE).map(|user| stack.user(user).says("/new"));
            join_all(anew).await;
        }
    };
    people.talk_during(&stack, &chance, watching).await;
    for (number, Sample { memory, median, longest }) in seen.iter().enumerate() {
        println!("soak: interval {number}: {memory:.1} MiB, answers after {median:.0} ms, {longest:.0} ms at most");
    }
    let count = assert_settled(&stack, &people, Allowed::USUAL).await;
    println!("soak: {} s; {count}", interval.as_secs() * samples as u64);
    assert_eq!((count.reclaimed, count.uncertain, count.dead_letters), (0, 0, 0), "nothing went wrong");
    if long() {
        let third = seen.len() / 3;
        let (middle, last) = (&seen[third..2 * third], &seen[2 * third..]);
        let mean =
            |samples: &[Sample], of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
        for (what, of, slack) in
            [("MiB of memory", (|s| s.memory) as fn(&Sample) -> f64, 5.0), ("ms to an answer", |s| s.median, 5.0)]
        {
            let (before, after) = (mean(middle, of), mean(last, of));
            assert!(
                after <= before * 1.2 + slack,
                "{what}: {before:.1} in the second third, {after:.1} in the last one"
            );
        }
    }
}

/// One more person comes, and asks again as soon as there is an answer.
async fn sample(stack: &Stack, number: i64, interval: Duration) -> Sample {
    let over = Instant::now() + interval;
    let user = stack.user(1_000 + number);
    let agent: i64 = stack.sql("select id from agents").await;
    user.asks(&format!("/start agent_{agent}"), "You are talking to Ada").await;
    let mut waits = Vec::new();
    while Instant::now() < over {
        let began = Instant::now();
        user.asks(&format!("question {}", waits.len()), " of our conversation.").await;
        waits.push(began.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    waits.sort_by(f64::total_cmp);
    let memory = stack.memory().into_iter().max().unwrap() as f64 / 1024.0;
    Sample { memory, median: waits[waits.len() / 2], longest: waits[waits.len() - 1] }
}
