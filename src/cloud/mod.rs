//! Where agents run.

pub mod aleph;
pub mod hosts;
pub mod local;
pub mod places;
mod process;
mod root;
pub mod store;
pub mod supervisor;
