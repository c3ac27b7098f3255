//! What tools an agent uses, as one compact line. Pure.

use serde_json::Value;

use crate::telegram::markdown::{ENTITY_LIMIT, Entity, EntityKind, Formatted, MESSAGE_LIMIT, utf16_len};
use crate::telegram::texts::{excerpt, turns_around};

/// The longest line about a running tool, in characters.
const LONGEST: usize = 80;

/// The longest name of a tool that is shown, in characters.
const LONGEST_NAME: usize = 30;

/// How many tools a summary names.
const MOST: usize = 8;

/// The arguments that say most of a call, the most telling first.
const TELLING: [&str; 9] = ["command", "path", "url", "query", "task", "name", "text", "content", "prompt"];

/// The tool calls of a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    running: Option<String>,
    /// By name, in the order of first use, with how often.
    used: Vec<(String, usize)>,
}

impl Tools {
    /// A call begins. `input`: its arguments as a JSON string.
    pub fn begin(&mut self, name: &str, input: &str) {
        let name = one_line(name, LONGEST_NAME);
        self.running = Some(line(&name, input));
        if let Some((_, times)) = self.used.iter_mut().find(|(known, _)| *known == name) {
            *times += 1;
        } else if self.used.len() < MOST {
            self.used.push((name, 1));
        }
    }

    /// The agent speaks again.
    pub fn pause(&mut self) {
        self.running = None;
    }

    /// The line about what runs now.
    pub fn running(&self) -> Option<&str> {
        self.running.as_deref()
    }

    /// Whether no tool was used.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// One line about all of them, such as `🔧 bash ×2, read_file`.
    pub fn summary(&self) -> Option<String> {
        let one = |(name, times): &(String, usize)| match times {
            1 => name.clone(),
            _ => format!("{name} ×{times}"),
        };
        (!self.is_empty()).then(|| format!("🔧 {}", self.used.iter().map(one).collect::<Vec<_>>().join(", ")))
    }
}

fn line(name: &str, input: &str) -> String {
    let arguments = serde_json::from_str(input).unwrap_or(Value::Null);
    let text = |key: &str| arguments.get(key)?.as_str().filter(|text| !text.trim().is_empty());
    let any = || arguments.as_object()?.values().find_map(Value::as_str);
    match TELLING.iter().find_map(|key| text(key)).or_else(any) {
        Some(text) => one_line(&format!("🔧 {name}: {}", excerpt(text, 4 * LONGEST)), LONGEST),
        None => format!("🔧 {name}"),
    }
}

/// A text as one line of so many characters at most, without what would change how the rest is shown.
fn one_line(text: &str, characters: usize) -> String {
    let shown: String =
        text.chars().filter(|c| !turns_around(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() > characters { excerpt(&words, characters - 1) } else { words }
}

/// Puts a line in italics under a text, if there is room.
pub fn put_below(text: &mut Formatted, line: &str) -> bool {
    let gap = if text.text.is_empty() { "" } else { "\n\n" };
    let (offset, length) = (utf16_len(&text.text) + gap.len(), utf16_len(line));
    if offset + length > MESSAGE_LIMIT {
        return false;
    }
    text.text.push_str(gap);
    text.text.push_str(line);
    if text.entities.len() < ENTITY_LIMIT {
        text.entities.push(Entity { kind: EntityKind::Italic, offset, length, url: None, language: None });
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(name: &str, input: &str) -> String {
        let mut tools = Tools::default();
        tools.begin(name, input);
        tools.running().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_call_is_one_short_line() {
        assert_eq!(running("bash", r#"{"timeout": 3, "command": "ls\n  -la"}"#), "🔧 bash: ls -la");
        assert_eq!(running("read_file", r#"{"path": "notes/a.md"}"#), "🔧 read_file: notes/a.md");
        assert_eq!(running("odd", r#"{"whatever": "a *b* `c`"}"#), "🔧 odd: a *b* `c`");
        for input in ["", "{", "[]", "{}", "null", r#"{"n": 1}"#] {
            assert_eq!(running("list_dir", input), "🔧 list_dir", "{input}");
        }
        assert_eq!(running("x\u{202e}y", "{\"path\": \"a\\u202eb\\u0007c\"}"), "🔧 xy: ab c");
        let long = running(&"n".repeat(500), &format!(r#"{{"command": "{}"}}"#, "é".repeat(100_000)));
        assert_eq!(long.chars().count(), LONGEST);
    }

    #[test]
    fn the_summary_counts_by_name() {
        let mut tools = Tools::default();
        assert_eq!(tools.summary(), None);
        for name in ["bash", "read_file", "bash"] {
            tools.begin(name, "{}");
        }
        tools.pause();
        assert_eq!((tools.running(), tools.summary().as_deref()), (None, Some("🔧 bash ×2, read_file")));
        for n in 0..100 {
            tools.begin(&format!("tool{n}"), "{}");
        }
        assert!(tools.summary().is_some_and(|summary| summary.chars().count() < 300));
    }

    #[test]
    fn a_line_below_a_text_stays_within_the_limits() {
        let mut text = Formatted { text: "🙂".into(), entities: vec![] };
        assert!(put_below(&mut text, "🔧 bash"));
        assert_eq!(text.text, "🙂\n\n🔧 bash");
        assert_eq!((text.entities[0].offset, text.entities[0].length), (4, 7));
        let mut full = Formatted { text: "x".repeat(MESSAGE_LIMIT - 5), entities: vec![] };
        assert!(!put_below(&mut full, "🔧 bash") && full.entities.is_empty());
        let mut alone = Formatted::default();
        assert!(put_below(&mut alone, "🔧 bash") && alone.text == "🔧 bash");
    }
}
