//! The beginning and the end of what is too long to be read.

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

#[cfg(test)]
mod tests {
    use super::*;

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
