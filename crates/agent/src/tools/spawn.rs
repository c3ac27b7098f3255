//! `spawn`: has a task done in the background, by an agent of its own.

use super::{Access, Call, Output, SUBAGENT_CHAT, Tool, ToolError, arguments};
use crate::background::subagent;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{error, info};
use uuid::Uuid;

/// Subagents at work or waiting at the same time.
const MAX_OPEN: i64 = 5;
/// Longest task, in bytes.
const MAX_TASK: usize = 32 * 1024;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "spawn",
    description: "Has a task done in the background by a subagent, while this conversation goes on. The subagent knows only \
        what the task says, has fewer tools and at most 15 rounds of them. Its result is sent to the person you talk with when it \
        is ready, and you will read it then; do not wait for it.",
    parameters: || {
        json!({"type": "object", "required": ["task"], "properties": {
            "task": {"type": "string", "description": "What is to be done, with all that one must know to do it"}}})
    },
    reads_only: false,
    access: Access::OwnerInPerson,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    #[serde(alias = "prompt", alias = "message")]
    task: String,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { task } = arguments(given)?;
        if task.trim().is_empty() || task.len() > MAX_TASK {
            return Err(ToolError::told(format!("The task must be 1 to {MAX_TASK} bytes of text.")));
        }
        let failed = |e: crate::store::StoreError| {
            error!(error = %e, "a subagent could not be taken in");
            ToolError::Fatal(
                "My database does not take changes, so I cannot go on. Perhaps my disk is full; please try again later.".into(),
            )
        };
        if !call.services.budget.is_left().await.map_err(failed)? {
            return Err(ToolError::told(call.services.budget.reached()));
        }
        let chat_id = format!("{SUBAGENT_CHAT}{}", Uuid::new_v4());
        let turn = subagent(chat_id.clone(), task.trim(), call.who.role, call.who.home_chat());
        let id = turn.id;
        let Some(number) = call.services.store.spawn(turn, MAX_OPEN).await.map_err(failed)? else {
            return Err(ToolError::told(format!(
                "{MAX_OPEN} subagents are at work already, which is as many as there may be. Try again when one is done, or do \
                 it yourself."
            )));
        };
        call.turns.wake(&chat_id);
        info!(turn.id = %id, "subagent spawned");
        Ok(Output::text(format!("Subagent {number} has begun. Its result comes as a message of its own.")))
    })
}
