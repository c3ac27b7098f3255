//! The whole program under faults, and a count of every message afterwards: nothing lost, nothing done twice.
//!
//! `make faults` runs it short; `make chaos` sets `CHAOS_ROUNDS=long` and runs the same for up to an hour. Faults come at random: each
//! test prints the seed of its own, and `CHAOS_SEED` repeats it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod agents;
mod chance;
mod clocks;
mod cuts;
mod disk;
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod kills;
mod load;
mod postgres;
mod proxy;
mod server;
mod settled;
mod soak;
mod telegram;
mod through;
