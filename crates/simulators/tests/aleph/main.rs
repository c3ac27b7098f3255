//! Aleph Cloud's simulator, driven by the client that the control plane uses, and by hand where that client is too polite.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod compute;
mod faults;
mod harness;
mod messages;
mod ports;
mod refusals;
