//! Assistant Markdown as Telegram shows it: plain text plus message entities.
//!
//! Nothing is sent with a `parse_mode`, so Telegram has nothing to parse and cannot answer "can't parse entities".
//! Offsets and lengths count UTF-16 code units, as in the Bot API's `MessageEntity`
//! (<https://core.telegram.org/bots/api#messageentity>).

mod growing;
mod inline;
mod renderer;
mod split;
mod spoiler;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use pulldown_cmark::{Options, Parser};
use serde::{Deserialize, Serialize};

pub use split::split;

/// The longest text of one message in UTF-16 code units (`sendMessage`, Bot API).
pub const MESSAGE_LIMIT: usize = 4096;

/// The longest caption of a file in UTF-16 code units (`sendPhoto`, `sendDocument`, Bot API).
pub const CAPTION_LIMIT: usize = 1024;

/// The most entities that Telegram keeps in one message; those beyond are dropped by the server.
pub const ENTITY_LIMIT: usize = 100;

/// What assistants use beside CommonMark.
const OPTIONS: Options = Options::ENABLE_TABLES.union(Options::ENABLE_STRIKETHROUGH).union(Options::ENABLE_TASKLISTS);

/// A text and how its parts are to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formatted {
    pub text: String,
    /// Sorted by offset, an outer entity before those inside it.
    pub entities: Vec<Entity>,
}

/// One `MessageEntity` of the Bot API; it serialises as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    #[serde(rename = "type")]
    pub kind: EntityKind,
    /// From the start of the text, in UTF-16 code units.
    pub offset: usize,
    /// In UTF-16 code units.
    pub length: usize,
    /// Where a `text_link` leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The programming language of a `pre`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

impl Entity {
    /// The offset just behind the entity, in UTF-16 code units.
    pub fn end(&self) -> usize {
        self.offset + self.length
    }
}

/// The kinds of entity that Markdown can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    Blockquote,
    TextLink,
    Spoiler,
    Bold,
    Italic,
    Underline,
    Strikethrough,
    Pre,
    Code,
}

/// Renders Markdown of any length and any state: a text cut off in the middle of a stream renders as far as it goes (an
/// open code fence is code), and what isn't valid Markdown stays as the text it is. Takes time linear in the input.
///
/// The result's text is trimmed, because Telegram trims it. It is empty only if the input has nothing to show.
pub fn render(markdown: &str) -> Formatted {
    let markdown = clean(markdown);
    let rendered = parsed(&markdown);
    if rendered.text.is_empty() {
        // An empty fence or heading has no text of its own; its source says more than no message at all.
        return split::trimmed(Formatted { text: markdown, entities: Vec::new() });
    }
    rendered
}

fn parsed(markdown: &str) -> Formatted {
    let parser = Parser::new_ext(markdown, OPTIONS);
    let definitions: Vec<_> =
        parser.reference_definitions().iter().map(|(_, def)| (def.span.clone(), def.dest.to_string())).collect();
    let events: Vec<_> = parser.into_offset_iter().collect();
    renderer::run(markdown, events, definitions)
}

/// Renders Markdown into messages that Telegram accepts: each at most [`MESSAGE_LIMIT`] units and [`ENTITY_LIMIT`]
/// entities, none of them empty. An input with nothing to show gives no message.
pub fn messages(markdown: &str) -> Vec<Formatted> {
    split(render(markdown), MESSAGE_LIMIT)
}

/// [`messages`] of an answer that is still being written: emphasis, code and spoilers that are open are closed, and what
/// may become a mark, a link's address or a row of a table is not shown until it is known what it is. So the text grows
/// at its end and little of what was shown changes. Takes time linear in the input.
pub fn growing(markdown: &str) -> Vec<Formatted> {
    split(parsed(&growing::complete(&clean(markdown))), MESSAGE_LIMIT)
}

/// Renders Markdown into a file's caption. `None` if it is longer than [`CAPTION_LIMIT`] or has more than
/// [`ENTITY_LIMIT`] entities: then it goes as [`messages`] of its own, and the file without a caption. Without anything
/// to show the caption is empty.
pub fn caption(markdown: &str) -> Option<Formatted> {
    let mut parts = split(render(markdown), CAPTION_LIMIT).into_iter();
    let caption = parts.next().unwrap_or_default();
    parts.next().is_none().then_some(caption)
}

/// The length of a text in UTF-16 code units, as Telegram counts it.
pub fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Whether a character may be in a message: control characters other than line feed and tab show as nothing or as
/// boxes, and Postgres refuses NUL.
fn is_allowed(c: char) -> bool {
    !c.is_control() || c == '\n' || c == '\t'
}

fn clean(markdown: &str) -> String {
    let mut clean = String::with_capacity(markdown.len());
    let mut chars = markdown.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\r' {
            if chars.peek() != Some(&'\n') {
                clean.push('\n');
            }
        } else if is_allowed(c) {
            clean.push(c);
        }
    }
    clean
}
