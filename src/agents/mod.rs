//! Agents: what they are, how they are kept, and what may be done with them.

pub mod access;
pub mod account;
pub mod config;
pub mod external;
pub mod http;
pub mod invites;
pub mod keys;
pub mod limits;
pub mod links;
pub mod model;
pub mod opening;
pub mod overview;
pub mod service;
pub mod sharing;
mod soul;
pub mod standing;
pub mod store;
mod token;
mod units;
mod upkeep;
pub(crate) mod validate;
pub mod visitors;

pub use model::{Agent, Status};
