//! Turns: a user's words to an agent, and the answer on its way back.

pub mod store;
