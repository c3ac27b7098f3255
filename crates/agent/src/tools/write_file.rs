//! `write_file`: makes or replaces a file of the workspace.

use super::workspace::{open, told};
use super::{Access, Call, Output, Tool, ToolError, arguments};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

/// The tool.
pub const TOOL: Tool = Tool {
    name: "write_file",
    description: "Writes a file of the workspace, replacing what was there. Directories above it are made.",
    parameters: || {
        json!({"type": "object", "required": ["path", "content"], "properties": {
            "path": {"type": "string", "description": "Relative to the workspace"},
            "content": {"type": "string", "description": "The whole new content"}}})
    },
    reads_only: false,
    access: Access::Everyone,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    path: String,
    content: String,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { path, content } = arguments(given)?;
        open(&call).await?.write(&path, content.as_bytes(), None).await.map_err(told)?;
        Ok(Output::text(format!("Wrote {} bytes to {path}.", content.len())))
    })
}
