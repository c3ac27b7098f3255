//! The configuration file, checked as a whole: all problems are told at once.

use crate::web::Policy;
use baal_protocol::AgentConfig;
use serde_json::{Map, Value};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The configuration has {} problem(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| writeln!(f, "- {problem}"))
    }
}

/// Reads and checks a file.
///
/// # Errors
/// All problems of the file, its permissions included; none of them quotes a value that may be secret.
pub fn load(path: &Path) -> Result<AgentConfig, Problems> {
    let one = |problem: String| Problems(vec![problem]);
    let text = std::fs::read_to_string(path)
        .map_err(|e| one(format!("{} cannot be read: {e}; give an existing file to --config", path.display())))?;
    let parsed = parse(&text);
    let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777);
    match mode {
        Ok(mode) if mode & 0o077 != 0 => {
            let mut problems = parsed.err().map(|p| p.0).unwrap_or_default();
            problems.push(format!(
                "{} holds keys but has mode {mode:04o}; run: chmod 600 {}",
                path.display(),
                path.display()
            ));
            Err(Problems(problems))
        }
        Ok(_) => parsed,
        Err(e) => Err(one(format!("{} cannot be examined: {e}", path.display()))),
    }
}

enum Kind {
    Text,
    Number {
        min: u64,
        max: u64,
    },
    Flag,
    /// A list of strings.
    Texts,
}

impl Kind {
    fn fits(&self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Number { min, max } => value.as_u64().is_some_and(|n| (*min..=*max).contains(&n)),
            Kind::Flag => value.is_boolean(),
            Kind::Texts => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
        }
    }

    fn expected(&self) -> String {
        match self {
            Kind::Text => "a string".into(),
            Kind::Number { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Flag => "true or false".into(),
            Kind::Texts => "a list of strings".into(),
        }
    }
}

/// Name, type and, for a field that must be there, an example.
const FIELDS: [(&str, Kind, Option<&str>); 26] = [
    ("agent_name", Kind::Text, Some("\"Ada\"")),
    ("system_prompt", Kind::Text, Some("\"You are a helpful assistant.\"")),
    ("model", Kind::Text, Some("\"qwen3-coder-next\"")),
    ("libertai_api_key", Kind::Text, Some("the key of the inference service")),
    ("libertai_api_base_url", Kind::Text, Some("\"https://api.libertai.io/v1\"")),
    ("agent_secret", Kind::Text, Some("a random string of 32 characters")),
    ("port", Kind::Number { min: 0, max: 65_535 }, Some("8080")),
    ("db_path", Kind::Text, Some("\"/var/lib/baal-agent/agent.db\"")),
    ("workspace_path", Kind::Text, Some("\"/var/lib/baal-tools/workspace\"")),
    ("owner_chat_id", Kind::Text, None),
    ("max_history", Kind::Number { min: 1, max: 10_000 }, None),
    ("max_tool_iterations", Kind::Number { min: 1, max: 1_000 }, None),
    ("max_context_tokens", Kind::Number { min: 0, max: 10_000_000 }, None),
    ("generation_reserve", Kind::Number { min: 256, max: 1_000_000 }, None),
    ("compaction_keep_messages", Kind::Number { min: 1, max: 10_000 }, None),
    ("model_sees_images", Kind::Flag, None),
    ("heartbeat_interval", Kind::Number { min: 0, max: 7 * 24 * 3600 }, None),
    ("background_tokens_per_day", Kind::Number { min: 0, max: 1_000_000_000_000 }, None),
    ("visitor_tools", Kind::Texts, None),
    ("brave_api_key", Kind::Text, None),
    ("brave_api_url", Kind::Text, None),
    ("web_allow", Kind::Texts, None),
    ("tools_socket", Kind::Text, None),
    ("guest_tools_socket", Kind::Text, None),
    ("bash_without_walls", Kind::Flag, None),
    ("model_idle_timeout_seconds", Kind::Number { min: 1, max: 3_600 }, None),
];

/// Checks the text of a configuration.
///
/// # Errors
/// All its problems.
pub fn parse(text: &str) -> Result<AgentConfig, Problems> {
    let fields: Map<String, Value> = serde_json::from_str(text)
        .map_err(|e| Problems(vec![format!("it is not a JSON object: line {}, column {}", e.line(), e.column())]))?;
    let mut problems = Vec::new();
    for (name, kind, example) in &FIELDS {
        match fields.get(*name) {
            None => {
                if let Some(example) = example {
                    problems.push(format!("{name} is missing, for example: {example}"));
                }
            }
            Some(value) if kind.fits(value) => {}
            Some(_) => problems.push(format!("{name} must be {}", kind.expected())),
        }
    }
    for name in fields.keys().filter(|name| FIELDS.iter().all(|(known, ..)| known != name)) {
        problems.push(format!("{name:?} is no field of the configuration; remove it"));
    }
    check_values(&fields, &mut problems);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    // Cannot fail after the checks above; if it does, without the value that serde would quote.
    serde_json::from_value(Value::Object(fields))
        .map_err(|_| Problems(vec!["it does not fit this version of the agent".into()]))
}

fn check_values(fields: &Map<String, Value>, problems: &mut Vec<String>) {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    if let Some(name) = text("agent_name")
        && (name.trim().is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control))
    {
        problems.push("agent_name must be 1 to 64 characters on one line".into());
    }
    for name in ["model", "db_path", "workspace_path", "tools_socket", "guest_tools_socket"] {
        if text(name).is_some_and(|value| value.trim().is_empty() || value.contains('\0')) {
            problems.push(format!("{name} must not be empty"));
        }
    }
    for (one, other) in [("tools_socket", "guest_tools_socket"), ("guest_tools_socket", "tools_socket")] {
        if fields.contains_key(one) && !fields.contains_key(other) {
            problems.push(format!(
                "{other} is missing beside {one}: the owner's tools and the visitors' are different users"
            ));
        }
    }
    // What doesn't fit a header would fail at the first request only.
    for name in ["libertai_api_key", "agent_secret", "brave_api_key"] {
        if text(name).is_some_and(|value| value.is_empty() || !value.chars().all(|c| c.is_ascii_graphic())) {
            problems.push(format!("{name} must be one word of visible ASCII characters, not empty"));
        }
    }
    check_web_allow(fields, problems);
    for (name, example) in
        [("libertai_api_base_url", "https://api.libertai.io/v1"), ("brave_api_url", "https://api.search.brave.com")]
    {
        if text(name).is_some_and(|url| !is_base_url(url)) {
            problems
                .push(format!("{name} must be an http or https URL without user and query, for example: {example}"));
        }
    }
}

fn check_web_allow(fields: &Map<String, Value>, problems: &mut Vec<String>) {
    let entries = fields.get("web_allow").and_then(Value::as_array).into_iter().flatten();
    let entries: Vec<&str> = entries.filter_map(Value::as_str).collect();
    if let Err(wrong) = Policy::parse(&entries) {
        problems.extend(wrong.into_iter().map(|problem| format!("web_allow: {problem}")));
    }
}

fn is_base_url(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({"agent_name": "Ada", "system_prompt": "", "model": "m", "libertai_api_key": "k",
            "libertai_api_base_url": "http://127.0.0.1:1/v1", "agent_secret": "s", "port": 0,
            "db_path": "/tmp/a.db", "workspace_path": "/tmp/w"})
    }

    #[test]
    fn a_good_configuration_has_its_defaults() {
        let config = parse(&good().to_string()).expect("good");
        assert_eq!((config.max_history, config.model_idle_timeout_seconds), (100, 120));
    }

    #[test]
    fn all_problems_are_told_at_once_and_no_secret_is_quoted() {
        let mut bad = good();
        bad["agent_name"] = json!("two\nlines");
        bad["libertai_api_key"] = json!("s3cret with spaces");
        bad["libertai_api_base_url"] = json!("ftp://user:s3cret@x");
        bad["port"] = json!(70_000);
        bad["typo"] = json!(1);
        bad["web_allow"] = json!(["10.0.0.0/8", "10.0.0.0/99"]);
        bad.as_object_mut().expect("object").remove("model");
        let problems = parse(&bad.to_string()).expect_err("bad");
        assert_eq!(problems.0.len(), 7, "{problems}");
        assert!(!problems.to_string().contains("s3cret"));
    }

    #[test]
    fn the_tools_sockets_come_in_pairs() {
        let mut config = good();
        config["tools_socket"] = json!("/run/baal-tools.sock");
        assert_eq!(parse(&config.to_string()).expect_err("bad").0.len(), 1);
        config["guest_tools_socket"] = json!("/run/baal-guests.sock");
        assert!(parse(&config.to_string()).is_ok());
    }

    #[test]
    fn no_object_is_one_problem() {
        assert_eq!(parse("[]").expect_err("bad").0.len(), 1);
        assert_eq!(parse("{").expect_err("bad").0.len(), 1);
    }
}
