//! Text and its entities: what Telegram accepts, trims and finds by itself.
//!
//! Offsets and lengths count UTF-16 code units (<https://core.telegram.org/api/entities>).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::refusal::Refusal;

/// Entities a message may have.
pub(crate) const MAX_ENTITIES: usize = 100;

/// `MessageEntity` of the Bot API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entity {
    #[serde(rename = "type")]
    pub kind: String,
    pub offset: i64,
    pub length: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_emoji_id: Option<String>,
}

impl Entity {
    pub fn new(kind: &str, offset: usize, length: usize) -> Self {
        Self {
            kind: kind.to_owned(),
            offset: offset as i64,
            length: length as i64,
            url: None,
            user: None,
            language: None,
            custom_emoji_id: None,
        }
    }

    fn end(&self) -> i64 {
        self.offset.saturating_add(self.length)
    }

    fn is_code(&self) -> bool {
        matches!(self.kind.as_str(), "code" | "pre")
    }

    fn is_quote(&self) -> bool {
        matches!(self.kind.as_str(), "blockquote" | "expandable_blockquote")
    }
}

/// A text as Telegram keeps it: cleaned, trimmed, with the entities that it finds by itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Formatted {
    pub text: String,
    pub entities: Vec<Entity>,
}

const GIVEN: &[&str] = &[
    "bold",
    "italic",
    "underline",
    "strikethrough",
    "spoiler",
    "blockquote",
    "expandable_blockquote",
    "code",
    "pre",
    "text_link",
    "text_mention",
    "custom_emoji",
    "date_time",
];
/// Kinds that Telegram finds itself; given by a bot they mean nothing.
const FOUND: &[&str] = &[
    "mention",
    "hashtag",
    "cashtag",
    "bot_command",
    "url",
    "email",
    "phone_number",
    "bank_card_number",
    "media_timestamp",
];

impl Formatted {
    /// Checks `entities` against `text`, then cleans and trims both and adds what Telegram finds by itself.
    pub fn checked(text: &str, entities: Vec<Entity>) -> Result<Self, Refusal> {
        let units: Vec<u16> = text.encode_utf16().collect();
        let mut given = Vec::with_capacity(entities.len());
        if entities.len() > MAX_ENTITIES {
            return Err(Refusal::wrong("ENTITIES_TOO_LONG"));
        }
        for entity in entities {
            if FOUND.contains(&entity.kind.as_str()) {
                continue;
            }
            check_one(&units, &entity)?;
            given.push(entity);
        }
        given.sort_by_key(|entity| (entity.offset, -entity.length));
        check_nesting(&given)?;
        Ok(trimmed(units, given))
    }

    /// The text's length in UTF-16 units.
    pub fn len(&self) -> usize {
        self.text.encode_utf16().count()
    }
}

fn check_one(units: &[u16], entity: &Entity) -> Result<(), Refusal> {
    if !GIVEN.contains(&entity.kind.as_str()) {
        return Err(Refusal::wrong("can't parse MessageEntity: unsupported entity type specified"));
    }
    let splits_pair = |at: i64| {
        usize::try_from(at)
            .ok()
            .filter(|&at| at > 0 && at < units.len())
            .is_some_and(|at| (0xD800..0xDC00).contains(&units[at - 1]) && (0xDC00..0xE000).contains(&units[at]))
    };
    if entity.offset < 0 || entity.length <= 0 || entity.end() > units.len() as i64 {
        return Err(Refusal::wrong("ENTITY_BOUNDS_INVALID"));
    }
    if splits_pair(entity.offset) || splits_pair(entity.end()) {
        return Err(Refusal::wrong("ENTITY_BOUNDS_INVALID: an entity begins or ends inside a surrogate pair"));
    }
    match entity.kind.as_str() {
        "text_link" if entity.url.as_deref().unwrap_or("").is_empty() => {
            Err(Refusal::wrong("can't parse MessageEntity: Can't find field \"url\""))
        }
        "text_mention" if entity.user.is_none() => {
            Err(Refusal::wrong("can't parse MessageEntity: Can't find field \"user\""))
        }
        _ => Ok(()),
    }
}

/// `entities` sorted by offset, the longer first.
fn check_nesting(entities: &[Entity]) -> Result<(), Refusal> {
    let mut open: Vec<&Entity> = Vec::new();
    for entity in entities {
        open.retain(|outer| outer.end() > entity.offset);
        let refuse = |what: &str| {
            Err(Refusal::wrong(format!(
                "can't parse entities: {what} at UTF-16 offset {} ({})",
                entity.offset, entity.kind
            )))
        };
        if open.iter().any(|outer| outer.end() < entity.end()) {
            return refuse("entities cross");
        }
        if open.iter().any(|outer| outer.is_code() || entity.is_code()) {
            return refuse("code and pre can't be nested with other entities");
        }
        if entity.is_quote() && open.iter().any(|outer| outer.is_quote()) {
            return refuse("blockquotes can't be nested");
        }
        open.push(entity);
    }
    Ok(())
}

fn is_space(unit: u16) -> bool {
    char::from_u32(u32::from(unit))
        .is_some_and(|c| c.is_whitespace() || matches!(c, '\u{200b}' | '\u{feff}' | '\u{200e}'))
}

/// Control characters become spaces, carriage returns go, white space at both ends goes, entities follow
/// (tdlib's `clean_input_string` and `fix_formatted_text`).
fn trimmed(mut units: Vec<u16>, mut entities: Vec<Entity>) -> Formatted {
    for unit in &mut units {
        if *unit < 32 && *unit != 10 && *unit != 13 {
            *unit = 32;
        }
    }
    let kept = |unit: u16| unit != 13;
    let first = units.iter().position(|&unit| kept(unit) && !is_space(unit)).unwrap_or(units.len());
    let last = units.iter().rposition(|&unit| kept(unit) && !is_space(unit)).map_or(first, |at| at + 1);
    let mut moved = Vec::with_capacity(units.len() + 1);
    let mut result = Vec::with_capacity(units.len());
    for (at, &unit) in units.iter().enumerate() {
        moved.push(result.len());
        if at >= first && at < last && kept(unit) {
            result.push(unit);
        }
    }
    moved.push(result.len());
    for entity in &mut entities {
        let from = moved[entity.offset as usize];
        let to = moved[entity.end() as usize];
        entity.offset = from as i64;
        entity.length = (to - from) as i64;
    }
    entities.retain(|entity| entity.length > 0);
    let text = String::from_utf16_lossy(&result);
    let found = find(&text, &entities);
    entities.extend(found);
    entities.sort_by_key(|entity| (entity.offset, -entity.length));
    Formatted { text, entities }
}

/// The links, commands and mentions of `text` outside of code and links.
pub(crate) fn find(text: &str, given: &[Entity]) -> Vec<Entity> {
    let mut found = Vec::new();
    let mut offset = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        let trimmed = word.trim_start_matches(['(', '[', '"', '\'', '«']);
        let lead = utf16(&word[..word.len() - trimmed.len()]);
        if let Some((kind, length)) = classify(trimmed.trim_end()) {
            let entity = Entity::new(kind, offset + lead, length);
            let taken = given.iter().any(|other| {
                let overlaps = other.offset < entity.end() && entity.offset < other.end();
                overlaps && (other.is_code() || matches!(other.kind.as_str(), "text_link" | "text_mention"))
            });
            if !taken {
                found.push(entity);
            }
        }
        offset += utf16(word);
    }
    found
}

fn classify(word: &str) -> Option<(&'static str, usize)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some(rest) = word.strip_prefix('/') {
        let command = rest.find(|c| !is_name(c)).map_or(rest, |end| &rest[..end]);
        if command.is_empty() || command.len() > 32 || rest[command.len()..].starts_with('/') {
            return None;
        }
        let after = &rest[command.len()..];
        let bot = after.strip_prefix('@').map_or(0, |bot| 1 + bot.find(|c| !is_name(c)).unwrap_or(bot.len()));
        return Some(("bot_command", 1 + command.len() + if bot > 1 { bot } else { 0 }));
    }
    if let Some(rest) = word.strip_prefix('@') {
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        return (3..=32).contains(&length).then_some(("mention", 1 + length));
    }
    let lower = word.to_ascii_lowercase();
    if lower.starts_with("https://") || lower.starts_with("http://") || lower.starts_with("t.me/") {
        let url = word.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '"', '\'', '»']);
        let host = url.split_once("//").map_or(url, |(_, rest)| rest);
        return (!host.is_empty()).then(|| ("url", utf16(url)));
    }
    None
}

/// The length of `text` in UTF-16 units.
pub(crate) fn utf16(text: &str) -> usize {
    text.encode_utf16().count()
}
