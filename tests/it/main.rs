//! The whole program against the simulators and a real Postgres.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod aleph;
mod bot;
mod browser;
mod conversation;
mod faults;
#[expect(dead_code, reason = "the tests of deployment use the rest")]
mod harness;
mod program;
mod streaming;
mod updates;
mod upkeep;
mod visitors;
mod wizard;
