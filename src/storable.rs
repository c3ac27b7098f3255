//! Words from elsewhere on their way into a `text` column.

/// The longest reason that is stored, in characters.
const REASON: usize = 500;

/// The text without NUL, the one character that Postgres' text cannot hold.
pub fn text(text: &str) -> String {
    text.replace('\0', "")
}

/// An error's words, of any origin and length, as they are stored for operators.
pub fn reason(words: &str) -> String {
    let clean = words.chars().filter(|c| !c.is_control() || *c == '\n');
    clean.take(REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_and_can_be_stored() {
        assert_eq!(reason("a\0b\u{1b}[31m"), "ab[31m");
        assert_eq!(reason(&"é".repeat(9_999)).chars().count(), REASON);
    }
}
