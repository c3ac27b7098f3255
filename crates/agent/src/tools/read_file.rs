//! `read_file`: a file of the workspace with line numbers.

use super::workspace::{open, told};
use super::{Access, Call, Output, Tool, ToolError, arguments};
use crate::workspace::skills;
use baal_launcher::client::CallError;
use baal_launcher::wire::Failure;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write;

/// Bytes of a file that are read.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Lines where the model doesn't say how many.
const DEFAULT_LINES: usize = 2000;
/// Characters of one line.
const MAX_LINE: usize = 2000;
/// Characters of all lines together.
const MAX_TEXT: usize = 50_000;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "read_file",
    description: "Reads a text file of the workspace. Every line comes with its number. At most 2,000 lines or 50,000 \
        characters at once; use offset and limit for the rest.",
    parameters: || {
        json!({"type": "object", "required": ["path"], "properties": {
            "path": {"type": "string", "description": "Relative to the workspace"},
            "offset": {"type": "integer", "minimum": 1, "description": "The first line, counted from 1"},
            "limit": {"type": "integer", "minimum": 1, "description": "How many lines"}}})
    },
    reads_only: true,
    access: Access::Everyone,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    path: String,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { path, offset, limit } = arguments(given)?;
        let file = match open(&call).await?.read(&path, MAX_BYTES).await {
            Ok(file) => file,
            Err(CallError::Failed(Failure::NotFound(why))) => {
                // Part of the program, and told of in every prompt as if it lay there.
                let text = skills::shipped(&path).ok_or_else(|| ToolError::told(why))?;
                return Ok(Output::text(numbered(text, offset.unwrap_or(1).max(1), limit.unwrap_or(DEFAULT_LINES))?));
            }
            Err(e) => return Err(told(e)),
        };
        if file.bytes.iter().take(8192).any(|byte| *byte == 0) {
            return Err(ToolError::told(format!("{path} is no text: it has {} bytes, some of them zero.", file.size)));
        }
        let text = String::from_utf8_lossy(&file.bytes);
        let mut shown = numbered(&text, offset.unwrap_or(1).max(1), limit.unwrap_or(DEFAULT_LINES))?;
        if file.truncated {
            // silent-ok: writing to a String cannot fail
            let _ = write!(shown, "\n[Only the first {MAX_BYTES} of {} bytes were read.]", file.size);
        }
        Ok(Output::text(shown))
    })
}

/// Lines from `offset` on, as many as fit, and what is left.
fn numbered(text: &str, offset: usize, limit: usize) -> Result<String, ToolError> {
    if text.is_empty() {
        return Ok("[The file is empty.]".to_owned());
    }
    let total = text.lines().count();
    if offset > total {
        return Err(ToolError::told(format!("The file has only {total} lines.")));
    }
    let mut shown = String::new();
    let mut characters = 0;
    let mut last = offset - 1;
    for line in text.lines().skip(offset - 1).take(limit.max(1)) {
        let cut = line.char_indices().nth(MAX_LINE).map(|(at, _)| at);
        let before = shown.len();
        // silent-ok: writing to a String cannot fail
        let _ = write!(shown, "{:>6}\t{}", last + 1, &line[..cut.unwrap_or(line.len())]);
        shown += if cut.is_some() { " [… the line goes on]\n" } else { "\n" };
        characters += shown[before..].chars().count();
        if characters > MAX_TEXT && last >= offset {
            shown.truncate(before);
            break;
        }
        last += 1;
    }
    if last < total || offset > 1 {
        // silent-ok: writing to a String cannot fail
        let _ = write!(shown, "[Lines {offset} to {last} of {total}.]");
    } else {
        shown.truncate(shown.trim_end_matches('\n').len());
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_what_is_left_is_told() {
        assert_eq!(numbered("a\nb\n", 1, 10).expect("lines"), "     1\ta\n     2\tb");
        assert_eq!(numbered("a\r\nb\nc", 2, 1).expect("lines"), "     2\tb\n[Lines 2 to 2 of 3.]");
        assert_eq!(numbered("", 1, 1).expect("lines"), "[The file is empty.]");
        assert!(numbered("a\nb", 3, 1).expect_err("too far").to_string().contains("only 2 lines"));
    }

    #[test]
    fn long_lines_and_long_files_are_cut() {
        let shown = numbered(&"ä".repeat(3000), 1, 10).expect("lines");
        assert!(shown.ends_with("[… the line goes on]") && shown.matches('ä').count() == MAX_LINE);
        let shown = numbered(&"0123456789\n".repeat(5000), 1, 5000).expect("lines");
        assert!(shown.chars().count() < MAX_TEXT + 100 && shown.ends_with("of 5000.]"), "{}", shown.len());
    }
}
