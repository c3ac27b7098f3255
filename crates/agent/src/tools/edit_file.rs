//! `edit_file`: replaces a piece of a file of the workspace.

use super::workspace::{open, told};
use super::{Access, Call, Output, Tool, ToolError, arguments};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest file that is edited, in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "edit_file",
    description: "Replaces old_string by new_string in a text file of the workspace. old_string must be in the file exactly \
        as given, without line numbers, and only once, unless replace_all is true.",
    parameters: || {
        json!({"type": "object", "required": ["path", "old_string", "new_string"], "properties": {
            "path": {"type": "string", "description": "Relative to the workspace"},
            "old_string": {"type": "string", "description": "What is there, with enough around it to be unique"},
            "new_string": {"type": "string", "description": "What shall be there"},
            "replace_all": {"type": "boolean", "description": "Replace every occurrence"}}})
    },
    reads_only: false,
    access: Access::Everyone,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    path: String,
    old_string: String,
    new_string: String,
    #[serde(default)]
    replace_all: Option<bool>,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { path, old_string, new_string, replace_all } = arguments(given)?;
        let mut session = open(&call).await?;
        let file = session.read(&path, MAX_BYTES).await.map_err(told)?;
        if file.truncated {
            return Err(ToolError::told(format!("{path} is too large to be edited: {} bytes.", file.size)));
        }
        let digest = file.sha256();
        let text = String::from_utf8(file.bytes)
            .map_err(|_| ToolError::told(format!("{path} is no text in UTF-8, so it cannot be edited.")))?;
        let (edited, count) = edit(&text, &old_string, &new_string, replace_all.unwrap_or(false))?;
        // Only what was read is replaced: in the meantime somebody else may have changed the file.
        session.write(&path, edited.as_bytes(), digest).await.map_err(told)?;
        let places = if count == 1 { "one place".to_owned() } else { format!("{count} places") };
        Ok(Output::text(format!("Edited {path} in {places}.")))
    })
}

/// The edited text, and in how many places it differs.
fn edit(text: &str, old: &str, new: &str, all: bool) -> Result<(String, usize), ToolError> {
    if old.is_empty() {
        return Err(ToolError::told("old_string must not be empty; use write_file for a new file."));
    }
    if old == new {
        return Err(ToolError::told("old_string and new_string are the same."));
    }
    match text.matches(old).count() {
        0 => Err(ToolError::told("old_string is not in the file. Read the file and give the text exactly as it is.")),
        count if count > 1 && !all => Err(ToolError::told(format!(
            "old_string is in the file {count} times. Give more of what is around it, or set replace_all."
        ))),
        count => Ok((text.replace(old, new), count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str, old: &str, new: &str) -> String {
        edit(text, old, new, false).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_there_once_is_replaced_and_more_only_when_told() {
        assert_eq!(edit("a b c", "b", "x$1", false).expect("edited"), ("a x$1 c".into(), 1));
        assert_eq!(edit("a b b", "b", "", true).expect("edited"), ("a  ".into(), 2));
        assert!(problem("a b b", "b", "x").contains("2 times"));
    }

    #[test]
    fn what_is_not_there_is_told() {
        assert!(problem("a b c", "d", "x").contains("not in the file"));
        assert!(problem("a b c", "", "x").contains("empty"));
        assert!(problem("a b c", "a", "a").contains("the same"));
    }
}
