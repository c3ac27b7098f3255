//! What operators do with an installation: setting it up, keeping it, moving to it, letting it grow.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod backup;
mod grow;
#[allow(dead_code, unused_imports, reason = "other tests use the rest")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod import;
mod init;
mod keys;
mod kubernetes;
mod retention;
mod rows;
