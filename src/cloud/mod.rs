//! Where agents run.

pub mod local;
mod process;
pub mod store;
pub mod supervisor;
