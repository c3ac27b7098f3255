//! The parts of an update that Baal reads.
//!
//! Own structs, because teloxide-core's parser turns a message with one unknown entity into an empty one: here unknown
//! parts are ignored, never fatal. Field names and meanings are the Bot API's.

pub mod media;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

pub use media::Media;

/// The kinds that Telegram is asked for (`allowed_updates`): exactly the fields of [`Update`].
pub const ALLOWED_UPDATES: [&str; 4] = ["message", "edited_message", "callback_query", "my_chat_member"];

/// The highest of the numbers that stand for no chat (see [`place`]). Telegram's have at most 52 significant bits (Bot API,
/// "Chat"), so they are none of its own; and JavaScript can still count them.
const NO_CHAT: i64 = -(1 << 52);

/// One update; of the optional parts Telegram sets exactly one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Update {
    /// Unique per bot, growing.
    pub update_id: i64,
    /// A new message.
    pub message: Option<Message>,
    /// A message that its author changed.
    pub edited_message: Option<Message>,
    /// A pressed inline button.
    pub callback_query: Option<CallbackQuery>,
    /// The bot was blocked, unblocked, added or removed.
    pub my_chat_member: Option<ChatMemberUpdated>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Message {
    /// Unique in its chat.
    pub message_id: i64,
    /// The topic it stands in.
    pub message_thread_id: Option<i64>,
    /// Whether `message_thread_id` is a topic (and not just a thread of replies).
    #[serde(default)]
    pub is_topic_message: bool,
    /// Who sent it; none in channels.
    pub from: Option<User>,
    /// Where it stands.
    pub chat: Chat,
    /// When it was sent, in seconds of Unix time.
    #[serde(default)]
    pub date: i64,
    /// Its text; none for media and service messages.
    pub text: Option<String>,
    /// What else it may be.
    #[serde(flatten)]
    pub content: Media,
    /// The words under its media.
    pub caption: Option<String>,
    /// Common to the parts of an album, each of which is a message.
    pub media_group_id: Option<String>,
    /// The message that it answers; of that one, none is told.
    #[serde(default, deserialize_with = "answered")]
    pub reply_to_message: Option<Box<Message>>,
    /// What its author chose to quote of it.
    pub quote: Option<media::Quote>,
    /// The supergroup that this group became.
    pub migrate_to_chat_id: Option<i64>,
}

impl Message {
    /// Whether it is a location that is kept up to date, by edits.
    pub fn is_live(&self) -> bool {
        self.content.location.as_ref().is_some_and(|location| location.live_period.is_some())
    }
}

/// A user or bot.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct User {
    /// Telegram's id.
    pub id: i64,
    /// Whether it is a bot.
    #[serde(default)]
    pub is_bot: bool,
    /// Given name, never empty in practice.
    #[serde(default)]
    pub first_name: String,
    /// Family name.
    pub last_name: Option<String>,
    /// Without the `@`.
    pub username: Option<String>,
    /// IETF language tag of the client.
    pub language_code: Option<String>,
}

impl User {
    /// Given and family name.
    pub fn name(&self) -> Cow<'_, str> {
        match &self.last_name {
            Some(last) => Cow::Owned(format!("{} {last}", self.first_name)),
            None => Cow::Borrowed(&self.first_name),
        }
    }
}

/// A chat.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Chat {
    /// Telegram's id; in a private chat the user's.
    pub id: i64,
    /// `private`, `group`, `supergroup` or `channel`.
    #[serde(rename = "type", default)]
    pub kind: String,
}

impl Chat {
    /// Whether it is a conversation with one person.
    pub fn is_private(&self) -> bool {
        self.kind == "private"
    }
}

/// A pressed inline button.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CallbackQuery {
    /// To be answered within a short time.
    pub id: String,
    /// Who pressed.
    pub from: User,
    /// The message with the button; its text may be unavailable.
    pub message: Option<ButtonMessage>,
    /// The button's data.
    pub data: Option<String>,
}

/// The message under which a button stood.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ButtonMessage {
    /// Unique in its chat.
    pub message_id: i64,
    /// Where it stands.
    pub chat: Chat,
    /// The topic it stands in.
    pub message_thread_id: Option<i64>,
    /// See [`Message::is_topic_message`].
    #[serde(default)]
    pub is_topic_message: bool,
}

/// A change of the bot's own membership.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ChatMemberUpdated {
    /// Where.
    pub chat: Chat,
    /// Who changed it.
    pub from: User,
    /// What the bot is there now.
    pub new_chat_member: ChatMember,
}

/// A membership.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ChatMember {
    /// `member`, `administrator`, `left`, `kicked`, …; in a private chat `kicked` means that the user blocked the bot.
    pub status: String,
}

impl Update {
    /// The chat in whose order the update is handled, if it belongs to one.
    pub fn chat_id(&self) -> Option<i64> {
        let message = self.message.as_ref().or(self.edited_message.as_ref()).map(|m| m.chat.id);
        let pressed = self.callback_query.as_ref();
        let pressed = pressed.map(|q| q.message.as_ref().map_or(q.from.id, |m| m.chat.id));
        let member = self.my_chat_member.as_ref().map(|m| m.chat.id);
        message.or(pressed).or(member)
    }
}

/// Reads an answered message without the one that it answers itself. Telegram sends no more than one level; read as deep as JSON
/// may be nested, messages within messages need more stack than a thread has, and that ends the process. One of another
/// shape than expected counts as absent.
fn answered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Message>>, D::Error> {
    let mut value = serde_json::Value::deserialize(deserializer)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("reply_to_message");
    }
    Ok(serde_json::from_value(value).ok()) // silent-ok: see above
}

/// Reads a webhook's body. Invalid UTF-8 becomes U+FFFD.
pub fn parse(body: &[u8]) -> serde_json::Result<Update> {
    serde_json::from_str(&String::from_utf8_lossy(body))
}

/// Where a body belongs in the inbox: update id and chat.
///
/// What cannot be read is kept all the same. If not even an id can be found, one is made from the body: negative, which
/// Telegram's never are, and the same for the same bytes, so that a redelivery is recognised.
///
/// What belongs to no chat has no order to keep, so each gets a number of its own in place of a chat's: in one queue, a flood of
/// them would be handled one by one, and Telegram be told to wait. It is negative, so nobody is written to there.
pub fn place(body: &[u8]) -> (i64, i64) {
    let (update_id, chat_id) = found(body);
    (update_id, chat_id.unwrap_or_else(|| NO_CHAT - update_id.rem_euclid(-NO_CHAT)))
}

/// A number of the inbox as the chat that it is; none where [`place`] made it.
pub fn chat_of(chat_id: i64) -> Option<i64> {
    (chat_id > NO_CHAT).then_some(chat_id)
}

fn found(body: &[u8]) -> (i64, Option<i64>) {
    #[derive(Deserialize)]
    struct Id {
        update_id: i64,
    }
    if let Ok(update) = parse(body) {
        return (update.update_id, update.chat_id());
    }
    if let Ok(Id { update_id }) = serde_json::from_str(&String::from_utf8_lossy(body)) {
        return (update_id, None);
    }
    let digest = Sha256::digest(body);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    (i64::from_be_bytes(first) | i64::MIN, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_parts_are_ignored() {
        let body = r#"{"update_id":9,"message":{"message_id":1,"from":{"id":5,"first_name":"Ann","is_premium":true},
            "chat":{"id":5,"type":"private"},"date":1,"text":"a\u0000b","entities":[{"type":"hologram","offset":0,"length":1}]}}"#;
        let update = parse(body.as_bytes()).expect("parses");
        assert_eq!(update.message.as_ref().and_then(|m| m.text.as_deref()), Some("a\0b"));
        assert_eq!(place(body.as_bytes()), (9, 5));
    }

    #[test]
    fn messages_within_messages_take_no_more_stack_than_one() {
        let level = r#"{"message_id":1,"chat":{"id":5},"text":"a","reply_to_message":"#;
        let nested =
            |depth: usize| format!(r#"{{"update_id":9,"message":{}{{}}{}}}"#, level.repeat(depth), "}".repeat(depth));
        for depth in [1, 2, 100, 120] {
            let small = std::thread::Builder::new().stack_size(1 << 20);
            let body = nested(depth);
            let read = small.spawn(move || parse(body.as_bytes())).expect("a thread").join().expect("no panic");
            let message = read.expect("parses").message.expect("a message");
            let answered = message.reply_to_message;
            assert!(answered.is_none_or(|answered| answered.reply_to_message.is_none()), "{depth}");
        }
    }

    #[test]
    fn invalid_utf8_changes_nothing_else() {
        let body = b"{\"update_id\":9,\"message\":{\"message_id\":1,\"chat\":{\"id\":5},\"text\":\"a\xffb\"}}";
        assert_eq!(parse(body).expect("parses").message.and_then(|m| m.text).as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn what_cannot_be_read_has_a_place_too() {
        let (id, chat) = place(br#"{"update_id":9,"message":"nonsense"}"#);
        assert_eq!((id, chat_of(chat)), (9, None));
        let (id, chat) = place(b"nonsense");
        assert!(id < 0);
        assert_eq!((id, chat), place(b"nonsense"));
        assert_ne!(id, place(b"other").0);
    }

    #[test]
    fn what_belongs_to_no_chat_waits_for_no_other_and_is_taken_for_no_chat() {
        let mut seen = std::collections::BTreeSet::new();
        for id in [0, 1, 2, 900_000_001, -1, i64::MAX, i64::MIN] {
            for fields in ["", r#","message":7"#, r#","inline_query":{"id":"1"}"#] {
                let (found, chat) = place(format!("{{\"update_id\":{id}{fields}}}").as_bytes());
                assert_eq!((found, chat_of(chat)), (id, None));
                assert!(chat < 0 && chat > -(1 << 53), "{chat}");
                seen.insert(chat);
            }
        }
        // Telegram's stay apart; of those that it never gives, the lowest falls on 0 and the highest on -1.
        assert_eq!(seen.len(), 5);
        // The largest group there can be.
        assert_eq!(chat_of(-1_997_852_516_352), Some(-1_997_852_516_352));
        assert_eq!(chat_of(-(1 << 52) + 1), Some(-(1 << 52) + 1));
    }
}
