//! Words that a client cut into several messages, because they are too long for one. Pure.

use serde::{Deserialize, Serialize};

use super::markdown::{MESSAGE_LIMIT, utf16_len};
use super::update::Message;

/// UTF-16 units from which on a message may be the first part of something longer: clients like to cut at the end of a word
/// or line, and a command may have stood before the words.
const CUT_FROM: usize = 4_000;
/// Seconds within which the next part comes: clients send them in one go.
const BEHIND: i64 = 5;

/// Where a client may have cut words that are too long for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// When the part before it was sent (Unix time).
    pub at: i64,
    /// Whether that part filled its message, so that the cut may be within a word.
    pub within_word: bool,
}

/// Where a client may have cut these words of a message off: it sends the rest as a second message.
pub fn cut(message: &Message, words: &str) -> Option<Cut> {
    let whole = message.text.as_deref().unwrap_or_default();
    let within_word = utf16_len(whole) >= MESSAGE_LIMIT || words.ends_with(char::is_whitespace);
    is_cut(words).then_some(Cut { at: message.date, within_word })
}

fn is_cut(words: &str) -> bool {
    (CUT_FROM..=MESSAGE_LIMIT).contains(&utf16_len(words))
}

impl Cut {
    /// Whether a message of `date` (Unix time) comes right behind.
    pub fn is_followed(self, date: i64) -> bool {
        date.checked_sub(self.at).is_some_and(|behind| (0..=BEHIND).contains(&behind))
    }

    /// What was cut here, as one.
    pub fn join(self, first: &str, rest: &str) -> String {
        format!("{first}{}{rest}", self.left_out())
    }

    /// What stood where it was cut and is in neither part. A client that cuts at a space or a line's end leaves it out; one
    /// that must cut a word does not.
    pub fn left_out(self) -> &'static str {
        if self.within_word { "" } else { "\n" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_fill_a_message_may_be_cut() {
        let cut = [3_999, 4_000, 4_096, 4_200].map(|length| is_cut(&"é".repeat(length)));
        assert_eq!(cut, [false, true, true, false]);
    }

    #[test]
    fn parts_belong_together_only_if_they_came_together() {
        let cut = Cut { at: 100, within_word: false };
        assert_eq!([99, 100, 105, 106].map(|date| cut.is_followed(date)), [false, true, true, false]);
        // Times that nobody has, in updates that nobody should send.
        assert!(
            !Cut { at: i64::MIN, ..cut }.is_followed(i64::MAX) && !Cut { at: i64::MAX, ..cut }.is_followed(i64::MIN)
        );
    }

    #[test]
    fn a_word_that_was_cut_is_whole_again() {
        assert_eq!(Cut { at: 0, within_word: true }.join("wh", "ole"), "whole");
        assert_eq!(Cut { at: 0, within_word: false }.join("one", "two"), "one\ntwo");
    }
}
