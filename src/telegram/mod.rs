//! The bot: updates in, calls out.

pub mod api;
pub mod callback;
pub mod commands;
pub mod content;
pub mod conversation;
pub mod cut;
pub mod dead;
pub mod dispatcher;
pub mod files;
pub mod holds;
pub mod inbox;
pub mod markdown;
pub mod outbox;
mod pace;
pub mod polling;
pub mod reach;
pub mod receipts;
pub mod sender;
pub mod setup;
pub mod text;
pub mod texts;
pub mod update;
pub mod verdict;
