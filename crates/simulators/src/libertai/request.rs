//! Reads and checks the body of a completion request.
//!
//! Source of the rules: OpenAI's reference of `POST /v1/chat/completions`; above all every tool call wants exactly one
//! result before the conversation goes on, and every result a call.

use serde_json::Value;
use std::collections::HashSet;

/// A request that passed the checks.
#[derive(Debug)]
pub(super) struct Request {
    /// As it came.
    pub body: Value,
    /// Answer as server-sent events.
    pub stream: bool,
    /// A last chunk with the usage.
    pub include_usage: bool,
    /// Model id as asked.
    pub model: String,
    /// The conversation in plain text.
    pub messages: Vec<Message>,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub role: String,
    pub text: String,
}

impl Request {
    /// Text of the newest user message, empty where there is none.
    pub fn last_user_message(&self) -> &str {
        self.messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.text.as_str())
    }
}

/// Parses a body; the error says what the caller did wrong.
pub(super) fn read(body: &[u8]) -> Result<Request, String> {
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    let model = body["model"].as_str().filter(|m| !m.is_empty()).ok_or("model must be a non-empty string")?.to_owned();
    let stream = match &body["stream"] {
        Value::Null => false,
        Value::Bool(stream) => *stream,
        _ => return Err("stream must be a boolean".into()),
    };
    let options = &body["stream_options"];
    if !options.is_null() && !stream {
        return Err("stream_options is only allowed when stream is true".into());
    }
    let include_usage = options["include_usage"].as_bool().unwrap_or(false);
    check_tools(&body["tools"])?;
    let messages = body["messages"].as_array().filter(|m| !m.is_empty()).ok_or("messages must be a non-empty array")?;
    check_tool_results(messages)?;
    let messages = messages.iter().enumerate().map(|(at, m)| message(at, m)).collect::<Result<Vec<_>, String>>()?;
    Ok(Request { stream, include_usage, model, messages, body })
}

fn message(at: usize, message: &Value) -> Result<Message, String> {
    let role = message["role"].as_str().ok_or_else(|| format!("messages[{at}].role must be a string"))?;
    if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
        return Err(format!("messages[{at}].role is {role:?}, which is no role"));
    }
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        Value::Null if role == "assistant" && message["tool_calls"].is_array() => String::new(),
        _ => return Err(format!("messages[{at}].content must be a string or an array of parts")),
    };
    if role == "user" && text.is_empty() && !message["content"].is_array() {
        return Err(format!("messages[{at}].content of a user must not be empty"));
    }
    Ok(Message { role: role.to_owned(), text })
}

fn check_tools(tools: &Value) -> Result<(), String> {
    if tools.is_null() {
        return Ok(());
    }
    for (at, tool) in tools.as_array().ok_or("tools must be an array")?.iter().enumerate() {
        let name = tool["function"]["name"].as_str().unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if tool["type"] != "function" || name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(format!("tools[{at}] must be a function with a name of 1 to 64 letters, digits, _ or -"));
        }
    }
    Ok(())
}

/// Every call is answered before anything else is said, every result belongs to a call of the message before.
fn check_tool_results(messages: &[Value]) -> Result<(), String> {
    let mut open: HashSet<&str> = HashSet::new();
    for (at, message) in messages.iter().enumerate() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or_default();
            if !open.remove(id) {
                return Err(format!("messages[{at}] is the result of tool call {id:?}, which nobody made"));
            }
            continue;
        }
        if let Some(id) = open.iter().next() {
            return Err(format!("messages[{at}]: tool call {id:?} before it has no result"));
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let id = call["id"].as_str().filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| format!("messages[{at}] has a tool call without id"))?;
            let arguments = call["function"]["arguments"].as_str();
            if call["function"]["name"].as_str().is_none() || arguments.is_none() {
                return Err(format!("messages[{at}]: tool call {id:?} needs function.name and function.arguments"));
            }
            if !open.insert(id) {
                return Err(format!("messages[{at}] has two tool calls {id:?}"));
            }
        }
    }
    match open.iter().next() {
        Some(id) => Err(format!("tool call {id:?} has no result")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problem(body: Value) -> String {
        read(body.to_string().as_bytes()).expect_err("should be refused")
    }

    #[test]
    fn a_plain_request_is_read() {
        let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
        let request = read(body.to_string().as_bytes()).expect("fine");
        assert!(request.stream && request.include_usage);
        assert_eq!(request.last_user_message(), "hi");
    }

    #[test]
    fn what_a_service_refuses_is_refused() {
        let user = json!({"role": "user", "content": "hi"});
        assert!(problem(json!({"messages": [user]})).contains("model"));
        assert!(problem(json!({"model": "m", "messages": []})).contains("messages"));
        assert!(problem(json!({"model": "m", "messages": [{"role": "bot", "content": "x"}]})).contains("role"));
        assert!(problem(json!({"model": "m", "messages": [user], "stream_options": {}})).contains("stream_options"));
    }

    #[test]
    fn tool_calls_and_results_must_pair() {
        let call = json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]});
        let result = json!({"role": "tool", "tool_call_id": "a", "content": "ok"});
        let user = json!({"role": "user", "content": "hi"});
        let with = |messages: Value| json!({"model": "m", "messages": messages});
        assert!(read(with(json!([user, call, result])).to_string().as_bytes()).is_ok());
        assert!(problem(with(json!([user, result]))).contains("nobody made"));
        assert!(problem(with(json!([user, call]))).contains("no result"));
        assert!(problem(with(json!([user, call, user]))).contains("no result"));
    }
}
