//! People who talk to one agent, each message with its number, for as long as something goes wrong.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::harness::count::words;
use crate::harness::{Builder, Stack};

/// How many talk.
pub const PEOPLE: i64 = 10;

/// Milliseconds between two messages of one of them.
const PAUSES: std::ops::Range<u64> = 300..1_300;

/// How long they go on after the fault has passed: what comes next has to work again.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// A message that Telegram took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub message_id: i64,
    pub update_id: i64,
}

/// The people and what they have said so far.
pub struct People {
    /// Of user 1 first; in the order of each one's numbers, from 1.
    pub said: Vec<Vec<Said>>,
    /// What the programs had in memory before anything went wrong, in KiB.
    pub memory_before: Vec<u64>,
}

/// Two replicas whose claims are soon given up, and limits that nobody reaches.
pub fn usual() -> Builder {
    Stack::builder().replicas(2).env("LEASE_SECONDS", 2).env("FREE_TIER_DAILY_MESSAGES", 1_000_000)
}

impl People {
    /// User 1 creates an agent, and everybody opens it.
    pub async fn meet(stack: &Stack) -> Self {
        stack.simulator.post("/sim/webhook", json!({"retry_base_ms": 20})).await;
        let agent = stack.user(1).creates_agent("Ada", "You count.").await;
        stack.simulator.tell_model("/sim/pace", json!({"first_ms": 60, "piece_ms": 15})).await;
        for id in 1..=PEOPLE {
            stack.user(id).says(&format!("/start agent_{agent}")).await;
        }
        for id in 1..=PEOPLE {
            stack.user(id).wait_for(|m| m.text.contains("You are talking to Ada")).await;
        }
        Self { said: vec![Vec::new(); PEOPLE as usize], memory_before: stack.memory() }
    }

    /// All talk until `fault` has passed, and a little longer; what it gives.
    pub async fn talk_during<T>(&mut self, stack: &Stack, chance: &Chance, fault: impl Future<Output = T>) -> T {
        let over = CancellationToken::new();
        let fault = async {
            let given = fault.await;
            tokio::time::sleep(AFTERWARDS).await;
            over.cancel();
            given
        };
        let talking = (1..).zip(&mut self.said).map(|(user, said)| talk(stack, chance, &over, user, said));
        let (given, _) = tokio::join!(fault, join_all(talking));
        given
    }

    /// How many messages there were.
    pub fn messages(&self) -> usize {
        self.said.iter().map(Vec::len).sum()
    }
}

async fn talk(stack: &Stack, chance: &Chance, over: &CancellationToken, user: i64, said: &mut Vec<Said>) {
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(chance.pause(PAUSES)) => {}
        }
        let taken = stack.user(user).says(&words(user, said.len() + 1)).await;
        let number = |name: &str| taken[name].as_i64().unwrap_or_else(|| panic!("no {name} in {taken}"));
        said.push(Said { message_id: number("message_id"), update_id: number("update_id") });
    }
}

/// How the model answers from now on, in milliseconds.
pub async fn pace(stack: &Stack, first_ms: u64, piece_ms: u64) -> Value {
    stack.simulator.tell_model("/sim/pace", json!({"first_ms": first_ms, "piece_ms": piece_ms})).await
}
