//! Telegram's simulator, seen from both sides.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chats;
mod delivery;
mod faults;
mod harness;
mod media;
mod page;
mod polling;
mod state;
mod strictness;
