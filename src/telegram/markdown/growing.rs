//! A text that is still being written: what is to become markup is not shown as text meanwhile.
//!
//! Whoever watches an answer grow should not see `**` before a bold word becomes bold, a table's first row between bars,
//! or, worse, the beginning of a spoiler. So what is open at the end is closed, and what may turn out to be a mark waits
//! for the next characters.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag};

use super::{OPTIONS, inline};

/// Changes that a change at the end can bring with it: without its last line a table is a paragraph again.
const ROUNDS: usize = 4;

/// The last block without blocks inside.
enum Leaf {
    Text,
    Fence,
    Table { has_rows: bool },
    Other,
}

/// The text so far as if it were finished.
pub(super) fn complete(markdown: &str) -> String {
    let mut source = markdown;
    for _ in 0..ROUNDS {
        let (leaf, range) = last_leaf(source);
        let text = &source[range.start..];
        match waiting(&leaf, text) {
            Some(length) => source = &source[..range.start + length],
            None if matches!(leaf, Leaf::Text) => {
                let shown = inline::complete(text);
                // A mark that is gone may have been all of a line.
                let line = shown.rfind('\n').map_or(0, |end| end + 1);
                let shown = if is_mark(shown[line..].trim()) { &shown[..line] } else { &shown };
                return format!("{}{shown}", &source[..range.start]);
            }
            None => break,
        }
    }
    source.to_owned()
}

/// The last block, from where it begins to the text's end.
fn last_leaf(source: &str) -> (Leaf, Range<usize>) {
    let line = source.rfind('\n').map_or(0, |end| end + 1);
    let mut last = (Leaf::Other, line..source.len());
    for (event, range) in Parser::new_ext(source, OPTIONS).into_offset_iter() {
        let leaf = match event {
            Event::Start(Tag::Paragraph | Tag::Heading { .. } | Tag::Item) => Leaf::Text,
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => Leaf::Fence,
            Event::Start(Tag::CodeBlock(_) | Tag::HtmlBlock) | Event::Rule => Leaf::Other,
            Event::Start(Tag::Table(_)) => Leaf::Table { has_rows: false },
            Event::Start(Tag::TableRow) => {
                last.0 = Leaf::Table { has_rows: true };
                continue;
            }
            _ => continue,
        };
        last = (leaf, range.start..source.len());
    }
    last
}

/// Where the end of the block begins of which it is not known yet what it is, if it has such an end.
fn waiting(leaf: &Leaf, text: &str) -> Option<usize> {
    let line = text.rfind('\n').map_or(0, |end| end + 1);
    let last = text[line..].trim_start_matches(|c: char| c == '>' || c.is_whitespace()).trim_end();
    // Of text that ends with a line break all lines are known, but a single one with bars.
    let is_open = !text.ends_with('\n');
    match leaf {
        Leaf::Fence => {
            let mark = last.chars().all(|c| matches!(c, '`' | '~'));
            (mark && is_open && !last.is_empty()).then_some(line)
        }
        // Half a row would be laid out anew with each character, and a table without rows is none yet.
        Leaf::Table { has_rows: false } => Some(0),
        Leaf::Table { has_rows: true } => (is_open && line > 0).then_some(line),
        Leaf::Text | Leaf::Other => {
            // The beginning of a quote's next line is one, too.
            if is_open && (is_mark(last) && !last.is_empty() || last.is_empty() && text[line..].contains('>')) {
                return Some(line);
            }
            let whole = text.trim_end();
            let line = whole.rfind('\n').map_or(0, |end| end + 1);
            let last = whole[line..].trim_start_matches(|c: char| c == '>' || c.is_whitespace());
            let is_row = last.starts_with('|') && !last.starts_with("||") && whole.len() + 1 >= text.len();
            (is_row && matches!(leaf, Leaf::Text)).then_some(line)
        }
    }
}

/// Whether a line may become a heading's underline, a rule, a fence, a table or a list's item.
fn is_mark(line: &str) -> bool {
    let marks = line.chars().all(|c| "-*+_=~`#|:.> ".contains(c)) && line.chars().filter(|&c| c == '.').count() <= 1;
    let number = line.trim_end_matches(['.', ')']);
    let is_number = number.len() <= 9 && number.len() + 1 >= line.len() && number.chars().all(|c| c.is_ascii_digit());
    let item = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(['-', '*', '+', '.', ')']);
    let task = item.len() < line.len() && matches!(item.trim(), "[" | "[x" | "[X" | "[]" | "[ ]" | "[x]" | "[X]");
    marks || is_number || task
}
