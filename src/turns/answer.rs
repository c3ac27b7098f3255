//! The answer as it grows: events in, Markdown out. Pure.

use baal_protocol::EventKind;

use super::status::Tools;
use crate::storable;
use crate::telegram::texts::{self, excerpt};

/// The longest answer that is relayed, in bytes; an agent that goes on is cut off.
pub(super) const MAX_ANSWER: usize = 200_000;

/// The longest error that is shown, in characters.
const MAX_ERROR: usize = 1_000;

/// How many files of one answer are passed on.
const MAX_FILES: usize = 20;

/// The longest path of a file, in bytes.
const MAX_PATH: usize = 1_000;

/// The longest text under a file, in characters: two messages.
const MAX_CAPTION: usize = 8_000;

/// A file that the agent hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedOver {
    /// As `GET /files/{path}` knows it.
    pub path: String,
    /// Markdown.
    pub caption: String,
}

/// What has come of an answer so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    texts: Vec<String>,
    partial: String,
    length: usize,
    /// What tools were used.
    pub tools: Tools,
    /// In order.
    pub files: Vec<HandedOver>,
    /// How many more there were than are passed on.
    pub files_left_out: usize,
    /// What went wrong, in the agent's words: for the chat alone, since they may hold what was said there.
    pub error: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<i64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<i64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// Whether the agent has something to say unasked.
    pub pending: bool,
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
                    self.tools.pause();
                    self.texts.push(content);
                }
            }
            EventKind::Delta { content } => {
                let content = self.within_budget(content);
                if !content.trim().is_empty() {
                    self.tools.pause();
                }
                self.partial.push_str(&content);
            }
            EventKind::Error { content } => self.error = Some(excerpt(&content, MAX_ERROR)),
            EventKind::Usage { prompt_tokens, completion_tokens, cost } => {
                self.prompt_tokens = Some(prompt_tokens);
                self.completion_tokens = Some(completion_tokens);
                self.cost = cost;
            }
            EventKind::Done { pending } => {
                self.pending = pending.is_some_and(|messages| messages > 0);
                self.done = true;
            }
            EventKind::ToolUse { name, input } => self.tools.begin(&name, &input),
            EventKind::File { path, caption } if self.files.len() < MAX_FILES && path.len() <= MAX_PATH => {
                let caption = excerpt(&caption.unwrap_or_default(), MAX_CAPTION);
                self.files.push(HandedOver { path: storable::text(&path), caption });
            }
            EventKind::File { .. } => self.files_left_out += 1,
            EventKind::ToolOutput { .. } | EventKind::Steered { .. } | EventKind::Keepalive | EventKind::Unknown => {}
        }
    }

    /// Takes as much of a text as still fits.
    fn within_budget(&mut self, mut content: String) -> String {
        let room = MAX_ANSWER - self.length;
        if content.len() > room {
            content.truncate(content.floor_char_boundary(room));
            self.error = Some(texts::ANSWER_TOO_LONG.into());
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

    /// Whether there are no words yet.
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
    fn tools_are_told_of_until_words_come_and_files_are_kept_in_order() {
        let mut answer = Answer::default();
        answer.add(EventKind::ToolUse { name: "bash".into(), input: r#"{"command":"ls"}"#.into() });
        assert_eq!((answer.tools.running(), answer.is_empty()), (Some("🔧 bash: ls"), true));
        answer.add(delta(" \n"));
        assert!(answer.tools.running().is_some(), "white space is no word");
        answer.add(delta("Well"));
        assert_eq!((answer.tools.running(), answer.tools.summary().as_deref()), (None, Some("🔧 bash")));
        for n in 0..=MAX_FILES {
            answer.add(EventKind::File { path: format!("out/{n}"), caption: None });
        }
        answer.add(EventKind::File { path: "x".repeat(MAX_PATH + 1), caption: None });
        assert_eq!((answer.files.len(), answer.files_left_out, &*answer.files[0].path), (MAX_FILES, 2, "out/0"));
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
