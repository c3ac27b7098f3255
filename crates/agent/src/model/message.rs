//! The messages of a conversation, as they are kept and as the service wants them.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use std::sync::Arc;

/// One message of a conversation. Serialised in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// What the agent is.
    System(String),
    /// What a person said.
    User {
        /// The words.
        text: String,
        /// Images shown beside them, as `data:` URLs; only for models that see.
        images: Vec<Arc<str>>,
    },
    /// What the model said and which tools it called.
    Assistant {
        /// The words, possibly none where there are calls.
        text: String,
        /// Each wants exactly one result before anything else is said.
        calls: Vec<ToolCall>,
    },
    /// What a call brought.
    Tool {
        /// The call's id.
        call_id: String,
        /// For the model.
        text: String,
    },
}

/// A tool as called by the model. Serialised as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Unique within its message.
    pub id: String,
    /// The tool's name: 1 to 64 letters, digits, `_` or `-`, whether or not there is such a tool.
    pub name: String,
    /// As the model wrote them: a JSON object, if all is well.
    pub arguments: String,
}

impl Message {
    /// What the agent is.
    pub fn system(text: String) -> Self {
        Self::System(text)
    }

    /// What a person said.
    pub fn user(text: String) -> Self {
        Self::User { text, images: Vec::new() }
    }

    /// What the model said.
    pub fn assistant(text: String) -> Self {
        Self::Assistant { text, calls: Vec::new() }
    }

    /// What a call brought.
    pub fn tool(call_id: String, text: String) -> Self {
        Self::Tool { call_id, text }
    }

    /// Whether a person said it.
    pub fn is_from_user(&self) -> bool {
        matches!(self, Message::User { .. })
    }

    /// Bytes of its text, calls and images: what a budget counts.
    pub fn bytes(&self) -> usize {
        match self {
            Message::System(text) | Message::Tool { text, .. } => text.len(),
            Message::User { text, images } => text.len() + images.iter().map(|url| url.len()).sum::<usize>(),
            Message::Assistant { text, calls } => {
                text.len() + calls.iter().map(|call| call.name.len() + call.arguments.len()).sum::<usize>()
            }
        }
    }
}

#[derive(Serialize)]
struct Plain<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct WithCalls<'a> {
    role: &'static str,
    // `null` where nothing was said: some servers refuse an empty text beside calls.
    content: Option<&'a str>,
    tool_calls: Vec<Called<'a>>,
}

#[derive(Serialize)]
struct Called<'a> {
    id: &'a str,
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: std::borrow::Cow<'a, str>,
}

#[derive(Serialize)]
struct Result<'a> {
    role: &'static str,
    tool_call_id: &'a str,
    content: &'a str,
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Message::System(text) => Plain { role: "system", content: text }.serialize(serializer),
            Message::User { text, images } if images.is_empty() => {
                Plain { role: "user", content: text }.serialize(serializer)
            }
            Message::User { text, images } => {
                let mut parts = vec![json!({"type": "text", "text": text})];
                parts.extend(images.iter().map(|url| json!({"type": "image_url", "image_url": {"url": &**url}})));
                json!({"role": "user", "content": parts}).serialize(serializer)
            }
            Message::Assistant { text, calls } if calls.is_empty() => {
                Plain { role: "assistant", content: text }.serialize(serializer)
            }
            Message::Assistant { text, calls } => {
                let content = (!text.is_empty()).then_some(text.as_str());
                WithCalls { role: "assistant", content, tool_calls: calls.iter().map(Called::from).collect() }
                    .serialize(serializer)
            }
            Message::Tool { call_id, text } => {
                Result { role: "tool", tool_call_id: call_id, content: text }.serialize(serializer)
            }
        }
    }
}

impl<'a> From<&'a ToolCall> for Called<'a> {
    fn from(call: &'a ToolCall) -> Self {
        // Servers parse the arguments of earlier calls to fill their template, and refuse the whole conversation where one of
        // them is no object; so what the model wrote is shown to it inside of one.
        let is_object =
            call.arguments.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(&call.arguments).is_ok();
        let arguments = if is_object {
            call.arguments.as_str().into()
        } else if call.arguments.trim().is_empty() {
            "{}".into()
        } else {
            json!({"unreadable": call.arguments}).to_string().into()
        };
        Self { id: &call.id, r#type: "function", function: Function { name: &call.name, arguments } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn wire(message: &Message) -> Value {
        serde_json::to_value(message).expect("serialises")
    }

    fn call(arguments: &str) -> ToolCall {
        ToolCall { id: "a".into(), name: "bash".into(), arguments: arguments.into() }
    }

    #[test]
    fn calls_and_results_are_in_the_services_form() {
        let calls = vec![call(r#"{"command":"ls"}"#)];
        let wanted = json!([{"id": "a", "type": "function",
            "function": {"name": "bash", "arguments": "{\"command\":\"ls\"}"}}]);
        let silent = wire(&Message::Assistant { text: String::new(), calls: calls.clone() });
        assert_eq!(silent, json!({"role": "assistant", "content": null, "tool_calls": wanted.clone()}));
        let talking = wire(&Message::Assistant { text: "look".into(), calls });
        assert_eq!(talking, json!({"role": "assistant", "content": "look", "tool_calls": wanted}));
        let result = wire(&Message::tool("a".into(), "x".into()));
        assert_eq!(result, json!({"role": "tool", "tool_call_id": "a", "content": "x"}));
    }

    #[test]
    fn unreadable_arguments_are_shown_inside_an_object() {
        for (written, sent) in [
            ("", "{}"),
            (" ", "{}"),
            (r#" {"a":1}"#, r#" {"a":1}"#),
            (r#"{"a":"#, r#"{"unreadable":"{\"a\":"}"#),
            ("[1]", r#"{"unreadable":"[1]"}"#),
        ] {
            let message = wire(&Message::Assistant { text: String::new(), calls: vec![call(written)] });
            assert_eq!(message["tool_calls"][0]["function"]["arguments"], sent, "{written}");
        }
    }

    #[test]
    fn images_stand_beside_the_words() {
        let message = Message::User { text: "what is it?".into(), images: vec!["data:image/png;base64,AA==".into()] };
        assert_eq!(
            wire(&message),
            json!({"role": "user", "content": [{"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]})
        );
        assert_eq!(wire(&Message::user("hi".into())), json!({"role": "user", "content": "hi"}));
    }
}
