//! Gathers the calls of tools from the pieces of a streamed answer.
//!
//! OpenAI sends an index with every piece, the id and the name with the first one, and the arguments as pieces of text.
//! Compatible servers leave out the index or the id, number every call 0, repeat the name, or send the arguments at once and
//! as an object; all of that is understood.

use super::{ModelError, ToolCall};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::HashSet;
use tracing::warn;
use uuid::Uuid;

/// Calls of one answer; more are left out.
const MAX_CALLS: usize = 32;
/// Bytes of the arguments of all calls of an answer.
const MAX_ARGUMENTS: usize = 512 * 1024;
/// Longest name of a tool that services accept.
const MAX_NAME: usize = 64;
/// Longest id that is kept.
const MAX_ID: usize = 128;

/// A piece of a call.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Piece {
    index: Option<Value>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Option<String>,
    arguments: Option<Value>,
}

/// The calls so far.
#[derive(Default)]
pub(super) struct Calls {
    begun: Vec<Begun>,
    bytes: usize,
}

#[derive(Default)]
struct Begun {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// # Errors
    /// [`ModelError::TooLong`].
    pub(super) fn take(&mut self, piece: Piece) -> Result<(), ModelError> {
        let index = piece.index.as_ref().and_then(Value::as_u64);
        let id = piece.id.unwrap_or_default();
        let Function { name, arguments } = piece.function.unwrap_or_default();
        let name = name.unwrap_or_default();
        let at = self.place(index, &id, &name);
        let at = match at {
            Some(at) => at,
            // A piece of nothing.
            None if id.is_empty() && name.is_empty() && arguments.as_ref().is_none_or(is_nothing) => return Ok(()),
            None => {
                self.begun.push(Begun { index, ..Begun::default() });
                self.begun.len() - 1
            }
        };
        let Some(call) = self.begun.get_mut(at) else {
            return Ok(());
        };
        if call.id.is_empty() {
            call.id = id;
        }
        if name.starts_with(&call.name) {
            call.name = name;
        } else if !name.is_empty() && call.name != name && call.arguments.is_empty() {
            call.name += &name;
        }
        let before = call.arguments.len();
        match arguments {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => call.arguments += &text,
            Some(whole) => call.arguments = whole.to_string(),
        }
        self.bytes = self.bytes + call.arguments.len() - before.min(call.arguments.len());
        // Names and ids have no other bound, and a call that is left out is kept until the end.
        let names: usize = call.name.len() + call.id.len();
        if self.bytes > MAX_ARGUMENTS || names > MAX_ARGUMENTS || self.begun.len() > 16 * MAX_CALLS {
            return Err(ModelError::TooLong);
        }
        Ok(())
    }

    /// The call that a piece belongs to; `None` for one that begins.
    fn place(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let known = |call: &Begun| id.is_empty() || call.id.is_empty() || call.id == id;
        if let Some(index) = index {
            let at = self.begun.iter().rposition(|call| call.index == Some(index))?;
            // Every call numbered 0, told apart by their ids.
            return known(&self.begun[at]).then_some(at);
        }
        if !id.is_empty() {
            return self.begun.iter().rposition(|call| call.id == id);
        }
        let last = self.begun.last()?;
        let goes_on = name.is_empty() || (name == last.name && !is_whole(&last.arguments));
        goes_on.then(|| self.begun.len() - 1)
    }

    /// The calls of an answer that is whole, each with an id of its own and a name that services accept.
    pub(super) fn finish(self) -> Vec<ToolCall> {
        if self.begun.len() > MAX_CALLS {
            warn!(calls = self.begun.len(), kept = MAX_CALLS, "the model called too many tools at once");
        }
        let mut ids = HashSet::new();
        self.begun
            .into_iter()
            .take(MAX_CALLS)
            .map(|call| {
                let mut id = call.id;
                if id.is_empty() || id.len() > MAX_ID || !ids.insert(id.clone()) {
                    id = format!("call_{}", Uuid::new_v4().simple());
                }
                ToolCall { id, name: acceptable(&call.name), arguments: call.arguments }
            })
            .collect()
    }
}

fn is_nothing(arguments: &Value) -> bool {
    arguments.is_null() || arguments.as_str() == Some("")
}

fn is_whole(arguments: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}

fn acceptable(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = name.trim().chars().map(|c| if fits(c) { c } else { '_' }).take(MAX_NAME).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn gathered(pieces: Value) -> Vec<ToolCall> {
        let mut calls = Calls::default();
        for piece in serde_json::from_value::<Vec<Piece>>(pieces).expect("pieces") {
            calls.take(piece).expect("short");
        }
        calls.finish()
    }

    fn short(calls: &[ToolCall]) -> Vec<(&str, &str)> {
        calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect()
    }

    #[test]
    fn pieces_with_index_are_put_together() {
        let calls = gathered(json!([
            {"index": 0, "id": "a", "type": "function", "function": {"name": "bash", "arguments": ""}},
            {"index": 1, "id": "b", "type": "function", "function": {"name": "list_dir", "arguments": "{"}},
            {"index": 0, "function": {"arguments": "{\"command\":"}},
            {"index": 1, "function": {"arguments": "}"}},
            {"index": 0, "id": null, "function": {"name": null, "arguments": "\"ls\"}"}},
        ]));
        assert_eq!(short(&calls), [("bash", r#"{"command":"ls"}"#), ("list_dir", "{}")]);
        assert_eq!((calls[0].id.as_str(), calls[1].id.as_str()), ("a", "b"));
    }

    #[test]
    fn what_is_missing_is_made_up_and_unique() {
        let calls = gathered(json!([
            {"function": {"name": "bash", "arguments": "{\"a\":"}},
            {"function": {"name": "bash", "arguments": "1}"}},
            {"function": {"name": "bash", "arguments": {"a": 2}}},
            {"function": {"arguments": null}},
            {"id": "x", "function": {"name": "bash", "arguments": "{}"}},
            {"id": "y", "function": {"name": "bash", "arguments": "{"}},
            {"id": "y", "function": {"name": "bash", "arguments": "}"}},
        ]));
        let wanted = [("bash", r#"{"a":1}"#), ("bash", r#"{"a":2}"#), ("bash", "{}"), ("bash", "{}")];
        assert_eq!(short(&calls), wanted);
        let ids: HashSet<&str> = calls.iter().map(|call| call.id.as_str()).collect();
        assert!(ids.len() == 4 && !ids.contains(""));
    }

    #[test]
    fn calls_that_are_all_numbered_0_are_told_apart_by_their_ids() {
        let calls = gathered(json!([
            {"index": 0, "id": "a", "function": {"name": "bash", "arguments": "{\"a\":1}"}},
            {"index": 0, "id": "b", "function": {"name": "bash", "arguments": "{\"a\""}},
            {"index": 0, "function": {"arguments": ":2}"}},
        ]));
        assert_eq!(short(&calls), [("bash", r#"{"a":1}"#), ("bash", r#"{"a":2}"#)]);
    }

    #[test]
    fn names_come_whole_repeated_growing_or_in_pieces_and_fit_in_the_end() {
        for names in [["bash", "bash"], ["ba", "sh"], ["ba", "bash"], ["bash", ""]] {
            let pieces: Vec<Value> = names.iter().map(|name| json!({"index": 0, "function": {"name": name}})).collect();
            assert_eq!(gathered(json!(pieces))[0].name, "bash", "{names:?}");
        }
        let odd = gathered(json!([{"index": 0, "id": "a", "function": {"name": "run it!"}}, {"index": 1, "id": "a"}]));
        assert_eq!((odd[0].name.as_str(), odd[1].name.as_str()), ("run_it_", "unnamed"));
        assert_ne!(odd[0].id, odd[1].id);
    }

    #[test]
    fn calls_have_bounds() {
        let many: Vec<Value> =
            (0..40).map(|n| json!({"index": n, "function": {"name": "bash", "arguments": "{}"}})).collect();
        assert_eq!(gathered(json!(many)).len(), MAX_CALLS);
        let mut calls = Calls::default();
        let mut endless = (0..600).map(|_| {
            let piece = json!({"index": 0, "function": {"name": "bash", "arguments": "x".repeat(1024)}});
            calls.take(serde_json::from_value(piece).expect("a piece"))
        });
        assert!(endless.any(|taken| taken == Err(ModelError::TooLong)));
    }
}
