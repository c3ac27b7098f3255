//! What the model is given to read before each of its answers.

use super::Shared;
use crate::clock;
use crate::model::Message;
use crate::prompt;
use crate::store::{StoreError, StoredMessage};
use crate::tools::{Who, head_and_tail};
use baal_protocol::Attachment;

/// Text of the running turn, in bytes, beyond which what its older calls brought is shortened.
const MAX_TURN_BYTES: usize = 512 * 1024;
/// Characters that are left of such a result.
const SHORTENED: usize = 400;

/// System message and history of the chat, the turn at `position` included. Every call in it has its result.
pub(super) async fn messages(shared: &Shared, who: &Who, position: i64) -> Result<Vec<Message>, StoreError> {
    let persona = &shared.persona;
    let mut history = shared.store.read().history(&who.chat_id, position, persona.max_history).await?;
    shorten(&mut history, position);
    let system = prompt::system_message(&persona.agent_name, &persona.system_prompt, clock::now().date_naive());
    Ok(prompt::conversation(system, history.into_iter().map(with_attachments)))
}

fn shorten(history: &mut [StoredMessage], position: i64) {
    let mut bytes = 0;
    for stored in history.iter_mut().rev().filter(|stored| stored.turn == position) {
        bytes += stored.message.bytes();
        if bytes > MAX_TURN_BYTES
            && let Message::Tool { text, .. } = &mut stored.message
        {
            *text = head_and_tail(text, SHORTENED);
        }
    }
}

fn with_attachments(stored: StoredMessage) -> Message {
    let StoredMessage { mut message, attachments, .. } = stored;
    if let Message::User { text, .. } = &mut message {
        for Attachment { path, name, mime, size } in attachments {
            let mime = mime.map(|mime| format!(", {mime}")).unwrap_or_default();
            *text += &format!("\n\n[Attached: {name:?}{mime}, {size} bytes, as {path}]");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_results_of_a_long_turn_are_shortened_and_new_ones_are_not() {
        let stored = |turn: i64, text: String| StoredMessage {
            id: 0,
            turn,
            message: Message::tool("a".into(), text),
            attachments: Vec::new(),
        };
        let long = "x".repeat(MAX_TURN_BYTES / 2);
        let mut history = [1, 2, 2, 2].map(|turn| stored(turn, long.clone()));
        shorten(&mut history, 2);
        let lengths = history.map(|stored| stored.message.bytes() == long.len());
        assert_eq!(lengths, [true, false, true, true]);
    }
}
