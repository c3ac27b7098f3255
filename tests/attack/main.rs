//! What hostile people, hostile agents and malformed updates can do: nothing to anybody else.
//!
//! `make faults` runs it short; `make attack` sets `ATTACK_UPDATES` and goes on for longer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod admin;
mod agent;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../admin/api.rs"]
mod api;
mod corpus;
mod fuzz;
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod hostile;
mod mutate;
mod people;
mod races;
mod stream;
mod updates;

/// Mutated updates through the webhook, unless ATTACK_UPDATES says how many.
const UPDATES: usize = 2_500;

/// As many as are asked for.
fn how_many() -> usize {
    std::env::var("ATTACK_UPDATES").map_or(UPDATES, |count| count.parse().expect("ATTACK_UPDATES is a number"))
}

/// What of `cases` in a short run there are in this one.
fn scaled(cases: usize) -> usize {
    (cases * how_many() / 20_000).max(cases)
}

/// One line of the table of what was tried.
fn counted(what: &str, tried: impl std::fmt::Display, held: &str) {
    println!("| {what} | {tried} | {held} |");
}

/// What a run's random choices follow from: ATTACK_SEED where a run is to be had again.
fn seed() -> u64 {
    let seed = std::env::var("ATTACK_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("ATTACK_SEED={seed}");
    seed
}
