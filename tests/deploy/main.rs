//! Agents on machines: the whole program against a simulated cloud that rents out containers with systemd, OpenSSH and a real
//! web server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking; the lint knows only functions marked as tests")]

mod acme;
mod aleph;
mod audit;
mod chat;
mod crowd;
mod faults;
mod field;
mod gate;
#[path = "../it/harness/mod.rs"]
#[expect(dead_code, reason = "the other tests of the whole program use more of it")]
mod harness;
mod kills;
mod life;
mod lost;
mod machines;
mod neighbours;
mod own_hosts;
#[path = "../operators/import/python.rs"]
#[expect(dead_code, reason = "the tests of imports use more of it")]
mod python;
mod takeover;
