//! What runs periodically: the pool, the reconciler and the probes, against a real Postgres, and a network that tells what the
//! tests say.

mod health;
mod hosts;
mod import;
mod network;
mod pool;
#[allow(dead_code, clippy::unwrap_used, reason = "tests of operators use the rest; a test fails by panicking")]
#[path = "../operators/import/python.rs"]
mod python;
mod reconcile;
mod upkeep;
mod world;
