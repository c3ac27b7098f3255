//! Files that the bot sends and fetches.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::messages::{formatted, formatted_by, markup, placement, post};
use super::{spend, writable};
use crate::telegram::Telegram;
use crate::telegram::entities::{Entity, Formatted};
use crate::telegram::files::{MediaKind, StoredFile, describe};
use crate::telegram::params::{Params, UPLOAD_LIMIT, Upload};
use crate::telegram::refusal::Refusal;
use crate::telegram::world::World;

/// UTF-16 units of a caption.
const MAX_CAPTION: usize = 1_024;
/// Bytes of a photo.
const MAX_PHOTO: usize = 10 * 1024 * 1024;
/// Pixels of a photo: width and height together.
const MAX_PHOTO_PIXELS: usize = 10_000;
/// How many times longer than wide a photo may be, or wider than long.
const MAX_PHOTO_RATIO: usize = 20;
/// Bytes of a file that the bot can fetch.
const MAX_DOWNLOAD: usize = 20 * 1024 * 1024;

/// A file as a request gives it: not yet kept, or one that was sent before.
enum Given {
    New(Upload),
    Known(String),
}

/// An element of `sendMediaGroup`'s `media`.
#[derive(Deserialize)]
struct InputMedia {
    #[serde(rename = "type")]
    kind: String,
    media: String,
    caption: Option<String>,
    parse_mode: Option<String>,
    caption_entities: Option<Vec<Entity>>,
}

impl Telegram {
    /// `sendPhoto`, `sendDocument` and the like: an upload, or the `file_id` of an earlier file.
    pub(super) fn send_file(&self, kind: MediaKind, mut params: Params) -> Result<Value, Refusal> {
        let caption = caption(formatted(&params, "caption", "caption_entities")?)?;
        let markup = markup(&params)?;
        let field = kind.field();
        let given = given(kind, params.text(field)?.map(str::to_owned), &mut params)?;
        let mut world = self.world();
        let rate = world.per_chat_per_second;
        let chat = writable(&mut world, &params)?;
        let chat_id = chat.id;
        spend(rate, chat)?;
        let file = keep(&mut world, kind, given)?;
        let mut extra = placement(&world, chat_id, &params)?;
        extra.insert(field.into(), describe(kind, &file, &mut world.files));
        Ok(post(&mut world, chat_id, caption, markup, extra))
    }

    /// `sendMediaGroup`: every item is a message of its own.
    pub(super) fn send_media_group(&self, mut params: Params) -> Result<Value, Refusal> {
        let items = params.typed::<Vec<InputMedia>>("media")?.unwrap_or_default();
        if !(2..=10).contains(&items.len()) {
            return Err(Refusal::wrong("wrong number of messages in the album: 2 to 10 are allowed"));
        }
        let mut ready = Vec::new();
        for item in items {
            let kind = match item.kind.as_str() {
                "photo" => MediaKind::Photo,
                "video" => MediaKind::Video,
                "document" => MediaKind::Document,
                "audio" => MediaKind::Audio,
                _ => {
                    return Err(Refusal::wrong(
                        "can't parse InputMedia: type must be one of photo, video, document, audio",
                    ));
                }
            };
            let text = item.caption.as_deref().unwrap_or("");
            let mode = item.parse_mode.as_deref().unwrap_or("");
            let caption = caption(formatted_by(text, mode, item.caption_entities.unwrap_or_default())?)?;
            ready.push((kind, caption, given(kind, Some(item.media), &mut params)?));
        }
        let family = |kind: &MediaKind| match kind {
            MediaKind::Document => 1,
            MediaKind::Audio => 2,
            _ => 0,
        };
        if ready.iter().any(|(kind, ..)| family(kind) != family(&ready[0].0)) {
            return Err(Refusal::wrong("document can't be mixed with other media types"));
        }
        let mut world = self.world();
        let rate = world.per_chat_per_second;
        let chat = writable(&mut world, &params)?;
        let chat_id = chat.id;
        for _ in &ready {
            spend(rate, chat)?;
        }
        let group = rand::random_range(10_000_000_000_000_000u64..90_000_000_000_000_000).to_string();
        let placed = placement(&world, chat_id, &params)?;
        let mut files = Vec::new();
        for (kind, caption, given) in ready {
            files.push((kind, caption, keep(&mut world, kind, given)?));
        }
        let sent = files.into_iter().map(|(kind, caption, file)| {
            let mut extra: Map<String, Value> = placed.clone();
            extra.insert("media_group_id".into(), group.clone().into());
            extra.insert(kind.field().into(), describe(kind, &file, &mut world.files));
            post(&mut world, chat_id, caption, None, extra)
        });
        Ok(Value::Array(sent.collect()))
    }

    pub(super) fn get_file(&self, params: &Params) -> Result<Value, Refusal> {
        let id = params.text("file_id")?.unwrap_or("");
        if id.is_empty() {
            return Err(Refusal::wrong("file_id not specified"));
        }
        let world = self.world();
        let file = world.files.by_id(id).ok_or_else(|| Refusal::wrong("invalid file_id"))?;
        if file.size > MAX_DOWNLOAD {
            return Err(Refusal::unlucky("file is too big"));
        }
        Ok(json!({
            "file_id": file.file_id,
            "file_unique_id": file.unique(),
            "file_size": file.size,
            "file_path": file.path,
        }))
    }
}

pub(super) fn caption(content: Formatted) -> Result<Formatted, Refusal> {
    if content.len() > MAX_CAPTION {
        return Err(Refusal::wrong("message caption is too long"));
    }
    Ok(content)
}

/// The file that `attached` (`attach://…`, a file's id) or an upload of the field's own name gives.
fn given(kind: MediaKind, attached: Option<String>, params: &mut Params) -> Result<Given, Refusal> {
    let upload_name = attached.as_deref().and_then(|text| text.strip_prefix("attach://"));
    match (params.take_file(upload_name.unwrap_or(kind.field())), attached) {
        (Some(upload), _) => check(kind, upload).map(Given::New),
        (None, Some(name)) if name.starts_with("attach://") => {
            Err(Refusal::wrong(format!("can't parse InputFile: no file {name:?} in the request")))
        }
        // Telegram would fetch it; bots that hand addresses on leak them, so nothing here does.
        (None, Some(url)) if url.contains("://") => Err(Refusal::wrong("failed to get HTTP URL content")),
        (None, Some(id)) => Ok(Given::Known(id)),
        (None, None) => Err(Refusal::wrong(format!("there is no {} in the request", kind.field()))),
    }
}

/// Limits of uploads. That a file is no picture is not the bot's fault: it cannot know without decoding it.
fn check(kind: MediaKind, upload: Upload) -> Result<Upload, Refusal> {
    if upload.bytes.is_empty() {
        return Err(Refusal::wrong("file must be non-empty"));
    }
    if upload.bytes.len() > UPLOAD_LIMIT {
        return Err(Refusal { code: 413, description: "Request Entity Too Large".into(), ..Refusal::wrong("") });
    }
    if kind == MediaKind::Photo {
        if upload.bytes.len() > MAX_PHOTO {
            return Err(Refusal::wrong(format!("file of size {} bytes is too big for a photo", upload.bytes.len())));
        }
        let Ok(size) = imagesize::blob_size(&upload.bytes) else {
            return Err(Refusal::unlucky("IMAGE_PROCESS_FAILED"));
        };
        let (long, short) = (size.width.max(size.height), size.width.min(size.height));
        if short == 0 || long + short > MAX_PHOTO_PIXELS || long > short * MAX_PHOTO_RATIO {
            return Err(Refusal::unlucky("PHOTO_INVALID_DIMENSIONS"));
        }
    }
    Ok(upload)
}

fn keep(world: &mut World, kind: MediaKind, given: Given) -> Result<StoredFile, Refusal> {
    match given {
        Given::New(upload) => Ok(world.files.keep(kind.folder(), &upload.name, &upload.mime, upload.bytes, 0)),
        Given::Known(id) => {
            world.files.by_id(&id).cloned().ok_or_else(|| Refusal::wrong("wrong file identifier/HTTP URL specified"))
        }
    }
}
