//! Turns: a user's words to an agent, and the answer on its way back.

mod admission;
pub mod agent_client;
pub mod amending;
mod answer;
mod answering;
mod asking;
mod conclusion;
mod drafts;
mod ending;
mod feed;
mod forgetting;
mod outage;
pub mod outcome;
pub mod pending;
pub mod queue;
mod refusal;
mod relay;
pub mod request;
mod runner;
mod status;
pub mod stopping;
pub mod store;
pub mod uploads;

pub use runner::{PARALLEL, run};
