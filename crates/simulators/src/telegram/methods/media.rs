//! Files that the bot sends and fetches.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::messages::{formatted, markup, placement, post};
use super::{spend, writable};
use crate::telegram::Telegram;
use crate::telegram::files::StoredFile;
use crate::telegram::params::{Params, UPLOAD_LIMIT};
use crate::telegram::refusal::Refusal;
use crate::telegram::world::World;

/// UTF-16 units of a caption.
const MAX_CAPTION: usize = 1_024;
/// Bytes of a photo.
const MAX_PHOTO: usize = 10 * 1024 * 1024;
/// Bytes of a file that the bot can fetch.
const MAX_DOWNLOAD: usize = 20 * 1024 * 1024;

impl Telegram {
    /// `sendPhoto` and `sendDocument`: an upload, or the `file_id` of an earlier file.
    pub(super) fn send_file(&self, kind: &str, mut params: Params) -> Result<Value, Refusal> {
        let content = formatted(&params, "caption", "caption_entities")?;
        if content.len() > MAX_CAPTION {
            return Err(Refusal::wrong("message caption is too long"));
        }
        let markup = markup(&params)?;
        let attached = params.text(kind)?.map(str::to_owned);
        let upload_name = attached.as_deref().and_then(|text| text.strip_prefix("attach://")).unwrap_or(kind);
        let upload = params.take_file(upload_name);
        let limit = if kind == "photo" { MAX_PHOTO } else { UPLOAD_LIMIT };
        let mut world = self.world();
        let rate = world.per_chat_per_second;
        let chat = writable(&mut world, &params)?;
        let chat_id = chat.id;
        let file = match (upload, attached) {
            (Some(upload), _) if upload.bytes.is_empty() => return Err(Refusal::wrong("file must be non-empty")),
            (Some(upload), _) if upload.bytes.len() > limit => {
                return Err(Refusal { code: 413, ..Refusal::wrong("file is too big") });
            }
            (Some(upload), _) => {
                spend(rate, chat)?;
                keep(&mut world, kind, &upload.name, &upload.mime, upload.bytes)
            }
            (None, Some(id)) => {
                spend(rate, chat)?;
                let known = world.files.by_id(&id).cloned();
                known.ok_or_else(|| Refusal::wrong("wrong file identifier/HTTP URL specified"))?
            }
            (None, None) => return Err(Refusal::wrong(format!("there is no {kind} in the request"))),
        };
        let mut extra = placement(&world, chat_id, &params)?;
        extra.insert(kind.into(), describe(kind, &file));
        Ok(post(&mut world, chat_id, content, markup, extra))
    }

    pub(super) fn get_file(&self, params: &Params) -> Result<Value, Refusal> {
        let id = params.text("file_id")?.unwrap_or("");
        if id.is_empty() {
            return Err(Refusal::wrong("file_id not specified"));
        }
        let world = self.world();
        let file = world.files.by_id(id).ok_or_else(|| Refusal::wrong("invalid file_id"))?;
        if file.bytes.len() > MAX_DOWNLOAD {
            return Err(Refusal::unlucky("file is too big"));
        }
        Ok(json!({
            "file_id": file.file_id,
            "file_unique_id": unique(file),
            "file_size": file.bytes.len(),
            "file_path": file.path,
        }))
    }
}

fn unique(file: &StoredFile) -> &str {
    file.file_id.get(3..18).unwrap_or(&file.file_id)
}

/// Stores a file of `kind` ("photo", "document").
pub(in crate::telegram) fn keep(world: &mut World, kind: &str, name: &str, mime: &str, bytes: Bytes) -> StoredFile {
    world.files.keep(if kind == "photo" { "photos" } else { "documents" }, name, mime, bytes)
}

/// A file as a message's `photo` or `document`. Photos are not decoded: their size is a plausible one.
pub(in crate::telegram) fn describe(kind: &str, file: &StoredFile) -> Value {
    let mut described =
        json!({ "file_id": file.file_id, "file_unique_id": unique(file), "file_size": file.bytes.len() });
    if kind == "photo" {
        described["width"] = 800.into();
        described["height"] = 600.into();
        return Value::Array(vec![described]);
    }
    described["file_name"] = file.name.clone().into();
    described["mime_type"] = file.mime.clone().into();
    described
}
