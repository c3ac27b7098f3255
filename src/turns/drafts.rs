//! A growing answer as a draft (`sendMessageDraft`, Bot API 9.3; for all bots since 9.5): nothing of it is a row, Telegram
//! forgets it after 30 s, and the final `sendMessage` takes its place.

use std::time::Duration;

use serde::Serialize;
use teloxide_core::requests::Payload;
use teloxide_core::types::{MessageEntity, True};
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::StreamMode;
use crate::telegram::markdown::Formatted;
use crate::telegram::text::{Place, entities};

/// A draft lasts 30 s; before that it is shown again, changed or not.
const AGAIN: Duration = Duration::from_secs(20);

/// Failures in a row after which the answer grows as a message instead.
const MAX_FAILURES: u32 = 2;

/// Parameters of `sendMessageDraft`, which is newer than teloxide-core's Bot API 9.1
/// (<https://core.telegram.org/bots/api#sendmessagedraft>).
#[derive(Debug, Clone, Serialize)]
pub struct SendMessageDraft {
    chat_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_thread_id: Option<i64>,
    /// Not zero; a draft of the same id is changed.
    draft_id: i64,
    /// 0 to 4,096 UTF-16 units.
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entities: Vec<MessageEntity>,
}

impl Payload for SendMessageDraft {
    type Output = True;
    const NAME: &'static str = "SendMessageDraft";
}

/// The draft of one turn.
#[derive(Debug)]
pub struct Drafts {
    id: i64,
    shown_at: Option<Instant>,
    failures: u32,
}

impl Drafts {
    /// Where the operator wants drafts and the chat can have them: private chats, whose ids are positive.
    pub fn wanted(mode: StreamMode, place: Place, turn: Uuid) -> Option<Self> {
        (mode == StreamMode::Draft && place.chat_id > 0).then(|| Self {
            // Positive and within 31 bits, for clients that keep it in an int.
            id: i64::from((turn.as_u128() as u32 & 0x7fff_ffff).max(1)),
            shown_at: None,
            failures: 0,
        })
    }

    /// Whether what is shown is about to vanish.
    pub fn fades(&self) -> bool {
        self.shown_at.is_some_and(|at| at.elapsed() >= AGAIN)
    }

    /// The call that shows this text.
    pub fn show(&mut self, place: Place, text: &Formatted) -> SendMessageDraft {
        self.shown_at = Some(Instant::now());
        SendMessageDraft {
            chat_id: place.chat_id,
            message_thread_id: place.thread_id,
            draft_id: self.id,
            text: text.text.clone(),
            entities: entities(text),
        }
    }

    /// It was shown.
    pub fn went_well(&mut self) {
        self.failures = 0;
    }

    /// It may not have been shown. `false`: this chat is better off without drafts.
    pub fn went_wrong(&mut self) -> bool {
        self.failures += 1;
        self.failures < MAX_FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_for_private_chats_and_their_ids_are_not_zero() {
        let place = |chat_id| Place { bot_id: 1, chat_id, thread_id: None };
        assert!(Drafts::wanted(StreamMode::Edit, place(5), Uuid::max()).is_none());
        assert!(Drafts::wanted(StreamMode::Draft, place(-5), Uuid::max()).is_none());
        for turn in [Uuid::nil(), Uuid::max(), Uuid::now_v7()] {
            let mut drafts = Drafts::wanted(StreamMode::Draft, place(5), turn).expect("a private chat");
            let call = drafts.show(place(5), &Formatted { text: "so far".into(), entities: vec![] });
            assert!((1..=i64::from(i32::MAX)).contains(&call.draft_id));
            let json = serde_json::to_value(&call).expect("json");
            assert_eq!(json, serde_json::json!({"chat_id": 5, "draft_id": call.draft_id, "text": "so far"}));
        }
    }
}
