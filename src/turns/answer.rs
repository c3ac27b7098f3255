//! The answer as it grows: events in, Markdown out. Pure.

use baal_protocol::EventKind;

/// The longest answer that is relayed, in bytes; an agent that goes on is cut off.
const MAX_ANSWER: usize = 200_000;

/// What has come of an answer so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    texts: Vec<String>,
    partial: String,
    length: usize,
    /// What went wrong, in the agent's words.
    pub error: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<i64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<i64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// Whether the turn is over.
    pub done: bool,
}

impl Answer {
    /// Takes an event in.
    pub fn add(&mut self, event: EventKind) {
        match event {
            EventKind::Text { content } => {
                self.length += content.len().saturating_sub(self.partial.len());
                self.partial.clear();
                if !content.trim().is_empty() {
                    self.texts.push(content);
                }
            }
            EventKind::Delta { content } => {
                self.length += content.len();
                self.partial.push_str(&content);
            }
            EventKind::Error { content } => self.error = Some(content),
            EventKind::Usage { prompt_tokens, completion_tokens, cost } => {
                self.prompt_tokens = Some(prompt_tokens);
                self.completion_tokens = Some(completion_tokens);
                self.cost = cost;
            }
            EventKind::Done { .. } => self.done = true,
            // Tools and files are shown once agents have them.
            EventKind::ToolUse { .. } | EventKind::File { .. } | EventKind::Keepalive | EventKind::Unknown => {}
        }
        if self.length > MAX_ANSWER && !self.done {
            self.error = Some("The answer grew too long and was cut off.".into());
            self.done = true;
        }
    }

    /// The text so far as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.texts.join("\n\n");
        if !self.partial.trim().is_empty() {
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(&self.partial);
        }
        text
    }

    /// Whether there is nothing to show yet.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.partial.trim().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(text: &str) -> EventKind {
        EventKind::Delta { content: text.into() }
    }

    fn text(text: &str) -> EventKind {
        EventKind::Text { content: text.into() }
    }

    #[test]
    fn whole_text_replaces_its_pieces() {
        let mut answer = Answer::default();
        answer.add(delta("Hel"));
        assert_eq!(answer.markdown(), "Hel");
        answer.add(text("Hello."));
        answer.add(delta("And"));
        assert_eq!(answer.markdown(), "Hello.\n\nAnd");
        answer.add(text("And more."));
        answer.add(EventKind::Done { pending: None });
        assert_eq!(answer.markdown(), "Hello.\n\nAnd more.");
        assert!(answer.done);
    }

    #[test]
    fn an_endless_answer_is_cut_off() {
        let mut answer = Answer::default();
        while !answer.done {
            answer.add(delta(&"x".repeat(1000)));
        }
        assert!(answer.markdown().len() < MAX_ANSWER + 2000);
        assert!(answer.error.is_some());
    }
}
