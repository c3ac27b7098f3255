//! What an agent says unasked, as calls. Pure.

use baal_protocol::{Event, EventKind, PendingMessage, PendingSource};

use crate::storable;
use crate::telegram::files;
use crate::telegram::markdown::{self, EntityKind, Formatted, MESSAGE_LIMIT};
use crate::telegram::outbox::Call;
use crate::telegram::text::{Place, send_message};
use crate::telegram::texts;

/// The longest text that nobody asked for, in bytes: about ten messages.
const MAX_TEXT: usize = 40_000;
/// The longest path of a file, in bytes; what has a longer one is text.
const MAX_PATH: usize = 1_000;

/// The calls that bring a message into its chat. `elsewhere` is the agent's name, where the chat talks to another one.
pub(super) fn calls(place: Place, agent_id: i64, elsewhere: Option<&str>, message: &PendingMessage) -> Vec<Call> {
    let calls = match file(message) {
        Some((path, caption)) => {
            let caption = heralded(elsewhere, markdown::render(bounded(caption.as_deref().unwrap_or_default())));
            files::send_agents(place, agent_id, &path, &caption)
        }
        None => {
            let text = markdown::render(bounded(&message.content));
            let parts = match text.text.is_empty() {
                true => vec![],
                false => markdown::split(heralded(elsewhere, text), MESSAGE_LIMIT),
            };
            parts.iter().map(|p| Call::reply(place.bot_id, place.chat_id, &send_message(place, p, vec![]))).collect()
        }
    };
    calls.into_iter().map(Call::notice).collect()
}

/// Path and caption of a file.
fn file(message: &PendingMessage) -> Option<(String, Option<String>)> {
    if !matches!(message.source, PendingSource::HeartbeatFile | PendingSource::SubagentFile) {
        return None;
    }
    match serde_json::from_str::<Event>(&message.content).ok()?.kind {
        EventKind::File { path, caption } if path.len() <= MAX_PATH => Some((storable::text(&path), caption)),
        _ => None,
    }
}

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// A text that says first who speaks, where that is not plain from the chat.
fn heralded(name: Option<&str>, mut text: Formatted) -> Formatted {
    let Some(name) = name else { return text };
    // A quote or code begins a line of its own.
    let block = |kind| matches!(kind, EntityKind::Pre | EntityKind::Blockquote);
    let apart = text.entities.iter().any(|entity| entity.offset == 0 && block(entity.kind));
    let mut whole = texts::unasked_from(
        name,
        if text.text.is_empty() {
            ""
        } else if apart {
            "\n"
        } else {
            " "
        },
    );
    let offset = markdown::utf16_len(&whole.text);
    for entity in &mut text.entities {
        entity.offset += offset;
    }
    whole.text.push_str(&text.text);
    whole.entities.append(&mut text.entities);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telegram::outbox::{FileSource, Kind};
    use serde_json::{Value, json};

    const PLACE: Place = Place { bot_id: 1, chat_id: 5, thread_id: None };

    fn message(source: PendingSource, content: &str) -> PendingMessage {
        PendingMessage { id: 1, chat_id: "5".into(), content: content.into(), source, created_at: String::new() }
    }

    fn payloads(elsewhere: Option<&str>, source: PendingSource, content: &str) -> Vec<(String, Value)> {
        let calls = calls(PLACE, 7, elsewhere, &message(source, content));
        assert!(calls.iter().all(|call| call.kind == Kind::Notice && call.ordered));
        calls.into_iter().map(|c| (c.method, serde_json::from_str(&c.payload).expect("json"))).collect()
    }

    #[test]
    fn a_chat_elsewhere_is_told_who_speaks() {
        let said = payloads(None, PendingSource::Heartbeat, "Water the *plants*.");
        assert_eq!(said[0].1["text"], "Water the plants.");
        let said = payloads(Some("*Ada* 🦊"), PendingSource::Subagent, "Water the *plants*.");
        assert_eq!(said[0].1["text"], "🔔 *Ada* 🦊: Water the plants.");
        let italic = json!({"type": "italic", "offset": 23, "length": 6});
        assert_eq!(said[0].1["entities"][1], italic);
        assert_eq!(said[0].1["entities"][0]["type"], "bold");
        let said = payloads(Some("Ada"), PendingSource::Subagent, "```\ncode\n```");
        assert_eq!(said[0].1["text"], "🔔 Ada:\ncode");
    }

    #[test]
    fn files_are_files_and_nonsense_is_text() {
        let file = json!({"type": "file", "path": "out/x/plot.png", "caption": "The *plot*"}).to_string();
        let said = payloads(Some("Ada"), PendingSource::HeartbeatFile, &file);
        assert_eq!((said[0].0.as_str(), said[0].1["caption"].as_str()), ("sendPhoto", Some("🔔 Ada: The plot")));
        let bare = json!({"type": "file", "path": "out/x/a.csv"}).to_string();
        assert_eq!(payloads(None, PendingSource::SubagentFile, &bare)[0].0, "sendDocument");
        assert_eq!(payloads(Some("Ada"), PendingSource::SubagentFile, &bare)[0].1["caption"], "🔔 Ada:");
        let odd = json!({"type": "file", "path": "out/x/a\0.csv"}).to_string();
        let calls = calls(PLACE, 7, None, &message(PendingSource::SubagentFile, &odd));
        let source = FileSource::Agent { agent_id: 7, path: "out/x/a.csv".into() };
        assert_eq!(calls[0].file, Some(source), "what Postgres cannot hold");
        let long = json!({"type": "file", "path": "x".repeat(MAX_PATH + 1)}).to_string();
        assert_eq!(payloads(None, PendingSource::SubagentFile, &long)[0].0, "sendMessage");
        assert_eq!(payloads(None, PendingSource::SubagentFile, "no json")[0].1["text"], "no json");
        assert_eq!(
            payloads(None, PendingSource::Heartbeat, &file)[0].0,
            "sendMessage",
            "a text that looks like a file"
        );
        assert_eq!(payloads(Some("Ada"), PendingSource::Heartbeat, " \n "), []);
    }

    #[test]
    fn a_long_text_is_several_messages_and_bounded() {
        let said = payloads(Some("Ada"), PendingSource::Heartbeat, &"wörd ".repeat(100_000));
        assert!((8..=11).contains(&said.len()), "{}", said.len());
        assert!(said.iter().all(|(_, payload)| markdown::utf16_len(payload["text"].as_str().expect("text")) <= 4_096));
    }
}
