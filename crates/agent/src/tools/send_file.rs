//! `send_file`: gives a file of the workspace to the chat.

use super::{Access, Call, Output, Tool, ToolError, arguments};
use crate::files::{self, SnapshotError, is_sensitive};
use baal_launcher::client::CallError;
use baal_protocol::{EventKind, MAX_FILE_BYTES};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, ErrorKind};
use tracing::{error, warn};

/// Telegram's bound on the text under a file, in characters.
const MAX_CAPTION: usize = 1024;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "send_file",
    description: "Sends a file of the workspace to the person you talk with, as it is at this moment. At most 50 MB.",
    parameters: || {
        json!({"type": "object", "required": ["path"], "properties": {
            "path": {"type": "string", "description": "The file, relative to the workspace"},
            "caption": {"type": "string", "description": "Text under the file, at most 1,024 characters"}}})
    },
    reads_only: false,
    access: Access::Everyone,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    #[serde(alias = "file_path")]
    path: String,
    #[serde(default)]
    caption: Option<String>,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let stopped = || ToolError::told("The turn was stopped, the file was not sent.");
        call.stop.run_until_cancelled(send(&call, given)).await.ok_or_else(stopped)?
    })
}

async fn send(call: &Call, given: Value) -> Result<Output, ToolError> {
    let Arguments { path, caption } = arguments(given)?;
    if is_sensitive(&path) {
        return Err(ToolError::told(
            "Files of this name (dotfiles, keys, credentials) are not sent. If it is really meant, make a copy under another \
             name after asking the person.",
        ));
    }
    let caption: Option<String> =
        caption.filter(|caption| !caption.trim().is_empty()).map(|caption| caption.chars().take(MAX_CAPTION).collect());
    let services = &call.services;
    let _one_at_a_time = services.files.whole_file().await;
    let content = async { services.launcher.open(&call.who.root()).await?.read(&path, MAX_FILE_BYTES).await };
    let content = content.await.map_err(|e| match e {
        CallError::Failed(failure) => ToolError::told(failure.to_string()),
        CallError::Unavailable(e) => {
            error!(error = %e, "a file could not be read to be sent");
            ToolError::told("The workspace does not answer at the moment; the file was not sent.")
        }
    })?;
    if content.truncated {
        return Err(ToolError::told(format!("{path} has {} bytes; at most 50 MB can be sent.", content.size)));
    }
    if services.files.snapshots_are_many()
        && let Err(e) = files::sweep_snapshots(&services.files, &services.store).await
    {
        warn!(error = %e, "old snapshots could not be deleted");
    }
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(&path);
    let sent = async {
        let mut snapshot = services.files.new_snapshot(name).await?;
        snapshot.write(&content.bytes).await?;
        snapshot.keep().await
    };
    let sent = sent.await.map_err(|e| match e {
        SnapshotError::Io(e) => {
            error!(error = %e, "a snapshot could not be written");
            not_copied(&e)
        }
        e => ToolError::told(format!("Not sent: {e}.")),
    })?;
    let text = format!("Sent {path} ({} bytes).", content.size);
    Ok(Output { text, events: vec![EventKind::File { path: sent.text(), caption }] })
}

fn not_copied(error: &io::Error) -> ToolError {
    // The same disk holds the conversation, so nothing that the model could do next would last.
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem) {
        return ToolError::Fatal(
            "My disk is full or cannot be written to, so the file was not sent and I cannot go on.".into(),
        );
    }
    ToolError::told("The file could not be copied; it was not sent.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_ends_the_turn_and_another_failure_is_told() {
        assert!(matches!(not_copied(&ErrorKind::StorageFull.into()), ToolError::Fatal(_)));
        assert!(matches!(not_copied(&ErrorKind::PermissionDenied.into()), ToolError::Told(_)));
    }
}
