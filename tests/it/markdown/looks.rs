//! Whether a rendered text shows what it is to show.

use baal::telegram::markdown::{ENTITY_LIMIT, Entity, EntityKind, Formatted, MESSAGE_LIMIT, utf16_len};

use super::corpus::{Sample, Shown};

/// What markup is made of.
const MARKS: &str = "*_~`[]|#>\\";

/// Each word is there once, in order, and looks as it should; between the words no markup is left.
pub fn check(sample: &Sample, rendered: &Formatted) -> Result<(), String> {
    let Formatted { text, entities } = rendered;
    let mut rest = text.as_str();
    for shown in &sample.shown {
        let Some(kinds) = &shown.kinds else {
            if !text.contains(&shown.text) {
                return Err(format!("{:?} of a table is lost", shown.text));
            }
            continue;
        };
        let Some(at) = rest.find(&shown.text) else { return Err(format!("{:?} is not in its place", shown.text)) };
        if let Some(mark) = rest[..at].chars().find(|c| MARKS.contains(*c)) {
            return Err(format!("{mark:?} is left before {:?}", shown.text));
        }
        let offset = utf16_len(&text[..text.len() - rest.len() + at]);
        looks(shown, kinds, offset, entities).map_err(|what| format!("{:?} {what}", shown.text))?;
        rest = &rest[at + shown.text.len()..];
    }
    match rest.chars().find(|c| MARKS.contains(*c)) {
        Some(mark) => Err(format!("{mark:?} is left at the end")),
        None => Ok(()),
    }
}

fn looks(shown: &Shown, wanted: &[EntityKind], offset: usize, entities: &[Entity]) -> Result<(), String> {
    let end = offset + utf16_len(&shown.text);
    let around: Vec<_> = entities.iter().filter(|e| e.offset <= offset && end <= e.end()).collect();
    if entities.iter().any(|e| (e.offset > offset && e.offset < end) || (e.end() > offset && e.end() < end)) {
        return Err("is cut by an entity".into());
    }
    let mut kinds: Vec<_> = around.iter().map(|e| e.kind).collect();
    kinds.sort();
    if wanted != kinds {
        return Err(format!("is {kinds:?} and not {wanted:?}"));
    }
    let url = around.iter().find_map(|e| e.url.clone());
    if url != shown.url {
        return Err(format!("leads to {url:?} and not to {:?}", shown.url));
    }
    match around.iter().find(|e| e.kind == EntityKind::Pre) {
        Some(pre) if pre.language != shown.language => {
            Err(format!("is code in {:?} and not in {:?}", pre.language, shown.language))
        }
        Some(pre) if (pre.offset, pre.end()) != (offset, end) => Err("is not the whole of its block".into()),
        _ => Ok(()),
    }
}

/// Each word is somewhere: in the text, or in where a link leads.
pub fn check_words(words: &[String], rendered: &Formatted) -> Result<(), String> {
    let linked = |word: &str| rendered.entities.iter().any(|e| e.url.as_ref().is_some_and(|url| url.contains(word)));
    match words.iter().find(|word| !rendered.text.contains(word.as_str()) && !linked(word)) {
        Some(word) => Err(format!("{word:?} is lost")),
        None => Ok(()),
    }
}

/// Each word that a browser would show of the HTML is there, in order.
pub fn check_html(html: &str, rendered: &Formatted) -> Result<(), String> {
    let mut rest = rendered.text.as_str();
    for word in visible(html).split_whitespace() {
        // Markup inside an image's text, or around an address that is written out, may stand between its letters.
        let pieces =
            if rest.contains(word) { vec![word] } else { word.split(|c: char| !c.is_alphanumeric()).collect() };
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return Err(format!("{word:?} is not in its place")) };
            rest = &rest[at + piece.len()..];
        }
    }
    Ok(())
}

/// The text of HTML and of its images.
fn visible(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        // A comment may hold tags.
        let end = if rest[start..].starts_with("<!--") {
            rest[start..].find("-->").map(|at| at + 2)
        } else {
            rest[start..].find('>')
        };
        let Some(end) = end else { break };
        let tag = &rest[start..start + end];
        if let Some(alt) = tag.strip_prefix("<img").and_then(|tag| tag.split("alt=\"").nth(1)) {
            text.push_str(alt.split('"').next().unwrap_or_default());
        } else if !tag.starts_with("<em")
            && !tag.starts_with("</em")
            && !tag.contains("strong")
            && !tag.contains("code")
        {
            text.push(' ');
        }
        rest = &rest[start + end + 1..];
    }
    text.push_str(rest);
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// Telegram takes it.
pub fn check_message(message: &Formatted) -> Result<(), String> {
    let Formatted { text, entities } = message;
    if text.trim() != text || text.is_empty() || utf16_len(text) > MESSAGE_LIMIT || entities.len() > ENTITY_LIMIT {
        return Err(format!("{} units and {} entities", utf16_len(text), entities.len()));
    }
    let mut boundaries = vec![0];
    for c in text.chars() {
        boundaries.push(boundaries[boundaries.len() - 1] + c.len_utf16());
    }
    for (n, entity) in entities.iter().enumerate() {
        let whole = [entity.offset, entity.end()].iter().all(|at| boundaries.binary_search(at).is_ok());
        let crosses = entities[n + 1..].iter().any(|e| e.offset < entity.end() && entity.end() < e.end());
        if !whole || crosses || entity.length == 0 {
            return Err(format!("{entity:?} crosses another or a character"));
        }
    }
    Ok(())
}

/// Text that is alike however it is laid out.
pub fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '─').collect()
}
