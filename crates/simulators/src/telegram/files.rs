//! Files of both sides, in memory: the newest, up to a total size.

use std::collections::VecDeque;

use axum::body::Bytes;

/// Bytes kept over all files.
const KEPT_BYTES: usize = 256 * 1024 * 1024;

#[derive(Clone)]
pub(crate) struct StoredFile {
    pub file_id: String,
    /// As `getFile` gives it.
    pub path: String,
    pub name: String,
    pub mime: String,
    pub bytes: Bytes,
}

#[derive(Default)]
pub(crate) struct Files {
    files: VecDeque<StoredFile>,
    total: usize,
}

impl Files {
    /// Keeps a file under `folder` ("photos", "documents") and gives it its id and path.
    pub fn keep(&mut self, folder: &str, name: &str, mime: &str, bytes: Bytes) -> StoredFile {
        let file_id = format!("sim{}", uuid::Uuid::new_v4().simple());
        let ending = name.rsplit_once('.').map_or("bin", |(_, ending)| ending);
        let ending: String = ending.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let path = format!("{folder}/{file_id}.{ending}");
        self.total += bytes.len();
        let file = StoredFile { file_id, path, name: name.to_owned(), mime: mime.to_owned(), bytes };
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
