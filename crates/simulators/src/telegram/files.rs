//! Files of both sides, in memory: the newest, up to a total size.

use std::collections::VecDeque;

use axum::body::Bytes;
use serde_json::{Value, json};

/// Bytes kept over all files.
const KEPT_BYTES: usize = 256 * 1024 * 1024;

/// As what a file is in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaKind {
    Photo,
    Document,
    Voice,
    Audio,
    Video,
    VideoNote,
    Animation,
    Sticker,
}

impl MediaKind {
    /// The field of the Bot API's message.
    pub fn field(self) -> &'static str {
        match self {
            Self::Photo => "photo",
            Self::Document => "document",
            Self::Voice => "voice",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::VideoNote => "video_note",
            Self::Animation => "animation",
            Self::Sticker => "sticker",
        }
    }

    /// The first part of `file_path`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Photo => "photos",
            Self::Document => "documents",
            Self::Voice => "voice",
            Self::Audio => "music",
            Self::Video => "videos",
            Self::VideoNote => "video_notes",
            Self::Animation => "animations",
            Self::Sticker => "stickers",
        }
    }

    /// What clients make of such a file unless they know better.
    pub fn usual_mime(self) -> &'static str {
        match self {
            Self::Photo => "image/jpeg",
            Self::Document => "application/octet-stream",
            Self::Voice => "audio/ogg",
            Self::Audio => "audio/mpeg",
            Self::Video | Self::VideoNote | Self::Animation => "video/mp4",
            Self::Sticker => "image/webp",
        }
    }
}

#[derive(Clone)]
pub(crate) struct StoredFile {
    pub file_id: String,
    /// As `getFile` gives it.
    pub path: String,
    pub name: String,
    pub mime: String,
    pub bytes: Bytes,
    /// In bytes, as Telegram tells it: that of `bytes`, or a larger one that a user claimed.
    pub size: usize,
}

#[derive(Default)]
pub(crate) struct Files {
    files: VecDeque<StoredFile>,
    total: usize,
}

impl Files {
    /// Keeps a file under `folder` and gives it its id and path. `size` counts where it is more than there are bytes.
    pub fn keep(&mut self, folder: &str, name: &str, mime: &str, bytes: Bytes, size: usize) -> StoredFile {
        let file_id = format!("sim{}", uuid::Uuid::new_v4().simple());
        let ending = name.rsplit_once('.').map_or("bin", |(_, ending)| ending);
        let ending: String = ending.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let path = format!("{folder}/{file_id}.{ending}");
        self.total += bytes.len();
        let size = size.max(bytes.len());
        let file = StoredFile { file_id, path, name: name.to_owned(), mime: mime.to_owned(), bytes, size };
        self.files.push_back(file.clone());
        while self.total > KEPT_BYTES && self.files.len() > 1 {
            self.total -= self.files.pop_front().map_or(0, |oldest| oldest.bytes.len());
        }
        file
    }

    pub fn by_id(&self, file_id: &str) -> Option<&StoredFile> {
        self.files.iter().rev().find(|file| file.file_id == file_id)
    }

    pub fn by_path(&self, path: &str) -> Option<&StoredFile> {
        self.files.iter().rev().find(|file| file.path == path)
    }
}

impl StoredFile {
    /// The same for the same file, and of no use to a bot but for comparing.
    pub fn unique(&self) -> &str {
        self.file_id.get(3..18).unwrap_or(&self.file_id)
    }

    /// Width and height in pixels, if it is a picture.
    pub fn pixels(&self) -> Option<(usize, usize)> {
        imagesize::blob_size(&self.bytes).ok().map(|size| (size.width, size.height))
    }
}

/// A file as a message shows it. A photo comes in two sizes, the smaller one first, each a file of its own.
pub(crate) fn describe(kind: MediaKind, file: &StoredFile, files: &mut Files) -> Value {
    let mut described = json!({ "file_id": file.file_id, "file_unique_id": file.unique(), "file_size": file.size });
    let mut more = |fields: Value| {
        if let (Value::Object(described), Value::Object(fields)) = (&mut described, fields) {
            described.extend(fields);
        }
    };
    // Nothing but pictures is decoded: the rest is as long and as large as it may well be.
    let (width, height) = file.pixels().unwrap_or((800, 600));
    match kind {
        MediaKind::Photo => {
            more(json!({ "width": width, "height": height }));
            let small =
                files.keep(kind.folder(), &file.name, &file.mime, file.bytes.slice(..file.bytes.len().min(64)), 0);
            let small = json!({ "file_id": small.file_id, "file_unique_id": small.unique(), "file_size": small.size,
                                "width": (width / 10).max(1), "height": (height / 10).max(1) });
            return json!([small, described]);
        }
        MediaKind::Document => more(json!({ "file_name": file.name, "mime_type": file.mime })),
        MediaKind::Voice => more(json!({ "duration": 12, "mime_type": file.mime })),
        MediaKind::Audio => more(json!({ "duration": 180, "mime_type": file.mime, "file_name": file.name })),
        MediaKind::Video | MediaKind::Animation => more(json!({
            "duration": 8, "width": 640, "height": 360, "mime_type": file.mime, "file_name": file.name,
        })),
        MediaKind::VideoNote => more(json!({ "duration": 8, "length": 240 })),
        MediaKind::Sticker => more(json!({
            "type": "regular", "width": 512, "height": 512, "is_animated": false, "is_video": false, "emoji": "👍",
        })),
    }
    described
}
