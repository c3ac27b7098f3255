//! What runs periodically: the pool, the reconciler and the probes, against a real Postgres, and a network that tells what the
//! tests say.

mod health;
mod hosts;
mod network;
mod pool;
mod reconcile;
mod upkeep;
mod world;
