//! The beginning and the end of what is too long to be read.

use std::collections::VecDeque;

/// The text, or its beginning and its end with a note between them, in some `max` characters.
pub fn head_and_tail(text: &str, max: usize) -> String {
    let Some(count) = longer_than(text, max) else {
        return text.to_owned();
    };
    let tail = max / 2;
    let head_end = text.char_indices().nth(max - tail).map_or(text.len(), |(at, _)| at);
    let tail_start = text.char_indices().rev().nth(tail.saturating_sub(1)).map_or(0, |(at, _)| at);
    let left_out = count - max;
    format!("{}\n\n[… {left_out} characters left out …]\n\n{}", &text[..head_end], &text[tail_start..])
}

/// How many characters the text has, where they are more than `max`.
fn longer_than(text: &str, max: usize) -> Option<usize> {
    if text.len() <= max {
        return None;
    }
    let count = text.chars().count();
    (count > max).then_some(count)
}

/// Bytes that [`Collected`] keeps of the beginning, and as many of the end.
const KEPT: usize = 128 * 1024;

/// The beginning and the end of output that may have none.
#[derive(Default)]
pub(super) struct Collected {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: usize,
}

impl Collected {
    pub(super) fn add(&mut self, mut piece: &[u8]) {
        let room = KEPT - self.head.len();
        if let Some((head, rest)) = piece.split_at_checked(room) {
            self.head.extend_from_slice(head);
            piece = rest;
        } else {
            self.head.extend_from_slice(piece);
            return;
        }
        self.tail.extend(piece);
        let over = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..over);
        self.dropped += over;
    }

    /// In some `max` characters.
    pub(super) fn text(mut self, max: usize) -> String {
        self.tail.make_contiguous();
        let (tail, _) = self.tail.as_slices();
        if self.dropped == 0 {
            self.head.extend_from_slice(tail);
            return head_and_tail(&String::from_utf8_lossy(&self.head), max);
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(tail));
        let head_end = head.char_indices().nth(max / 2).map_or(head.len(), |(at, _)| at);
        let tail_start = tail.char_indices().rev().nth((max / 2).saturating_sub(1)).map_or(0, |(at, _)| at);
        let left_out = self.dropped + head.len() - head_end + tail_start;
        format!("{}\n\n[… some {left_out} bytes left out …]\n\n{}", &head[..head_end], &tail[tail_start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_without_end_keeps_both_its_ends() {
        let mut collected = Collected::default();
        collected.add(b"the beginning ");
        for _ in 0..1000 {
            collected.add(&[b'x'; 1000]);
        }
        collected.add(b" the end");
        let text = collected.text(100);
        assert!(text.starts_with("the beginning xx") && text.ends_with("xx the end"), "{text}");
        assert!(text.chars().count() < 150 && text.contains("some 9999"), "{text}");

        let mut collected = Collected::default();
        collected.add(&[b'x'; KEPT]);
        collected.add(b"y");
        assert_eq!(collected.text(4), "xx\n\n[… 131069 characters left out …]\n\nxy");
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        for text in ["", "abc", "äöü"] {
            assert_eq!(head_and_tail(text, 3), text);
        }
    }

    #[test]
    fn beginning_and_end_stay_whole_characters() {
        assert_eq!(head_and_tail("äbcdefghijklmnöp", 6), "äbc\n\n[… 10 characters left out …]\n\nnöp");
        assert_eq!(head_and_tail(&"€".repeat(1000), 4), "€€\n\n[… 996 characters left out …]\n\n€€");
    }
}
