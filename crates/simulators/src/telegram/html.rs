//! `parse_mode: HTML` (<https://core.telegram.org/bots/api#html-style>).

use super::entities::{Entity, utf16};
use super::refusal::Refusal;

struct Open {
    tag: String,
    entity: Entity,
    /// Where its text begins, in bytes of the result.
    from: usize,
}

/// Text and entities of `source`, or Telegram's "can't parse entities".
pub(crate) fn parse(source: &str) -> Result<(String, Vec<Entity>), Refusal> {
    let mut text = String::with_capacity(source.len());
    let mut open: Vec<Open> = Vec::new();
    let mut entities = Vec::new();
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        match c {
            '<' => {
                let end =
                    source[at..].find('>').ok_or_else(|| broken(format!("Unclosed start tag at byte offset {at}")))?;
                let inside = &source[at + 1..at + end];
                match inside.strip_prefix('/') {
                    Some(name) => close(name.trim(), at, &mut open, &mut entities, &text)?,
                    None => open.push(start(inside, at, &text)?),
                }
                at += end + 1;
            }
            '&' => {
                let (decoded, length) = reference(&source[at..]);
                text.push(decoded);
                at += length;
            }
            _ => {
                text.push(c);
                at += c.len_utf8();
            }
        }
    }
    if let Some(last) = open.last() {
        return Err(broken(format!("Can't find end tag corresponding to start tag \"{}\"", last.tag)));
    }
    entities.retain(|entity: &Entity| entity.length > 0);
    Ok((text, merge_code_language(entities)))
}

fn broken(reason: String) -> Refusal {
    Refusal::wrong(format!("can't parse entities: {reason}"))
}

fn start(inside: &str, at: usize, text: &str) -> Result<Open, Refusal> {
    let name_end = inside.find(char::is_whitespace).unwrap_or(inside.len());
    let tag = inside[..name_end].to_ascii_lowercase();
    let attributes = &inside[name_end..];
    let class = attribute(attributes, "class");
    let kind = match tag.as_str() {
        "b" | "strong" => "bold",
        "i" | "em" => "italic",
        "u" | "ins" => "underline",
        "s" | "strike" | "del" => "strikethrough",
        "tg-spoiler" => "spoiler",
        "span" if class.as_deref() == Some("tg-spoiler") => "spoiler",
        "span" => return Err(broken(format!("Tag \"span\" must have class \"tg-spoiler\" at byte offset {at}"))),
        "code" => "code",
        "pre" => "pre",
        "a" => "text_link",
        "blockquote" if attributes.contains("expandable") => "expandable_blockquote",
        "blockquote" => "blockquote",
        _ => return Err(broken(format!("Unsupported start tag \"{tag}\" at byte offset {at}"))),
    };
    let mut entity = Entity::new(kind, utf16(text), 0);
    match kind {
        "text_link" => entity.url = attribute(attributes, "href"),
        "code" => entity.language = class.and_then(|class| class.strip_prefix("language-").map(str::to_owned)),
        _ => {}
    }
    Ok(Open { tag, entity, from: text.len() })
}

fn close(name: &str, at: usize, open: &mut Vec<Open>, entities: &mut Vec<Entity>, text: &str) -> Result<(), Refusal> {
    let Some(Open { tag, mut entity, from }) = open.pop() else {
        return Err(broken(format!("Unexpected end tag at byte offset {at}")));
    };
    if !name.is_empty() && !name.eq_ignore_ascii_case(&tag) {
        return Err(broken(format!(
            "Unmatched end tag at byte offset {at}, expected \"</{tag}>\", found \"</{name}>\""
        )));
    }
    entity.length = utf16(&text[from..]) as i64;
    if entity.kind == "text_link" && entity.url.as_deref().unwrap_or("").is_empty() {
        // Without an address the text of the tag is its address.
        entity.url = Some(text[from..].to_owned());
    }
    entities.push(entity);
    Ok(())
}

/// `<pre><code class="language-x">` is one `pre` with a language; a language on `code` alone means nothing.
fn merge_code_language(entities: Vec<Entity>) -> Vec<Entity> {
    let mut merged: Vec<Entity> = Vec::with_capacity(entities.len());
    for mut entity in entities {
        if entity.kind == "pre"
            && let Some(code) = merged
                .pop_if(|code| code.kind == "code" && code.offset == entity.offset && code.length == entity.length)
        {
            entity.language = code.language;
        }
        merged.push(entity);
    }
    for entity in &mut merged {
        if entity.kind == "code" {
            entity.language = None;
        }
    }
    merged
}

fn attribute(attributes: &str, name: &str) -> Option<String> {
    let mut rest = attributes;
    loop {
        rest = rest.trim_start();
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).filter(|&end| end > 0)?;
        let key = &rest[..end];
        let Some(value) = rest[end..].trim_start().strip_prefix('=') else {
            rest = &rest[end..];
            continue;
        };
        let value = value.trim_start();
        let (content, after) = match value.chars().next()? {
            quote @ ('"' | '\'') => value[1..].split_once(quote)?,
            _ => value.split_once(char::is_whitespace).unwrap_or((value, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(decode(content));
        }
        rest = after;
    }
}

fn decode(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        let (decoded, length) = if c == '&' { reference(&source[at..]) } else { (c, c.len_utf8()) };
        text.push(decoded);
        at += length;
    }
    text
}

/// The character that the reference at the start of `source` names and the bytes it takes; Telegram knows four names and numbers.
fn reference(source: &str) -> (char, usize) {
    for (name, c) in [("&lt;", '<'), ("&gt;", '>'), ("&amp;", '&'), ("&quot;", '"')] {
        if source.starts_with(name) {
            return (c, name.len());
        }
    }
    let number = source.strip_prefix("&#").and_then(|rest| rest.split_once(';')).and_then(|(digits, _)| {
        let code = match digits.strip_prefix('x') {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        };
        Some((char::from_u32(code?)?, 3 + digits.len()))
    });
    number.unwrap_or(('&', 1))
}
