//! Finds `||spoilers||`, which CommonMark doesn't know.

use std::collections::HashMap;
use std::ops::Range;

use pulldown_cmark::{Event, Tag, TagEnd};

/// What a `||` in the text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Open,
    Close,
}

/// The marks that pair up, by their byte offset in the source. Both marks of a pair are in the same element, so that a
/// spoiler never crosses another entity.
pub(super) fn find(source: &str, events: &[(Event<'_>, Range<usize>)]) -> HashMap<usize, Mark> {
    let mut marks = HashMap::new();
    // The unpaired opening mark of each element that is open, innermost last.
    let mut elements: Vec<Option<usize>> = vec![None];
    let mut literal = 0usize;
    for (event, range) in events {
        match event {
            Event::Start(tag) => {
                literal += usize::from(matches!(tag, Tag::CodeBlock(_) | Tag::Table(_)));
                elements.push(None);
            }
            Event::End(tag) => {
                literal -= usize::from(matches!(tag, TagEnd::CodeBlock | TagEnd::Table));
                elements.pop();
            }
            // A text that differs from its source was a character reference: not markup.
            Event::Text(text) if literal == 0 && source.get(range.clone()) == Some(&**text) => {
                let Some(element) = elements.last_mut() else { continue };
                for (position, _) in text.match_indices("||") {
                    let at = range.start + position;
                    if position == 0 && source[..at].ends_with('\\') {
                        continue;
                    }
                    let before = source[..at].chars().next_back().filter(|&c| c != '\n');
                    let after = source[at + 2..].chars().next().filter(|&c| c != '\n');
                    match *element {
                        Some(open) if at > open + 2 && closes(before, after) => {
                            marks.insert(open, Mark::Open);
                            marks.insert(at, Mark::Close);
                            *element = None;
                        }
                        None if opens(before, after) => *element = Some(at),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    marks
}

/// `a || b` and `a||b` are code or logic, not the start of a spoiler.
fn opens(before: Option<char>, after: Option<char>) -> bool {
    after.is_some_and(|c| !c.is_whitespace()) && !before.is_some_and(char::is_alphanumeric)
}

fn closes(before: Option<char>, after: Option<char>) -> bool {
    opens(after, before)
}
