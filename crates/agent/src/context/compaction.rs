//! Older messages become a summary.
//!
//! First the model is asked what of them should be known for good (memory flush), then for a summary that takes in the one before. Only
//! when the new summary is stored does anything change, in one row: a kill at any moment leaves the old state or the new one, and
//! the messages themselves stay in the database in both. What fails is tried again by a later turn, after a growing pause.

use super::conversation::Conversation;
use super::transcript::{self, flush_request, summary_request};
use super::window::{self, shortened};
use super::windows::{Kept, first_id, with_turns};
use super::{Inner, lock};
use crate::model::{Message, ModelError, ToolCall, Usage};
use crate::store::{StoreError, Summary};
use crate::tools::{REMEMBER, TurnKind, write_down};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

/// Parts of a long backlog that one turn works off; the next turns go on with it.
const MAX_PARTS: usize = 3;
/// Messages of one part.
const MAX_MESSAGES: usize = 400;
/// Facts that one flush puts down.
const MAX_FACTS: usize = 10;
/// Bytes of a summary.
const MAX_SUMMARY: usize = 12 * 1024;
/// Longest time that a turn waits for it all.
const PATIENCE: Duration = Duration::from_secs(180);

/// Why there is no new summary.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Model(#[from] ModelError),
    #[error("the model gave an empty summary")]
    Empty,
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("it took too long")]
    Late,
}

/// Compacts as far as it goes. `own_bytes` and `tools_bytes` are the bytes of a request besides the system message and the
/// history.
///
/// # Errors
/// The window could not be read again.
pub(super) async fn run(
    conversation: &mut Conversation,
    own_bytes: usize,
    tools_bytes: usize,
) -> Result<(), StoreError> {
    let inner = conversation.contexts.inner.clone();
    let chat_id = conversation.who.chat_id.clone();
    if cut(conversation, &inner, own_bytes, tools_bytes) == 0 && !conversation.window.left_out {
        return Ok(());
    }
    let compacted = timeout(PATIENCE, parts(conversation, &inner, own_bytes, tools_bytes)).await;
    // Also after a failure: earlier parts may be stored.
    conversation.window = inner.read_window(&chat_id, conversation.position).await?;
    match compacted.unwrap_or(Err(Failure::Late)) {
        Ok(()) if is_in_vain(inner.max_bytes(), conversation.system().len() + tools_bytes) => {
            let rest = lock(&inner.pauses).failed(&chat_id, Instant::now());
            warn!(
                rest_seconds = rest.as_secs(),
                "a conversation has no room beside its system message and tools, whatever is compacted"
            );
        }
        Ok(()) => lock(&inner.pauses).worked(&chat_id),
        Err(e) => {
            let rest = lock(&inner.pauses).failed(&chat_id, Instant::now());
            warn!(error = %e, rest_seconds = rest.as_secs(), "a conversation could not be compacted, it goes on with what fits");
        }
    }
    Ok(())
}

/// Whether so little room is left beside the system message and the tools that almost every turn would compact again.
fn is_in_vain(max_bytes: usize, base: usize) -> bool {
    max_bytes.saturating_sub(base) <= max_bytes / 10
}

/// How many messages of the window are to become a summary.
fn cut(conversation: &Conversation, inner: &Inner, own_bytes: usize, tools_bytes: usize) -> usize {
    let room = inner.max_bytes().saturating_sub(conversation.system().len() + tools_bytes);
    let max_bytes = (room / 10 * 7).saturating_sub(own_bytes).max(window::share_of_history(room));
    window::cut(&conversation.pieces(), inner.settings.keep_messages, max_bytes)
}

async fn parts(
    conversation: &mut Conversation,
    inner: &Inner,
    own_bytes: usize,
    tools_bytes: usize,
) -> Result<(), Failure> {
    let chat_id = conversation.who.chat_id.clone();
    for _ in 0..MAX_PARTS {
        // With ids, which a window that grew in memory does not have.
        conversation.window = inner.read_window(&chat_id, conversation.position).await?;
        let at = cut(conversation, inner, own_bytes, tools_bytes);
        let window = &conversation.window;
        let last = at.checked_sub(1).and_then(|last| window.messages.get(last)).map(|kept| kept.id);
        // What nobody sees any more, at least.
        let unseen = first_id(&window.messages).filter(|_| window.left_out).map(|first| first - 1);
        let Some(last) = last.filter(|id| *id != 0).or(unseen) else {
            return Ok(());
        };
        let after = conversation.window.summary.as_ref().map_or(0, |summary| summary.up_to);
        let rows = inner.store.read().messages_between(&chat_id, after, last, MAX_MESSAGES).await?;
        let part = first_part(with_turns(rows), part_bytes(inner.max_bytes(), conversation.system().len()));
        let Some(up_to) = part.last().map(|kept| kept.id) else {
            return Ok(());
        };
        flush(conversation, inner, &part).await?;
        let content = summarise(conversation, inner, &part).await?;
        let messages = part.len();
        if !inner.store.summarise(chat_id.clone(), after, Summary { content, up_to }).await? {
            debug!("a conversation changed while it was compacted");
            return Ok(());
        }
        info!(messages, "older messages became a summary");
        if up_to >= last {
            return Ok(());
        }
    }
    Ok(())
}

/// Bytes of messages that one request can hold beside its system message.
fn part_bytes(max_bytes: usize, system_bytes: usize) -> usize {
    (max_bytes / 10 * 7).saturating_sub(system_bytes).max(max_bytes / 5)
}

/// The first messages that one request can hold: whole turns, and a single turn beyond that as far as it goes.
fn first_part(mut messages: Vec<Kept>, max_bytes: usize) -> Vec<Kept> {
    let mut bytes = 0;
    let fitting = messages.iter().take_while(|kept| {
        bytes += transcript::bytes(&kept.message);
        bytes <= max_bytes
    });
    let fitting = fitting.count().max(1);
    if fitting < messages.len() {
        let turn = messages[..=fitting].iter().rposition(|kept| kept.begins_turn).filter(|at| *at > 0);
        messages.truncate(turn.unwrap_or(fitting));
    }
    messages
}

/// Asks the model to put down what should last. That its facts cannot be written down is no reason to stop.
async fn flush(conversation: &mut Conversation, inner: &Inner, part: &[Kept]) -> Result<(), Failure> {
    if conversation.who.kind != TurnKind::Chat {
        return Ok(());
    }
    let Some(tools) = remember_alone() else { return Ok(()) };
    let part: Vec<&Message> = part.iter().map(|kept| &kept.message).collect();
    let messages = [Message::system(conversation.system()), flush_request(&part)];
    if messages.iter().map(Message::bytes).sum::<usize>() + tools.get().len() > inner.max_bytes() {
        debug!("what should be known for good is not asked for: the request would be too large");
        return Ok(());
    }
    let (_, calls) = ask(inner, &messages, Some(&tools), &mut conversation.spent).await?;
    let root = conversation.who.root();
    let facts = calls.iter().filter(|call| call.name == REMEMBER.name).take(MAX_FACTS);
    for call in facts {
        // silent-ok: arguments that are no JSON are answered like those that do not fit
        let given = serde_json::from_str(&call.arguments).unwrap_or_default();
        if let Err(e) = write_down(&inner.workspaces, &root, conversation.today, given).await {
            // Of the model's words only the length, since they are a conversation.
            warn!(
                error_bytes = e.to_string().len(),
                "a fact could not be put down before older messages become a summary"
            );
        }
    }
    Ok(())
}

fn remember_alone() -> Option<Box<RawValue>> {
    let function = json!({
        "name": REMEMBER.name, "description": REMEMBER.description, "parameters": (REMEMBER.parameters)(),
    });
    // silent-ok: JSON made of JSON cannot fail
    to_raw_value(&[json!({"type": "function", "function": function})]).ok()
}

async fn summarise(conversation: &mut Conversation, inner: &Inner, part: &[Kept]) -> Result<String, Failure> {
    let max_bytes = MAX_SUMMARY.min(inner.max_bytes() / 6);
    let max_words = u32::try_from(max_bytes / 10).unwrap_or(u32::MAX);
    let earlier = conversation.window.summary.as_ref().map(|summary| summary.content.as_str());
    let messages: Vec<&Message> = part.iter().map(|kept| &kept.message).collect();
    let request = summary_request(earlier, &messages, max_words);
    let (text, _) = ask(inner, &request, None, &mut conversation.spent).await?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::Empty);
    }
    Ok(shortened(text, max_bytes))
}

/// One whole answer: text and calls.
async fn ask(
    inner: &Inner,
    messages: &[Message],
    tools: Option<&RawValue>,
    usage: &mut Option<Usage>,
) -> Result<(String, Vec<ToolCall>), Failure> {
    let mut answer = inner.model.ask(messages, tools).await?;
    let mut text = String::new();
    let end = loop {
        match answer.next().await {
            Ok(Some(piece)) => text += &piece,
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    // Also what a broken answer cost.
    *usage = Usage::sum(*usage, answer.usage());
    end?;
    Ok((text, answer.into_calls()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(letters: &str) -> Vec<Kept> {
        let kept = |(at, letter): (usize, char)| {
            let message = match letter {
                'u' => Message::user("x".repeat(100)),
                'a' => Message::assistant("x".repeat(100)),
                _ => Message::tool("a".into(), "x".repeat(100)),
            };
            Kept { id: at as i64 + 1, message, begins_turn: letter == 'u' }
        };
        letters.chars().enumerate().map(kept).collect()
    }

    #[test]
    fn a_part_is_whole_turns_as_long_as_one_fits() {
        assert_eq!(first_part(talk("uauaua"), 100_000).len(), 6);
        assert_eq!(first_part(talk("uauaua"), 350).len(), 2);
        assert_eq!(first_part(talk("uauaua"), 460).len(), 4);
        assert_eq!(first_part(talk("uatata"), 350).len(), 3);
        assert_eq!(first_part(talk("uaua"), 1).len(), 1);
        assert_eq!(first_part(talk(""), 1).len(), 0);
    }

    #[test]
    fn a_part_leaves_room_for_the_system_message_that_it_is_sent_with() {
        for (max, system) in [(95_000, 45_000), (95_000, 10_000), (18_000, 9_000)] {
            let part = part_bytes(max, system);
            assert!(part + system <= max && part >= max / 5, "{max} {system}: {part}");
        }
        assert_eq!(part_bytes(1_000, 5_000), 200);
    }

    #[test]
    fn where_nothing_else_has_room_compacting_is_in_vain() {
        assert!(is_in_vain(1_000, 1_000) && is_in_vain(1_000, 5_000) && is_in_vain(100_000, 95_000));
        assert!(!is_in_vain(100_000, 60_000));
    }
}
