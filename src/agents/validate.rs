//! What an agent may be made of; pure.

use super::service::ServiceError;
use crate::config::Models;

/// Characters that a name may have.
pub const NAME_CHARACTERS: usize = 64;
/// Characters that a link's name may have.
pub const LABEL_CHARACTERS: usize = 32;
/// Bytes that a personality may have.
pub const PROMPT_BYTES: usize = 16_384;

/// The name without surrounding space: 1 to 64 characters on one line, something to see among them.
pub fn validate_name(name: &str) -> Result<String, ServiceError> {
    let invalid = |message: &str| Err(ServiceError::Invalid { field: "name", message: message.into() });
    let name = name.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
    if name.is_empty() {
        return invalid("The name is empty. Send a name of 1 to 64 characters.");
    }
    if name.chars().any(breaks_line) {
        return invalid("A name is one line of plain text. Send it again without line breaks and control characters.");
    }
    let count = name.chars().count();
    if count > NAME_CHARACTERS {
        return invalid(&format!("That name has {count} characters; send one with at most {NAME_CHARACTERS}."));
    }
    Ok(name.to_owned())
}

/// A name that [`validate_name`] takes, made of whatever there is; `instead` where nothing of it can be seen.
pub fn mend_name(name: &str, instead: &str) -> String {
    let line: String = name.chars().map(|c| if breaks_line(c) { ' ' } else { c }).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.trim_matches(is_invisible).chars().take(NAME_CHARACTERS).collect();
    validate_name(&short).unwrap_or_else(|_| instead.to_owned())
}

/// A personality that [`validate_prompt`] takes: cut where it is too long, `instead` where it is empty.
pub fn mend_prompt(prompt: &str, instead: &str) -> String {
    let prompt = prompt.replace('\0', "");
    let mut end = prompt.len().min(PROMPT_BYTES);
    while !prompt.is_char_boundary(end) {
        end -= 1;
    }
    validate_prompt(&prompt[..end]).unwrap_or_else(|_| instead.to_owned())
}

/// What an owner calls a link: at most 32 characters on one line; nothing is a name as well.
pub fn validate_label(label: &str) -> Result<String, ServiceError> {
    let label = label.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
    match label.chars().count() {
        _ if label.chars().any(breaks_line) => {
            let message = "A link's name is one line of plain text. Send it again without line breaks.".into();
            Err(ServiceError::Invalid { field: "label", message })
        }
        count if count > LABEL_CHARACTERS => {
            let message = format!("That name has {count} characters; send one with at most {LABEL_CHARACTERS}.");
            Err(ServiceError::Invalid { field: "label", message })
        }
        _ => Ok(label.to_owned()),
    }
}

/// Controls, line separators, and what turns the direction of the text around the name.
fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What takes no space on the screen by itself: a name of these alone could be neither seen nor pressed.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{2800}' | '\u{3164}' | '\u{feff}')
}

/// The personality without NULs, which Postgres cannot keep: 1 to 16,384 bytes.
pub fn validate_prompt(prompt: &str) -> Result<String, ServiceError> {
    let invalid = |message: String| Err(ServiceError::Invalid { field: "system_prompt", message });
    let prompt = prompt.replace('\0', "");
    if prompt.trim().is_empty() {
        return invalid("The personality is empty. Say in a sentence or two how the agent should be.".into());
    }
    if prompt.len() > PROMPT_BYTES {
        return invalid(format!(
            "That personality is {} bytes long; please shorten it to at most {PROMPT_BYTES}.",
            prompt.len()
        ));
    }
    Ok(prompt)
}

/// A model's id, if it is one of those offered.
pub fn validate_model(models: &Models, id: &str) -> Result<String, ServiceError> {
    match models.get(id) {
        Some(model) => Ok(model.id.clone()),
        None => {
            let offered: Vec<_> = models.0.iter().map(|model| model.id.as_str()).collect();
            let message = format!("That model is not offered. Choose one of: {}.", offered.join(", "));
            Err(ServiceError::Invalid { field: "model", message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_and_kept_on_one_line() {
        assert_eq!(validate_name("  Ada \u{200b}").expect("valid"), "Ada");
        assert_eq!(validate_name("👩\u{200d}🚀 <b>*_[x](y)</b>").expect("valid"), "👩\u{200d}🚀 <b>*_[x](y)</b>");
        assert_eq!(validate_name(&"é".repeat(64)).expect("valid").chars().count(), 64);
        for bad in ["", " \n ", "\u{200b}\u{feff}", "a\nb", "a\0b", "a\u{202e}b", "a\u{2028}b", &"é".repeat(65)] {
            assert!(matches!(validate_name(bad), Err(ServiceError::Invalid { field: "name", .. })), "{bad:?}");
        }
    }

    #[test]
    fn names_and_personalities_from_elsewhere_are_mended() {
        for (name, mended) in
            [(" Ada\nof\u{202e} Lovelace ", "Ada of Lovelace"), ("\u{200b}\n", "Agent 5"), ("", "Agent 5")]
        {
            assert_eq!(mend_name(name, "Agent 5"), mended);
        }
        assert_eq!(mend_name(&"é".repeat(99), "Agent 5"), "é".repeat(64));
        assert_eq!(mend_prompt("be\0 kind", "You help."), "be kind");
        assert_eq!(mend_prompt(" \n\0", "You help."), "You help.");
        let cut = mend_prompt(&format!("x{}", "é".repeat(PROMPT_BYTES)), "You help.");
        assert_eq!(cut.len(), PROMPT_BYTES - 1);
    }

    #[test]
    fn a_links_name_is_short_and_may_be_none() {
        for (label, kept) in [(" For friends\n", "For friends"), ("\u{200b} ", ""), ("<b>", "<b>")] {
            assert_eq!(validate_label(label).expect("valid"), kept);
        }
        for bad in ["a\nb", "a\u{202e}b", &"é".repeat(33)] {
            assert!(matches!(validate_label(bad), Err(ServiceError::Invalid { field: "label", .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_personality_keeps_everything_but_nul() {
        assert_eq!(validate_prompt("be\0 kind\n\tand `$(rm)`").expect("valid"), "be kind\n\tand `$(rm)`");
        assert!(validate_prompt(&"x".repeat(PROMPT_BYTES)).is_ok());
        for bad in ["", "\0\0", " \n", &"é".repeat(PROMPT_BYTES / 2 + 1)] {
            assert!(matches!(validate_prompt(bad), Err(ServiceError::Invalid { field: "system_prompt", .. })));
        }
    }

    #[test]
    fn only_offered_models_can_be_chosen() {
        let models: Models = r#"[{"id":"m","name":"M"}]"#.parse().expect("models");
        assert_eq!(validate_model(&models, "m").expect("valid"), "m");
        assert!(validate_model(&models, "M").is_err());
    }
}
