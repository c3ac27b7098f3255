//! The administrators' API, as they use it: over HTTP, against the whole program, the simulators and a real Postgres.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod agents;
mod api;
mod chat;
mod clients;
mod conduct;
mod doors;
mod elsewhere;
mod endpoint;
mod external;
mod eyes;
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod hosts;
mod machines;
mod people;
mod queues;
mod scopes;
mod sharing;
mod swagger;
mod traces;
mod units;
