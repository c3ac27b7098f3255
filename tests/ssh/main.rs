//! The SSH client against real OpenSSH servers, which the tests start.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod commands;
mod connecting;
mod deadlines;
mod faults;
mod proxy;
mod server;
