//! Words in the place of a file that cannot be had.

use serde_json::{Map, Value, json};

use crate::telegram::markdown::{Entity, Formatted, utf16_len};
use crate::telegram::text::entities;

/// The parameters of a `sendMessage` that says `words` where a file was to be sent with these; a caption stands below.
pub fn words_instead(payload: &str, words: Formatted) -> String {
    let mut fields: Map<String, Value> = serde_json::from_str(payload).unwrap_or_default();
    let mut text = words;
    let caption = fields.remove("caption").and_then(|caption| caption.as_str().map(str::to_owned));
    let below: Vec<Entity> =
        fields.remove("caption_entities").and_then(|given| serde_json::from_value(given).ok()).unwrap_or_default();
    if let Some(caption) = caption.filter(|caption| !caption.is_empty()) {
        text.text.push_str("\n\n");
        let offset = utf16_len(&text.text);
        text.text.push_str(&caption);
        text.entities.extend(below.into_iter().map(|entity| Entity { offset: entity.offset + offset, ..entity }));
    }
    for file in ["photo", "document", "show_caption_above_media", "has_spoiler", "disable_content_type_detection"] {
        fields.remove(file);
    }
    fields.insert("entities".into(), json!(entities(&text)));
    fields.insert("text".into(), text.text.into());
    fields.insert("link_preview_options".into(), json!({"is_disabled": true}));
    Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telegram::text::Text;

    #[test]
    fn the_caption_stands_below_the_words() {
        let payload = json!({"chat_id": 5, "message_thread_id": 7, "photo": "x", "caption": "a cat",
            "caption_entities": [{"type": "italic", "offset": 2, "length": 3}]});
        let instead = words_instead(&payload.to_string(), Text::plain("📎 No ").then_bold("file").done());
        let instead: Value = serde_json::from_str(&instead).expect("json");
        assert_eq!(
            instead,
            json!({"chat_id": 5, "message_thread_id": 7, "text": "📎 No file\n\na cat",
                "link_preview_options": {"is_disabled": true},
                "entities": [{"type": "bold", "offset": 6, "length": 4}, {"type": "italic", "offset": 14, "length": 3}]})
        );
    }
}
