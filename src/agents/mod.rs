//! Agents: what they are, how they are kept, and what may be done with them.

pub mod config;
pub mod http;
pub mod model;
pub mod service;
pub mod standing;
pub mod store;
mod upkeep;
mod validate;

pub use model::{Agent, Status};
