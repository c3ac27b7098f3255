//! Cuts a formatted text into messages.

use unicode_segmentation::UnicodeSegmentation;

use super::{ENTITY_LIMIT, Entity, Formatted, utf16_len};

/// How far behind the limit a grapheme cluster is followed to find its end, in bytes; longer ones are cut between
/// their characters.
const LONGEST_CLUSTER: usize = 256;

/// Cuts a text into parts of at most `limit_utf16` UTF-16 units (at least 2) and [`ENTITY_LIMIT`] entities, preferably
/// between paragraphs, then lines, then words. Every part is trimmed and none is empty; white space between parts is
/// lost. An entity that goes on in the next part ends in one and begins again in the other.
pub fn split(formatted: Formatted, limit_utf16: usize) -> Vec<Formatted> {
    let Formatted { text, mut entities } = formatted;
    // One character can be a surrogate pair.
    let limit = limit_utf16.max(2);
    entities.sort_by_key(|e| (e.offset, std::cmp::Reverse(e.length), e.kind));
    let mut coming = entities.into_iter().peekable();
    // Entities of earlier parts that go on, and those already taken from `coming`.
    let mut known: Vec<Entity> = Vec::new();
    let mut parts = Vec::new();
    let (mut start, mut units) = skip_space(&text, 0, 0);
    while start < text.len() {
        while let Some(entity) = coming.next_if(|e| e.offset < units + limit) {
            known.push(entity);
        }
        known.retain(|e| e.end() > units);
        let room = match known.get(ENTITY_LIMIT) {
            // A part that would hold too many ends where the first surplus one begins.
            Some(surplus) => limit.min(surplus.offset.saturating_sub(units)).max(2),
            None => limit,
        };
        let length = cut(&text[start..], fitting(&text[start..], room));
        let end = start + length;
        let part = clip(&text[start..end], units, &known);
        if !is_blank(&part.text) {
            parts.push(part);
        }
        (start, units) = skip_space(&text, end, units + utf16_len(&text[start..end]));
    }
    parts
}

/// Takes off the white space around a text, as Telegram does on receipt, and moves its entities along.
pub(super) fn trimmed(formatted: Formatted) -> Formatted {
    clip(&formatted.text, 0, &formatted.entities)
}

/// The trimmed text with what of the entities lies in it; `offset` is where the text begins, in the entities' UTF-16
/// units.
fn clip(text: &str, offset: usize, entities: &[Entity]) -> Formatted {
    let text_from_start = text.trim_start();
    let start = offset + utf16_len(&text[..text.len() - text_from_start.len()]);
    let text = text_from_start.trim_end();
    let end = start + utf16_len(text);
    let entities = entities
        .iter()
        .filter_map(|entity| {
            let from = entity.offset.max(start);
            let to = entity.end().min(end);
            (from < to).then(|| Entity { offset: from - start, length: to - from, ..entity.clone() })
        })
        .collect();
    Formatted { text: text.to_owned(), entities }
}

/// The byte and UTF-16 offset of the first character at or behind `start` that isn't white space.
fn skip_space(text: &str, start: usize, units: usize) -> (usize, usize) {
    let rest = text[start..].trim_start();
    let next = text.len() - rest.len();
    (next, units + utf16_len(&text[start..next]))
}

/// The length in bytes of the longest beginning of at most `units` UTF-16 units.
fn fitting(text: &str, units: usize) -> usize {
    let mut taken = 0;
    text.char_indices()
        .find(|(_, c)| {
            taken += c.len_utf16();
            taken > units
        })
        .map_or(text.len(), |(index, _)| index)
}

/// Where to cut a text that doesn't begin with white space, in bytes: as near to `window` as a good place allows.
fn cut(text: &str, window: usize) -> usize {
    if window == text.len() {
        return window;
    }
    let bytes = text.as_bytes();
    // A cut at the very end of the window is good if white space follows, so look one character further.
    let paragraph = bytes[..text.len().min(window + 2)].windows(2).rposition(|pair| pair == b"\n\n");
    let line = bytes[..window + 1].iter().rposition(|&byte| byte == b'\n');
    let behind = window + text[window..].chars().next().map_or(0, char::len_utf8);
    let space = text[..behind].char_indices().rev().find(|(_, c)| c.is_whitespace()).map(|(index, _)| index);
    // A good place that leaves most of the message empty is not worth it.
    let not_before = |place: Option<usize>, least: usize| place.filter(|&at| at > least);
    not_before(paragraph, window / 2)
        .or_else(|| not_before(line, window / 4))
        .or_else(|| not_before(space, 0))
        .unwrap_or_else(|| cluster_boundary(text, window))
}

/// The last boundary between grapheme clusters in the window, or the window's end.
fn cluster_boundary(text: &str, window: usize) -> usize {
    let mut horizon = text.len().min(window + LONGEST_CLUSTER);
    while !text.is_char_boundary(horizon) {
        horizon -= 1;
    }
    text[..horizon]
        .grapheme_indices(true)
        .map(|(index, _)| index)
        .take_while(|&index| index <= window)
        .last()
        .filter(|&index| index > 0)
        .unwrap_or(window)
}

/// Whether Telegram would call the text empty: it counts characters without ink as white space.
fn is_blank(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{feff}')
            || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fffc}' | '\u{e0000}'..='\u{e0fff}')
    })
}
