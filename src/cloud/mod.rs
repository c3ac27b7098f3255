//! Where agents run.

pub mod aleph;
pub mod health;
pub mod hosts;
pub mod local;
pub mod machines;
pub mod overview;
pub mod places;
pub mod pool;
mod process;
pub mod reconcile;
mod root;
pub mod store;
pub mod supervisor;
