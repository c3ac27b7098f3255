//! `reply_markup`: what Telegram accepts as a keyboard.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// Checks a markup and gives it back as Telegram keeps it; `None` for an inline keyboard without buttons.
pub(crate) fn checked(markup: Value) -> Result<Option<Value>, Refusal> {
    let Value::Object(fields) = &markup else {
        return Err(Refusal::wrong("object expected as reply markup"));
    };
    if let Some(rows) = fields.get("inline_keyboard") {
        let rows = rows.as_array().ok_or_else(|| parse_error("Field \"inline_keyboard\" must be of type Array"))?;
        let mut kept = Vec::new();
        let mut count = 0;
        for row in rows {
            let row =
                row.as_array().ok_or_else(|| parse_error("Field \"inline_keyboard\" must be an Array of Arrays"))?;
            for button in row {
                check_button(button)?;
                count += 1;
            }
            if !row.is_empty() {
                kept.push(Value::Array(row.clone()));
            }
        }
        if count > 100 {
            return Err(Refusal::wrong("reply markup is too long"));
        }
        return Ok((!kept.is_empty()).then(|| Value::Object(Map::from_iter([("inline_keyboard".into(), kept.into())]))));
    }
    let known = ["keyboard", "remove_keyboard", "force_reply"];
    if known.iter().any(|name| fields.contains_key(*name)) || fields.is_empty() {
        return Ok((!fields.is_empty()).then_some(markup));
    }
    Err(Refusal::wrong("can't parse reply keyboard markup JSON object"))
}

fn parse_error(reason: &str) -> Refusal {
    Refusal::wrong(format!("can't parse inline keyboard button: {reason}"))
}

fn check_button(button: &Value) -> Result<(), Refusal> {
    let Value::Object(fields) = button else {
        return Err(parse_error("InlineKeyboardButton must be an Object"));
    };
    let Some(Value::String(text)) = fields.get("text") else {
        return Err(parse_error("Field \"text\" must be of type String"));
    };
    if text.trim().is_empty() {
        return Err(Refusal::wrong("BUTTON_TEXT_INVALID: inline keyboard button text must be non-empty"));
    }
    if let Some(data) = fields.get("callback_data") {
        let data = data.as_str().ok_or_else(|| parse_error("Field \"callback_data\" must be of type String"))?;
        return if (1..=64).contains(&data.len()) { Ok(()) } else { Err(Refusal::wrong("BUTTON_DATA_INVALID")) };
    }
    if let Some(url) = fields.get("url") {
        let url = url.as_str().ok_or_else(|| parse_error("Field \"url\" must be of type String"))?;
        let lower = url.to_ascii_lowercase();
        let known = ["http://", "https://", "tg://"].iter().any(|scheme| lower.starts_with(scheme));
        let bare = !lower.contains("://") && lower.contains('.');
        return if (known || bare) && !url.contains(char::is_whitespace) {
            Ok(())
        } else {
            Err(Refusal::wrong(format!("inline keyboard button URL '{url}' is invalid: Wrong HTTP URL")))
        };
    }
    let others =
        ["web_app", "login_url", "switch_inline_query", "switch_inline_query_current_chat", "copy_text", "pay"];
    if others.iter().any(|name| fields.contains_key(*name)) {
        return Ok(());
    }
    Err(parse_error("Text buttons are unallowed in the inline keyboard"))
}

/// Whether `markup` has a callback button with `data`.
pub(crate) fn has_callback(markup: &Value, data: &str) -> bool {
    markup["inline_keyboard"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten()
        .any(|button| button["callback_data"].as_str() == Some(data))
}
