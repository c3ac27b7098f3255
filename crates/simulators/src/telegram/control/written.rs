//! What users write: texts, files, albums, places, and edits of it.

use axum::Json;
use axum::body::Bytes;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Answer, Misuse};
use crate::telegram::Telegram;
use crate::telegram::entities::Formatted;
use crate::telegram::files::{self, MediaKind};
use crate::telegram::updates::QueueKey;
use crate::telegram::world::{Message, World, now_ms};

/// UTF-16 units after which a client cuts a long text into several messages.
const MAX_TEXT: usize = 4_096;
/// UTF-16 units of a caption; clients let nobody write more.
const MAX_CAPTION: usize = 1_024;

/// A message of a user: a text, or one thing with a caption.
#[derive(Deserialize)]
pub(in crate::telegram) struct Written {
    #[serde(default)]
    text: String,
    #[serde(flatten)]
    media: Media,
    /// `{"latitude":…,"longitude":…}`.
    location: Option<Value>,
    /// `{"location":{…},"title":…,"address":…}`.
    venue: Option<Value>,
    /// `{"phone_number":…,"first_name":…}`.
    contact: Option<Value>,
    /// The message of the same chat that this one answers.
    reply_to: Option<i64>,
    /// Further fields of the Bot API's message, laid over what is made of the rest.
    #[serde(default)]
    raw: Map<String, Value>,
}

/// The file of a message, at most one.
#[derive(Deserialize)]
struct Media {
    photo: Option<Attached>,
    document: Option<Attached>,
    voice: Option<Attached>,
    audio: Option<Attached>,
    video: Option<Attached>,
    video_note: Option<Attached>,
    animation: Option<Attached>,
    sticker: Option<Attached>,
}

impl Media {
    fn into_one(self) -> Result<Option<(MediaKind, Attached)>, Misuse> {
        let all = [
            (MediaKind::Photo, self.photo),
            (MediaKind::Document, self.document),
            (MediaKind::Voice, self.voice),
            (MediaKind::Audio, self.audio),
            (MediaKind::Video, self.video),
            (MediaKind::VideoNote, self.video_note),
            (MediaKind::Animation, self.animation),
            (MediaKind::Sticker, self.sticker),
        ];
        let mut given = all.into_iter().filter_map(|(kind, file)| Some((kind, file?)));
        let first = given.next();
        match given.next() {
            None => Ok(first),
            Some(_) => Err(Misuse::new(StatusCode::BAD_REQUEST, "a message holds one file; send an album instead")),
        }
    }
}

#[derive(Deserialize)]
struct Attached {
    #[serde(default)]
    file_name: String,
    mime_type: Option<String>,
    #[serde(default)]
    content_base64: String,
    /// Claims this many bytes where it is more than the content has, so that a huge file needs none.
    #[serde(default)]
    size: usize,
    /// Further fields of the file: `duration`, `width`, `emoji`.
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Written {
    /// The Bot API's fields for what is not text, with the file kept.
    fn fields(self, world: &mut World, chat_id: i64) -> Result<(Map<String, Value>, String), Misuse> {
        let mut extra = Map::new();
        if let Some((kind, attached)) = self.media.into_one()? {
            let bytes = STANDARD.decode(&attached.content_base64);
            let bytes = bytes.map_err(|_| Misuse::new(StatusCode::BAD_REQUEST, "`content_base64` is not base64"))?;
            let mime = attached.mime_type.as_deref().unwrap_or(kind.usual_mime());
            let file = world.files.keep(kind.folder(), &attached.file_name, mime, Bytes::from(bytes), attached.size);
            let mut described = files::describe(kind, &file, &mut world.files);
            if let Value::Object(fields) = &mut described {
                fields.extend(attached.more);
            }
            // Old clients know no animations, so Telegram gives the same file as a document too.
            if kind == MediaKind::Animation {
                let as_document = files::describe(MediaKind::Document, &file, &mut world.files);
                extra.insert("document".into(), as_document);
            }
            extra.insert(kind.field().into(), described);
        }
        for (field, value) in [("location", self.location), ("venue", self.venue), ("contact", self.contact)] {
            extra.extend(value.map(|value| (field.to_owned(), value)));
        }
        if let Some(place) = extra.get("venue").map(|venue| venue["location"].clone()) {
            extra.insert("location".into(), place);
        }
        if let Some(id) = self.reply_to {
            let chat = world.chats.get(&chat_id).ok_or_else(|| Misuse::no_chat(chat_id))?;
            let message = chat.messages.get(&id).filter(|message| !message.deleted);
            let message = message.ok_or_else(|| Misuse::no_message(id))?;
            let mut shown = world.message_json(chat_id, message);
            // Telegram shows one level of replies.
            if let Value::Object(fields) = &mut shown {
                fields.remove("reply_to_message");
            }
            extra.insert("reply_to_message".into(), shown);
        }
        extra.extend(self.raw);
        Ok((extra, self.text))
    }
}

/// Puts what user `from` wrote into `chat_id` and sends it to the bot, cut into several messages where it is too long for one.
pub(super) fn submit(
    telegram: &Telegram,
    world: &mut World,
    chat_id: i64,
    from: i64,
    written: Written,
) -> Result<Value, Misuse> {
    let (extra, text) = written.fields(world, chat_id)?;
    let parts = cut(&text, if extra.is_empty() { MAX_TEXT } else { MAX_CAPTION });
    let contents: Vec<Formatted> = parts.iter().filter_map(|part| Formatted::checked(part, Vec::new()).ok()).collect();
    if extra.is_empty() && contents.iter().all(|content| content.text.is_empty()) {
        return Err(Misuse::new(StatusCode::BAD_REQUEST, "there is nothing to send: `text` is empty"));
    }
    let sent = contents.into_iter().map(|content| place(telegram, world, chat_id, from, content, extra.clone()));
    let sent = sent.collect::<Result<Vec<_>, _>>()?;
    let mut answer = sent.first().cloned().unwrap_or_default();
    if sent.len() > 1 {
        answer["messages"] = sent.into();
    }
    Ok(answer)
}

fn place(
    telegram: &Telegram,
    world: &mut World,
    chat_id: i64,
    from: i64,
    content: Formatted,
    extra: Map<String, Value>,
) -> Result<Value, Misuse> {
    let mut message = Message::new(world.next_message_id(), Some(from), content, now_ms());
    message.extra = extra;
    let payload = world.message_json(chat_id, &message);
    world.tell_message(chat_id, "message", &message);
    let message_id = message.message_id;
    let chat = world.chats.get_mut(&chat_id).ok_or_else(|| Misuse::no_chat(chat_id))?;
    chat.threads.extend(message.extra.get("message_thread_id").and_then(Value::as_i64));
    chat.keep(message);
    let update_id = world.updates.push("message", QueueKey::Chat(chat_id), payload);
    telegram.start_delivery(world, QueueKey::Chat(chat_id));
    Ok(json!({ "message_id": message_id, "update_id": update_id }))
}

#[derive(Deserialize)]
pub(super) struct Album {
    /// 2 to 10 messages with a file each, all photos and videos, or all documents, or all audio.
    items: Vec<Written>,
}

/// Puts an album into `chat_id`: to the bot it is a message for each item, with one `media_group_id`.
pub(super) fn submit_album(
    telegram: &Telegram,
    world: &mut World,
    chat_id: i64,
    from: i64,
    album: Album,
) -> Result<Value, Misuse> {
    let bad = |what: &str| Misuse::new(StatusCode::BAD_REQUEST, what);
    if !(2..=10).contains(&album.items.len()) {
        return Err(bad("an album has 2 to 10 items"));
    }
    let group = rand::random_range(10_000_000_000_000_000u64..90_000_000_000_000_000).to_string();
    let mut family = None;
    let mut items = Vec::new();
    for item in album.items {
        let (mut extra, text) = item.fields(world, chat_id)?;
        let of_this = [("photo", "seen"), ("video", "seen"), ("document", "document"), ("audio", "audio")]
            .into_iter()
            .find(|(field, _)| extra.contains_key(*field))
            .ok_or_else(|| bad("an album has photos, videos, documents or audio"))?;
        if *family.get_or_insert(of_this.1) != of_this.1 {
            return Err(bad("documents and audio can't be mixed with anything else in an album"));
        }
        let caption = Formatted::checked(&text, Vec::new()).map_err(|refusal| bad(&refusal.description))?;
        extra.insert("media_group_id".into(), group.clone().into());
        items.push((caption, extra));
    }
    let sent = items.into_iter().map(|(caption, extra)| place(telegram, world, chat_id, from, caption, extra));
    let sent = sent.collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "media_group_id": group, "messages": sent }))
}

#[derive(Deserialize)]
pub(super) struct Edited {
    /// The new text, or the new caption where there is a file.
    text: String,
}

/// A user's change of an own message in `chat_id`.
pub(super) fn change(
    telegram: &Telegram,
    world: &mut World,
    chat_id: i64,
    from: i64,
    message_id: i64,
    edited: &Edited,
) -> Answer {
    let content = Formatted::checked(&edited.text, Vec::new())
        .map_err(|refusal| Misuse::new(StatusCode::BAD_REQUEST, refusal.description))?;
    let chat = world.chats.get_mut(&chat_id).ok_or_else(|| Misuse::no_chat(chat_id))?;
    let message = chat.messages.get_mut(&message_id);
    let message = message.filter(|message| !message.deleted && message.from == Some(from));
    let message = message.ok_or_else(|| Misuse::no_message(message_id))?;
    message.edit(content, None, now_ms());
    let message = message.clone();
    let payload = world.message_json(chat_id, &message);
    world.tell_message(chat_id, "edited", &message);
    let update_id = world.updates.push("edited_message", QueueKey::Chat(chat_id), payload);
    telegram.start_delivery(world, QueueKey::Chat(chat_id));
    Ok(Json(json!({ "message_id": message_id, "update_id": update_id })))
}

fn cut(text: &str, limit: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut length = 0;
    for c in text.chars() {
        if length + c.len_utf16() > limit {
            parts.push(String::new());
            length = 0;
        }
        length += c.len_utf16();
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}
