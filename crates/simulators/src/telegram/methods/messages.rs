//! Sending, editing and deleting messages, and answering presses.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::media::caption;
use super::{TRUE, chat_id, message_id, spend, writable};
use crate::telegram::Telegram;
use crate::telegram::entities::{Entity, Formatted};
use crate::telegram::params::Params;
use crate::telegram::refusal::Refusal;
use crate::telegram::world::{Message, Standing, World, now_ms};
use crate::telegram::{html, keyboard};

/// UTF-16 units of a text.
const MAX_TEXT: usize = 4_096;
/// How long a press can be answered. Telegram names no figure.
const CALLBACK_LIFETIME: Duration = Duration::from_secs(60);
/// Age in milliseconds up to which a message can be deleted.
const DELETABLE_MS: i64 = 48 * 3600 * 1000;
const ACTIONS: &[&str] = &[
    "typing",
    "upload_photo",
    "record_video",
    "upload_video",
    "record_voice",
    "upload_voice",
    "upload_document",
    "choose_sticker",
    "find_location",
    "record_video_note",
    "upload_video_note",
    "cancel",
];

/// Text `name` with its entities, from `parse_mode` or from `entities`.
pub(super) fn formatted(params: &Params, name: &str, entities: &str) -> Result<Formatted, Refusal> {
    let text = params.text(name)?.unwrap_or("");
    let mode = params.text("parse_mode")?.unwrap_or("");
    formatted_by(text, mode, params.typed::<Vec<Entity>>(entities)?.unwrap_or_default())
}

/// A text with its entities: those given, or those that the markup of `mode` makes.
pub(super) fn formatted_by(text: &str, mode: &str, entities: Vec<Entity>) -> Result<Formatted, Refusal> {
    match mode.to_ascii_lowercase().as_str() {
        "" | "none" => Formatted::checked(text, entities),
        "html" => {
            let (text, entities) = html::parse(text)?;
            Formatted::checked(&text, entities)
        }
        "markdown" | "markdownv2" => Err(Refusal::wrong(
            "can't parse entities: this simulator reads HTML and entities, but no Markdown; send entities instead",
        )),
        _ => Err(Refusal::wrong("unsupported parse_mode")),
    }
}

pub(super) fn markup(params: &Params) -> Result<Option<Value>, Refusal> {
    params.json("reply_markup")?.map_or(Ok(None), keyboard::checked)
}

/// The fields that place a new message: its topic and what it replies to.
pub(super) fn placement(world: &World, chat: i64, params: &Params) -> Result<Map<String, Value>, Refusal> {
    let mut extra = Map::new();
    let Some(chat) = world.chats.get(&chat) else { return Ok(extra) };
    if let Some(thread) = params.integer("message_thread_id")?.filter(|thread| *thread != 0) {
        if !chat.threads.contains(&thread) {
            return Err(Refusal::unlucky("message thread not found"));
        }
        extra.insert("message_thread_id".into(), thread.into());
        extra.insert("is_topic_message".into(), TRUE);
    }
    let reply = params.json("reply_parameters")?;
    let replied = reply.as_ref().and_then(|reply| reply["message_id"].as_i64());
    if let Some(replied) = replied.or(params.integer("reply_to_message_id")?) {
        let optional = reply.is_some_and(|reply| reply["allow_sending_without_reply"] == true)
            || params.flag("allow_sending_without_reply")?;
        match chat.messages.get(&replied).filter(|message| !message.deleted) {
            Some(message) => {
                extra.insert("reply_to_message".into(), world.message_json(chat.id, message));
            }
            None if optional => {}
            None => return Err(Refusal::unlucky("message to be replied not found")),
        }
    }
    Ok(extra)
}

/// Puts a message of the bot into `chat` and gives it as the Bot API shows it.
pub(super) fn post(
    world: &mut World,
    chat_id: i64,
    content: Formatted,
    markup: Option<Value>,
    extra: Map<String, Value>,
) -> Value {
    let mut message = Message::new(world.next_message_id(), None, content, now_ms());
    message.reply_markup = markup;
    message.extra = extra;
    let json = world.message_json(chat_id, &message);
    world.tell_message(chat_id, "message", &message);
    if let Some(chat) = world.chats.get_mut(&chat_id) {
        chat.keep(message);
    }
    json
}

impl Telegram {
    pub(super) fn send_message(&self, params: &Params) -> Result<Value, Refusal> {
        let content = formatted(params, "text", "entities")?;
        if content.text.is_empty() {
            return Err(Refusal::wrong("message text is empty"));
        }
        let markup = markup(params)?;
        let mut world = self.world();
        let rate = world.per_chat_per_second;
        let chat = writable(&mut world, params)?;
        let chat_id = chat.id;
        if content.len() > MAX_TEXT {
            return Err(Refusal::wrong("message is too long"));
        }
        spend(rate, chat)?;
        let extra = placement(&world, chat_id, params)?;
        Ok(post(&mut world, chat_id, content, markup, extra))
    }

    pub(super) fn send_message_draft(&self, params: &Params) -> Result<Value, Refusal> {
        let content = formatted(params, "text", "entities")?;
        let draft_id = params.integer("draft_id")?.filter(|id| *id != 0);
        let draft_id = draft_id.ok_or_else(|| Refusal::wrong("RANDOM_ID_INVALID: draft_id must be non-zero"))?;
        let mut world = self.world();
        let rate = world.per_chat_per_second;
        let chat = writable(&mut world, params)?;
        if chat.id < 0 {
            return Err(Refusal::wrong("method is available only for private chats"));
        }
        if content.len() > MAX_TEXT {
            return Err(Refusal::wrong("message is too long"));
        }
        spend(rate, chat)?;
        chat.tell(
            || json!({ "type": "draft", "draft_id": draft_id, "text": content.text, "entities": content.entities }),
        );
        Ok(TRUE)
    }

    pub(super) fn edit_message_text(&self, params: &Params) -> Result<Value, Refusal> {
        let content = formatted(params, "text", "entities")?;
        if content.text.is_empty() {
            return Err(Refusal::wrong("message text is empty"));
        }
        let markup = markup(params)?;
        if content.len() > MAX_TEXT {
            return Err(Refusal::wrong("MESSAGE_TOO_LONG"));
        }
        self.edit(params, |message| {
            if message.has_media() {
                return Err(Refusal::wrong("there is no text in the message to edit"));
            }
            Ok((content, markup))
        })
    }

    pub(super) fn edit_message_caption(&self, params: &Params) -> Result<Value, Refusal> {
        let content = caption(formatted(params, "caption", "caption_entities")?)?;
        let markup = markup(params)?;
        self.edit(params, |message| {
            if !message.has_media() {
                return Err(Refusal::wrong("there is no caption in the message to edit"));
            }
            Ok((content, markup))
        })
    }

    pub(super) fn edit_message_reply_markup(&self, params: &Params) -> Result<Value, Refusal> {
        let markup = markup(params)?;
        self.edit(params, |message| Ok((message.content.clone(), markup)))
    }

    fn edit(
        &self,
        params: &Params,
        change: impl FnOnce(&Message) -> Result<(Formatted, Option<Value>), Refusal>,
    ) -> Result<Value, Refusal> {
        let mut world = self.world();
        let rate = world.per_chat_per_second;
        let id = message_id(params)?;
        let chat = writable(&mut world, params)?;
        let chat_id = chat.id;
        let message = chat.messages.get_mut(&id).filter(|message| !message.deleted);
        let message = message.ok_or_else(|| Refusal::unlucky("message to edit not found"))?;
        if message.from.is_some() {
            return Err(Refusal::wrong("message can't be edited"));
        }
        let (content, markup) = change(message)?;
        if message.content == content && message.reply_markup == markup {
            return Err(Refusal::unlucky(
                "message is not modified: specified new message content and reply markup are exactly the same as a current content \
                 and reply markup of the message",
            ));
        }
        spend(rate, chat)?;
        let Some(message) = chat.messages.get_mut(&id) else {
            return Err(Refusal::unlucky("message to edit not found"));
        };
        message.edit(content, markup, now_ms());
        let message = message.clone();
        world.changed = true;
        world.tell_message(chat_id, "edited", &message);
        Ok(world.message_json(chat_id, &message))
    }

    pub(super) fn delete_message(&self, params: &Params) -> Result<Value, Refusal> {
        let id = message_id(params)?;
        let mut world = self.world();
        let chat = writable(&mut world, params)?;
        let in_group = chat.id < 0;
        let message = chat.messages.get_mut(&id).filter(|message| !message.deleted);
        let message = message.ok_or_else(|| Refusal::unlucky("message to delete not found"))?;
        // A bot is no administrator here, so in groups it deletes its own messages only.
        if in_group && message.from.is_some() {
            return Err(Refusal::unlucky("message can't be deleted"));
        }
        if now_ms() - message.at_ms > DELETABLE_MS {
            return Err(Refusal::unlucky("message can't be deleted for everyone"));
        }
        message.deleted = true;
        chat.tell(|| json!({ "type": "deleted", "message_id": id }));
        world.changed = true;
        Ok(TRUE)
    }

    /// Missing messages are skipped.
    pub(super) fn delete_messages(&self, params: &Params) -> Result<Value, Refusal> {
        let ids = params
            .typed::<Vec<i64>>("message_ids")?
            .filter(|ids| !ids.is_empty())
            .ok_or_else(|| Refusal::wrong("message identifiers are not specified"))?;
        if ids.len() > 100 {
            return Err(Refusal::wrong("too many message identifiers specified"));
        }
        let mut world = self.world();
        let chat = writable(&mut world, params)?;
        for id in ids {
            if let Some(message) = chat.messages.get_mut(&id).filter(|message| !message.deleted) {
                message.deleted = true;
                chat.tell(|| json!({ "type": "deleted", "message_id": id }));
            }
        }
        world.changed = true;
        Ok(TRUE)
    }

    pub(super) fn send_chat_action(&self, params: &Params) -> Result<Value, Refusal> {
        let action = params.text("action")?.unwrap_or("");
        if !ACTIONS.contains(&action) {
            return Err(Refusal::wrong("wrong parameter action in request"));
        }
        let mut world = self.world();
        let chat = writable(&mut world, params)?;
        chat.tell(|| json!({ "type": "action", "action": action }));
        Ok(TRUE)
    }

    pub(super) fn answer_callback_query(&self, params: &Params) -> Result<Value, Refusal> {
        let id = params.text("callback_query_id")?.unwrap_or("");
        let text = params.text("text")?.unwrap_or("");
        let show_alert = params.flag("show_alert")?;
        let url = params.text("url")?;
        if text.encode_utf16().count() > 200 {
            return Err(Refusal::wrong("MESSAGE_TOO_LONG"));
        }
        let mut world = self.world();
        let callback = world.callbacks.get_mut(id);
        let callback =
            callback.filter(|callback| callback.answer.is_none() && callback.at.elapsed() < CALLBACK_LIFETIME);
        let callback = callback
            .ok_or_else(|| Refusal::unlucky("query is too old and response timeout expired or query ID is invalid"))?;
        callback.answer = Some(json!({ "answered": true, "text": text, "show_alert": show_alert, "url": url }));
        let chat_id = callback.chat_id;
        if let Some(chat) = world.chats.get(&chat_id) {
            chat.tell(
                || json!({ "type": "answered", "query_id": id, "text": text, "show_alert": show_alert, "url": url }),
            );
        }
        Ok(TRUE)
    }

    pub(super) fn get_chat(&self, params: &Params) -> Result<Value, Refusal> {
        let mut world = self.world();
        let id = writable(&mut world, params)?.id;
        let mut chat = world.chat_json(id);
        chat["accent_color_id"] = 0.into();
        chat["max_reaction_count"] = 11.into();
        let gifts = ["unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription", "gifts_from_channels"];
        chat["accepted_gift_types"] =
            gifts.into_iter().map(|kind| (kind.to_owned(), false.into())).collect::<serde_json::Map<_, _>>().into();
        Ok(chat)
    }

    pub(super) fn leave_chat(&self, params: &Params) -> Result<Value, Refusal> {
        let id = chat_id(params)?;
        if id > 0 {
            return Err(Refusal::wrong("chat member status can't be changed in private chats"));
        }
        let mut world = self.world();
        writable(&mut world, params)?;
        let bot = world.bot_json();
        self.change_standing(&mut world, id, bot, Standing::Left);
        Ok(TRUE)
    }
}
