//! Building messages by hand: text and entities side by side, so that a user's words can never become markup.

use teloxide_core::payloads::{EditMessageText, SendMessage};
use teloxide_core::payloads::{EditMessageTextSetters, SendMessageSetters};
use teloxide_core::types::{
    ChatId, InlineKeyboardButton, InlineKeyboardMarkup, LinkPreviewOptions, MessageEntity, MessageEntityKind,
    MessageId, ThreadId,
};

use super::markdown::{Entity, EntityKind, Formatted};

/// Appends pieces to a [`Formatted`] text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text(Formatted);

impl Text {
    /// Plain words.
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::default().then(text)
    }

    /// Bold words first.
    pub fn bold(text: impl AsRef<str>) -> Self {
        Self::default().then_bold(text)
    }

    /// Plain words next.
    pub fn then(mut self, text: impl AsRef<str>) -> Self {
        self.push(text.as_ref());
        self
    }

    /// Bold words next.
    pub fn then_bold(self, text: impl AsRef<str>) -> Self {
        self.styled(text.as_ref(), EntityKind::Bold)
    }

    /// Italic words next.
    pub fn then_italic(self, text: impl AsRef<str>) -> Self {
        self.styled(text.as_ref(), EntityKind::Italic)
    }

    /// Quoted lines next.
    pub fn then_quote(self, text: impl AsRef<str>) -> Self {
        self.styled(text.as_ref(), EntityKind::Blockquote)
    }

    /// Another text next, with its styles.
    pub fn then_text(mut self, other: Self) -> Self {
        let offset = self.length();
        self.0.text.push_str(&other.0.text);
        self.0.entities.extend(other.0.entities.into_iter().map(|e| Entity { offset: offset + e.offset, ..e }));
        self
    }

    /// How long it is, in UTF-16 units: Telegram's measure.
    pub fn length(&self) -> usize {
        self.0.text.encode_utf16().count()
    }

    /// The result.
    pub fn done(self) -> Formatted {
        self.0
    }

    fn styled(mut self, text: &str, kind: EntityKind) -> Self {
        let (offset, length) = self.push(text);
        if length > 0 {
            self.0.entities.push(Entity { kind, offset, length, url: None, language: None });
        }
        self
    }

    /// Returns offset and length in UTF-16 units.
    fn push(&mut self, text: &str) -> (usize, usize) {
        let offset = self.0.text.encode_utf16().count();
        self.0.text.extend(text.chars().filter(|c| !c.is_control() || *c == '\n'));
        (offset, self.0.text.encode_utf16().count() - offset)
    }
}

/// Where a message goes: a private chat, and the topic in it that the user wrote in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The bot that speaks.
    pub bot_id: i64,
    /// Telegram's id of the chat.
    pub chat_id: i64,
    /// The topic, where the chat has topics.
    pub thread_id: Option<i64>,
}

/// Rows of buttons under a message.
pub type Buttons = Vec<Vec<InlineKeyboardButton>>;

/// A `sendMessage` of `text`, without link previews.
pub fn send_message(place: Place, text: &Formatted, buttons: Buttons) -> SendMessage {
    let mut payload = SendMessage::new(ChatId(place.chat_id), text.text.clone())
        .entities(entities(text))
        .link_preview_options(no_preview());
    if let Some(thread) = place.thread_id.and_then(|id| i32::try_from(id).ok()) {
        payload = payload.message_thread_id(ThreadId(MessageId(thread)));
    }
    if !buttons.is_empty() {
        payload = payload.reply_markup(InlineKeyboardMarkup::new(buttons));
    }
    payload
}

impl From<Formatted> for Text {
    fn from(text: Formatted) -> Self {
        Self(text)
    }
}

/// An `editMessageText` to `text`. The message's id is 0 where the sender is to fill it in.
pub fn edit_message(place: Place, message_id: i64, text: &Formatted, buttons: Buttons) -> EditMessageText {
    let mut payload = EditMessageText::new(
        ChatId(place.chat_id),
        MessageId(i32::try_from(message_id).unwrap_or(0)),
        text.text.clone(),
    )
    .entities(entities(text))
    .link_preview_options(no_preview());
    if !buttons.is_empty() {
        payload = payload.reply_markup(InlineKeyboardMarkup::new(buttons));
    }
    payload
}

fn no_preview() -> LinkPreviewOptions {
    LinkPreviewOptions {
        is_disabled: true,
        url: None,
        prefer_small_media: false,
        prefer_large_media: false,
        show_above_text: false,
    }
}

/// A text's entities as Telegram takes them.
pub fn entities(text: &Formatted) -> Vec<MessageEntity> {
    text.entities.iter().filter_map(entity).collect()
}

fn entity(entity: &Entity) -> Option<MessageEntity> {
    let kind = match entity.kind {
        EntityKind::Blockquote => MessageEntityKind::Blockquote,
        EntityKind::Bold => MessageEntityKind::Bold,
        EntityKind::Italic => MessageEntityKind::Italic,
        EntityKind::Underline => MessageEntityKind::Underline,
        EntityKind::Strikethrough => MessageEntityKind::Strikethrough,
        EntityKind::Spoiler => MessageEntityKind::Spoiler,
        EntityKind::Code => MessageEntityKind::Code,
        EntityKind::Pre => MessageEntityKind::Pre { language: entity.language.clone() },
        // A link that is not a URL after all is shown as plain text.
        EntityKind::TextLink => MessageEntityKind::TextLink { url: entity.url.as_deref()?.parse().ok()? },
    };
    Some(MessageEntity { kind, offset: entity.offset, length: entity.length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_words_stay_words_and_offsets_count_utf16() {
        let text = Text::plain("👋 ").then_bold("<b>*x*\u{0}").then(" ok").done();
        assert_eq!(text.text, "👋 <b>*x* ok");
        assert_eq!(
            text.entities,
            vec![Entity { kind: EntityKind::Bold, offset: 3, length: 6, url: None, language: None }]
        );
    }
}
