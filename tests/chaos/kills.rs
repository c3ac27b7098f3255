//! Replicas are killed while people talk: one or the other at random, and now and then both at once.

use crate::chance::{Chance, rounds};
use crate::load::{People, usual};
use crate::proxy::Proxy;
use crate::settled::{Allowed, assert_settled};

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_one_replica_or_both_lose_and_double_nothing() {
    let chance = Chance::of("kills");
    let kills = rounds(15, 100);
    let webhook = Proxy::start(&chance).await;
    let stack = usual().env("PUBLIC_URL", webhook.url()).start().await;
    webhook.lead_to_replicas(&stack);
    let mut people = People::meet(&stack).await;
    let mut both = 0;
    let killing = async {
        let mut killed = 0;
        while killed < kills {
            // Spread over a start, work and rest.
            tokio::time::sleep(chance.pause(100..1_300)).await;
            let one = chance.number(0..2) as usize;
            let victims = if chance.once_in(5) { 0..2 } else { one..one + 1 };
            both += usize::from(victims.len() == 2);
            killed += victims.len();
            victims.clone().for_each(|victim| stack.baal(victim).kill9());
            victims.for_each(|victim| stack.baal(victim).launch());
        }
        killed
    };
    let killed = people.talk_during(&stack, &chance, killing).await;
    let count = assert_settled(&stack, &people, Allowed::USUAL).await;
    println!("kills: {killed} replicas killed, {both} times both at once; {count}");
    assert!(count.reclaimed > 0, "the kills hit nothing");
}
