//! Turns: a user's words to an agent, and the answer on its way back.

pub mod agent_client;
mod answer;
mod feed;
mod relay;
mod runner;
pub mod store;

pub use runner::run;
