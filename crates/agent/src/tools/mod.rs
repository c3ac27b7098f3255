//! The tools: what a model may do besides talking.
//!
//! One file per tool. A new one is a file with a [`Tool`] in it and a line in the registry.

mod bash;
mod edit_file;
mod excerpt;
mod list_dir;
mod read_file;
mod recall;
mod registry;
mod remember;
mod send_file;
mod services;
mod spawn;
mod walls;
mod web_fetch;
mod web_search;
mod who;
mod workspace;
mod write_file;

pub use excerpt::head_and_tail;
pub use registry::{Offer, Toolbox};
pub use remember::{TOOL as REMEMBER, write_down};
pub use services::Services;
pub use walls::Walls;
pub use who::{HEARTBEAT_CHAT, Rules, SUBAGENT_CHAT, TurnKind, Who};

use crate::turns::Scheduler;
use axum::body::Bytes;
use baal_protocol::EventKind;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A tool as models know it, and what it does.
pub struct Tool {
    /// As the model calls it.
    pub name: &'static str,
    /// What the model is told of it.
    pub description: &'static str,
    /// JSON Schema of its arguments.
    pub parameters: fn() -> Value,
    /// Changes nothing anywhere, so it may run beside other such calls of the same round.
    pub reads_only: bool,
    /// Who has it without being given it.
    pub access: Access,
    /// Whether this agent has it at all.
    pub available: fn(&Services) -> bool,
    /// What it does. The arguments are an object, as the model wrote them.
    pub run: fn(Call, Value) -> BoxFuture<'static, Result<Output, ToolError>>,
}

/// Who has a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, and visitors too who may only talk.
    Memory,
    /// Owner, visitors, subagents and heartbeats.
    Everyone,
    /// The owner, with the owner's subagents and heartbeats; a visitor only where the configuration's `visitor_tools` says so.
    Owner,
    /// The owner in person, and a visitor where `visitor_tools` says so: not subagents and heartbeats.
    OwnerInPerson,
}

/// One call of a tool.
#[derive(Clone)]
pub struct Call {
    /// What tools work with.
    pub services: Arc<Services>,
    /// Where turns are taken in.
    pub turns: Scheduler,
    /// On whose behalf.
    pub who: Who,
    /// The turn's place in the order of arrival.
    pub position: i64,
    /// The turn's id.
    pub turn_id: Uuid,
    /// The user has stopped the turn, or the agent shuts down: end at once and leave nothing running.
    pub stop: CancellationToken,
    /// Where a tool's output goes while it runs; whoever reads it may not keep up, and then it waits.
    pub output: mpsc::Sender<Bytes>,
}

/// What a call brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// For the model.
    pub text: String,
    /// For the turn's readers, such as a file.
    pub events: Vec<EventKind>,
}

impl Output {
    /// Only words for the model.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), events: Vec::new() }
    }
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The model is told, and may do better.
    #[error("{0}")]
    Told(String),
    /// The agent itself is ill, such as its disk is full, and going on makes no sense; the user is told in these words and the
    /// turn ends.
    #[error("{0}")]
    Fatal(String),
}

impl ToolError {
    /// In words for the model.
    pub fn told(why: impl Into<String>) -> Self {
        Self::Told(why.into())
    }
}

/// Reads the arguments of a call.
///
/// # Errors
/// In words that let the model correct itself.
pub fn arguments<T: DeserializeOwned>(given: Value) -> Result<T, ToolError> {
    serde_json::from_value(given).map_err(|e| ToolError::Told(format!("The arguments do not fit: {e}.")))
}
