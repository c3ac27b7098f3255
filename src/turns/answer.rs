//! The answer as it grows: events in, Markdown out. Pure.

use baal_protocol::EventKind;

use crate::telegram::texts::excerpt;

/// The longest answer that is relayed, in bytes; an agent that goes on is cut off.
const MAX_ANSWER: usize = 200_000;

/// The longest error that is shown, in characters.
const MAX_ERROR: usize = 1_000;

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
    /// Whether the agent would have gone on.
    pub cut_off: bool,
}

impl Answer {
    /// Takes an event in.
    pub fn add(&mut self, event: EventKind) {
        match event {
            EventKind::Text { content } => {
                self.length -= self.partial.len();
                self.partial.clear();
                let content = self.within_budget(content);
                if !content.trim().is_empty() {
                    self.texts.push(content);
                }
            }
            EventKind::Delta { content } => {
                let content = self.within_budget(content);
                self.partial.push_str(&content);
            }
            EventKind::Error { content } => self.error = Some(excerpt(&content, MAX_ERROR)),
            EventKind::Usage { prompt_tokens, completion_tokens, cost } => {
                self.prompt_tokens = Some(prompt_tokens);
                self.completion_tokens = Some(completion_tokens);
                self.cost = cost;
            }
            EventKind::Done { .. } => self.done = true,
            // Tools and files are shown once agents have them.
            EventKind::ToolUse { .. }
            | EventKind::ToolOutput { .. }
            | EventKind::Steered { .. }
            | EventKind::File { .. }
            | EventKind::Keepalive
            | EventKind::Unknown => {}
        }
    }

    /// Takes as much of a text as still fits.
    fn within_budget(&mut self, mut content: String) -> String {
        let room = MAX_ANSWER - self.length;
        if content.len() > room {
            content.truncate(content.floor_char_boundary(room));
            self.error = Some("The answer grew too long and was cut off.".into());
            self.cut_off = true;
            self.done = true;
        }
        self.length += content.len();
        content
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
        assert_eq!(answer.markdown().len(), MAX_ANSWER);
        assert!(answer.error.is_some() && answer.cut_off);
        let mut answer = Answer::default();
        answer.add(text(&"é".repeat(MAX_ANSWER)));
        assert_eq!(answer.markdown().len(), MAX_ANSWER);
        assert!(answer.cut_off);
    }
}
