//! Where agents run.

pub mod aleph;
pub mod hosts;
pub mod local;
mod process;
mod root;
pub mod store;
pub mod supervisor;
