//! JSON laid out for reading, in one pass over its text: a tree of it was reckoned to take a hundred times its bytes.

use serde::de::IgnoredAny;

/// Indents JSON by two spaces a level and spells `\uXXXX` out, numbers and order untouched, and stops soon after `limit`
/// characters. `None` where it is not JSON.
pub fn pretty(text: &str, limit: usize) -> Option<String> {
    // Neither recursive nor remembering anything. Afterwards the text can be trusted to be well-formed.
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut out = String::new();
    let mut characters = 0;
    let mut depth = 0_usize;
    let mut rest = text;
    // Set after a bracket opened, until it is known not to be empty.
    let mut opened = false;
    while let Some(c) = rest.chars().next() {
        if characters > limit {
            break;
        }
        let before = out.len();
        let length = if c == '"' { string_length(rest) } else { c.len_utf8() };
        let (token, after) = rest.split_at_checked(length)?;
        rest = after;
        if c.is_ascii_whitespace() {
            continue;
        }
        if opened && !matches!(c, '}' | ']') {
            new_line(&mut out, depth);
        }
        match c {
            '{' | '[' => {
                depth += 1;
                out.push(c);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !opened {
                    new_line(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => out.push_str(&spelled_out(token)),
            _ => out.push(c),
        }
        opened = matches!(c, '{' | '[');
        characters += out[before..].chars().count();
    }
    Some(out)
}

/// Deeper levels are not moved further right.
const MAX_INDENT: usize = 32;

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth.min(MAX_INDENT)));
}

/// Bytes of the string literal that `text` begins with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn spelled_out(literal: &str) -> String {
    if !literal.contains("\\u") {
        return literal.to_owned();
    }
    let plain = serde_json::from_str::<String>(literal).and_then(|plain| serde_json::to_string(&plain));
    // A lone surrogate is well-formed JSON but no text; it stays as it was written.
    plain.unwrap_or_else(|_| literal.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_nothing_of_it_changes() {
        let text = r#"{"a":[1,2.50,1e400,123456789012345678901234567890],"b":{},"c":[],"d":"x \"},[ y","e":[{"f":null}], "a":1}"#;
        let pretty = pretty(text, 10_000).expect("JSON");
        assert_eq!(
            pretty,
            "{\n  \"a\": [\n    1,\n    2.50,\n    1e400,\n    123456789012345678901234567890\n  ],\n  \"b\": {},\n  \"c\": \
             [],\n  \"d\": \"x \\\"},[ y\",\n  \"e\": [\n    {\n      \"f\": null\n    }\n  ],\n  \"a\": 1\n}"
        );
    }

    #[test]
    fn escaped_letters_are_spelled_out() {
        assert_eq!(
            pretty(r#"["\u043f\u0440\n\ud83d\ude00","\ud800"]"#, 100).expect("JSON"),
            "[\n  \"пр\\n😀\",\n  \"\\ud800\"\n]"
        );
    }

    #[test]
    fn what_is_not_json_is_left_to_others() {
        for text in ["", "{", "[1,]", "hello", "{\"a\":1} x", "\"open"] {
            assert_eq!(pretty(text, 100), None, "{text}");
        }
    }

    #[test]
    fn hostile_json_takes_no_more_than_what_is_shown() {
        let n = 1_000_000;
        let nested = format!("{}{}", "[".repeat(n), "]".repeat(n));
        let many = format!("[{}0]", "[],".repeat(n));
        for text in [nested, many] {
            if let Some(pretty) = pretty(&text, 50_000) {
                assert!(pretty.chars().count() < 51_000);
            }
        }
    }
}
