//! What a Python agent kept of one chat, as a model may read it. Pure.
//!
//! A service refuses a result without its call, a call without its result, and anything said between the two. The Python agent
//! wrote whatever came, also of two turns at once and of turns that a restart cut off. So each call gets the first result behind
//! it that names it, moved right behind the calls, or is said to have been cut off; results that nobody asked for are left out.

use crate::model::ToolCall;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};

/// How a summary of its begins, which it kept as a user's message with an assistant's behind it.
const SUMMARY: &str = "[Earlier conversation summary]";
/// For a call of which no result was kept.
const CUT_OFF: &str = "[The agent: nobody knows what this brought, since it was cut off.]";
/// Stands for calls that cannot be read.
const UNREADABLE: &str = "[The agent: tools were called here; what they were called with can no longer be read.]";
/// Characters of a tool's name.
const MAX_NAME: usize = 64;

/// A row of its `messages`.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Any text.
    pub role: String,
    /// What was said.
    pub content: Option<String>,
    /// Of an assistant: `[{"id", "type", "function": {"name", "arguments"}}]`, if all is well.
    pub tool_calls: Option<String>,
    /// Of a tool.
    pub tool_call_id: Option<String>,
    /// Seconds since 1970.
    pub at: Option<i64>,
}

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A person.
    User,
    /// The model.
    Assistant,
    /// A tool.
    Tool,
}

impl Role {
    /// The word in our database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// A message for our history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Who.
    pub role: Role,
    /// What; none of words only where there are calls.
    pub content: String,
    /// Of an assistant.
    pub calls: Vec<ToolCall>,
    /// Of a tool: the call that it answers.
    pub call_id: Option<String>,
    /// Seconds since 1970.
    pub at: Option<i64>,
    /// It stands for a result that was never kept.
    pub is_made_up: bool,
}

impl Said {
    fn words(role: Role, content: String, at: Option<i64>) -> Self {
        Self { role, content, calls: Vec::new(), call_id: None, at, is_made_up: false }
    }
}

/// The messages of one chat, oldest first, each call with its one result right behind it.
pub fn history(lines: Vec<Line>) -> Vec<Said> {
    // Places of results by the call that they name, each to be had once.
    let mut results: HashMap<String, VecDeque<usize>> = HashMap::new();
    for (place, line) in lines.iter().enumerate() {
        if line.role == "tool" {
            results.entry(line.tool_call_id.clone().unwrap_or_default()).or_default().push_back(place);
        }
    }
    let mut said = Vec::with_capacity(lines.len());
    for (place, line) in lines.iter().enumerate() {
        let content = line.content.clone().unwrap_or_default();
        match line.role.as_str() {
            "user" if !content.trim().is_empty() => said.push(Said::words(Role::User, content, line.at)),
            "assistant" => {
                let asked = line.tool_calls.as_deref().filter(|json| !matches!(json.trim(), "" | "null" | "[]"));
                let Some((calls, named)) = asked.map_or(Some((vec![], vec![])), calls) else {
                    let words = if content.trim().is_empty() {
                        UNREADABLE.into()
                    } else {
                        format!("{content}\n\n{UNREADABLE}")
                    };
                    said.push(Said::words(Role::Assistant, words, line.at));
                    continue;
                };
                if calls.is_empty() && content.trim().is_empty() {
                    continue;
                }
                let ids: Vec<String> = calls.iter().map(|call| call.id.clone()).collect();
                said.push(Said { calls, ..Said::words(Role::Assistant, content, line.at) });
                for (id, name) in ids.into_iter().zip(named) {
                    said.push(result(
                        id,
                        first_behind(&mut results, &name, place).and_then(|at| lines.get(at)),
                        line.at,
                    ));
                }
            }
            _ => {}
        }
    }
    said
}

/// The first result behind this place that names the call, taken.
fn first_behind(results: &mut HashMap<String, VecDeque<usize>>, name: &str, place: usize) -> Option<usize> {
    let places = results.get_mut(name)?;
    while places.front().is_some_and(|at| *at < place) {
        places.pop_front();
    }
    places.pop_front()
}

fn result(call_id: String, line: Option<&Line>, at: Option<i64>) -> Said {
    let content = match line {
        Some(line) => line.content.clone().unwrap_or_default(),
        None => CUT_OFF.to_owned(),
    };
    let at = line.and_then(|line| line.at).or(at);
    Said { call_id: Some(call_id), is_made_up: line.is_none(), ..Said::words(Role::Tool, content, at) }
}

/// The calls, each with an id that is its own in this message, and the ids by which their results name them. None if it is no
/// list of calls.
fn calls(json: &str) -> Option<(Vec<ToolCall>, Vec<String>)> {
    // silent-ok: the model is told that they cannot be read
    let Value::Array(listed) = serde_json::from_str(json).ok()? else { return None };
    let (mut calls, mut named) = (Vec::<ToolCall>::new(), Vec::new());
    for (place, call) in listed.iter().enumerate() {
        let function = call.get("function")?;
        let name = usable(function.get("name")?.as_str()?)?;
        let arguments = match function.get("arguments") {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => "{}".into(),
            Some(other) => other.to_string(),
        };
        let theirs = call.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_own = !theirs.is_empty() && calls.iter().all(|call| call.id != theirs);
        let id = if is_own { theirs.clone() } else { format!("python-{place}-{theirs}") };
        calls.push(ToolCall { id, name, arguments });
        named.push(theirs);
    }
    Some((calls, named))
}

/// A tool's name as services take it.
fn usable(name: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let name: String = name.chars().take(MAX_NAME).map(plain).collect();
    (!name.is_empty()).then_some(name)
}

/// The summary that a history begins with: its two first messages stand for what was said before them.
pub fn summary(said: &[Said]) -> Option<&str> {
    let [first, second, ..] = said else { return None };
    let is_pair = first.role == Role::User && second.role == Role::Assistant && second.calls.is_empty();
    let words = first.content.strip_prefix(SUMMARY).filter(|_| is_pair)?.trim();
    (!words.is_empty()).then_some(words)
}
