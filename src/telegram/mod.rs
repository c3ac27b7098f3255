//! The bot: updates in, calls out.

pub mod api;
pub mod callback;
pub mod inbox;
pub mod markdown;
pub mod outbox;
pub mod update;
