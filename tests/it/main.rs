//! The whole program against the simulators and a real Postgres.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod account;
mod admission;
mod aiogram;
mod aleph;
mod bot;
mod browser;
mod chat_in;
mod chat_out;
mod conversation;
mod far_agent;
mod faults;
mod files;
mod forgetting;
#[expect(dead_code, reason = "the tests of deployment use the rest")]
mod harness;
mod invites;
mod lost_answers;
mod markdown;
mod outages;
mod overview;
mod pending;
mod program;
mod sharing;
mod streaming;
mod transcripts;
mod unreachable;
mod updates;
mod upkeep;
mod visitors;
mod wizard;
