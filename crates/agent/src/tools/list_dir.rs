//! `list_dir`: what is in a directory of the workspace.

use super::workspace::{open, told};
use super::{Access, Call, Output, Tool, ToolError, arguments};
use baal_launcher::wire::{Entry, EntryKind, MAX_ENTRIES};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "list_dir",
    description: "Lists a directory of the workspace: names with a slash after directories, and sizes of files in bytes.",
    parameters: || {
        json!({"type": "object", "properties": {
            "path": {"type": "string", "description": "Relative to the workspace; the workspace itself unless given"}}})
    },
    reads_only: true,
    access: Access::Everyone,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    #[serde(default)]
    path: Option<String>,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { path } = arguments(given)?;
        let entries = open(&call).await?.list(path.as_deref().unwrap_or(".")).await.map_err(told)?;
        Ok(Output::text(listed(&entries)))
    })
}

fn listed(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "[The directory is empty.]".to_owned();
    }
    let mut text = String::new();
    for Entry { name, kind, size, .. } in entries {
        // silent-ok: writing to a String cannot fail
        let _ = match kind {
            EntryKind::Directory => writeln!(text, "{name}/"),
            EntryKind::File => writeln!(text, "{name}  {size}"),
            EntryKind::Symlink => writeln!(text, "{name}  (symbolic link)"),
            EntryKind::Other => writeln!(text, "{name}  (no regular file)"),
        };
    }
    if entries.len() >= MAX_ENTRIES {
        text += "[There may be more; only so many are listed.]";
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_sizes_are_told() {
        let entry = |name: &str, kind, size| Entry { name: name.into(), kind, size, modified: 0 };
        let entries = [entry("memory", EntryKind::Directory, 4096), entry("a b.txt", EntryKind::File, 12)];
        assert_eq!(listed(&entries), "memory/\na b.txt  12");
        assert_eq!(listed(&[]), "[The directory is empty.]");
    }
}
