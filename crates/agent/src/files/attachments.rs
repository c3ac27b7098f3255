//! Attachments on their way into a workspace and before the model's eyes.

use super::{Files, UploadPath};
use baal_launcher::Root;
use baal_launcher::client::{CallError, Launcher};
use baal_launcher::wire::Failure;
use baal_protocol::MAX_FILE_BYTES;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncReadExt;
use tracing::error;
use uuid::Uuid;

/// Largest image that is shown to a model, in bytes.
const MAX_IMAGE: usize = 5 * 1024 * 1024;
/// Images of one message that are shown.
const MAX_OF_A_MESSAGE: usize = 8;
/// Bytes of the `data:` URLs of one message.
const MAX_BYTES_OF_A_MESSAGE: usize = 8 * 1024 * 1024;
/// Bytes of the `data:` URLs that all turns hold together.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// What became of an attachment.
#[derive(Clone, Default)]
pub struct Arrived {
    /// Why it is not in the workspace, in words for the model.
    pub problem: Option<String>,
    /// Where it is an image that the model is shown.
    pub image: Option<Image>,
}

/// An image before the model's eyes. Clones share it.
#[derive(Clone)]
pub struct Image {
    /// As a `data:` URL.
    pub url: Arc<str>,
    /// Its bytes are counted as long as a turn holds it.
    _place: Arc<Place>,
}

/// Bytes of the images that turns hold, by the turn that each was uploaded for. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Shown {
    messages: Arc<Mutex<HashMap<Uuid, Vec<usize>>>>,
}

impl Shown {
    /// Room for an image; `None` where there are too many.
    fn take(&self, turn: Uuid, bytes: usize) -> Option<Place> {
        let mut messages = self.lock();
        let all: usize = messages.values().flatten().sum();
        let of_message = messages.get(&turn).map(Vec::as_slice).unwrap_or_default();
        let fits = of_message.len() < MAX_OF_A_MESSAGE
            && of_message.iter().sum::<usize>() + bytes <= MAX_BYTES_OF_A_MESSAGE
            && all + bytes <= MAX_BYTES;
        fits.then(|| {
            messages.entry(turn).or_default().push(bytes);
            Place { shown: self.clone(), turn, bytes }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<usize>>> {
        // Every critical section is a few map operations, which leave the map whole.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Place {
    shown: Shown,
    turn: Uuid,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut messages = self.shown.lock();
        let Some(of_message) = messages.get_mut(&self.turn) else { return };
        if let Some(at) = of_message.iter().position(|bytes| *bytes == self.bytes) {
            of_message.swap_remove(at);
        }
        if of_message.is_empty() {
            messages.remove(&self.turn);
        }
    }
}

impl Files {
    /// Copies an upload into the workspace, under the path that it has here, unless it is there already: the model may have
    /// changed it before a restart.
    pub async fn bring_in(&self, path: &str, launcher: &Launcher, root: &Root) -> Arrived {
        let _one_at_a_time = self.whole_file().await;
        let bytes = match self.read_upload(path).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return in_workspace(path, launcher, root).await,
            Err(e) => {
                error!(error = %e, "an upload cannot be read");
                return Arrived::failed("it could not be read");
            }
        };
        let image = self.image(path, &bytes);
        let problem = match copy(path, &bytes, launcher, root).await {
            Ok(()) => None,
            Err(CallError::Failed(failure)) => Some(failure.to_string()),
            Err(CallError::Unavailable(e)) => {
                error!(error = %e, "an attachment could not be copied into the workspace");
                Some("the workspace does not answer".to_owned())
            }
        };
        Arrived { problem, image }
    }

    /// The image to be shown, where the file is one and there is room for it.
    fn image(&self, path: &str, bytes: &[u8]) -> Option<Image> {
        let mime = image_type(bytes).filter(|_| self.shows_images && bytes.len() <= MAX_IMAGE)?;
        let place = self.shared.shown.take(UploadPath::of(path)?.turn(), data_url_bytes(mime, bytes))?;
        Some(Image { url: data_url(mime, bytes).into(), _place: Arc::new(place) })
    }

    async fn read_upload(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = UploadPath::of(path) else { return Ok(None) };
        let Some((file, size)) = self.open_upload(&path).await? else { return Ok(None) };
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(MAX_FILE_BYTES)).unwrap_or(0));
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).await?;
        Ok(Some(bytes))
    }
}

impl Arrived {
    fn failed(why: &str) -> Self {
        Self { problem: Some(why.to_owned()), image: None }
    }
}

/// After a restart the upload may be gone, and its copy not.
async fn in_workspace(path: &str, launcher: &Launcher, root: &Root) -> Arrived {
    let read = async { launcher.open(root).await?.read(path, 1).await };
    match read.await {
        Ok(_) => Arrived::default(),
        // silent-ok: the model is told, and the person by it
        Err(_) => Arrived::failed("it is not there any more"),
    }
}

async fn copy(path: &str, bytes: &[u8], launcher: &Launcher, root: &Root) -> Result<(), CallError> {
    let mut session = launcher.open(root).await?;
    match session.read(path, 1).await {
        Ok(_) => Ok(()),
        Err(CallError::Failed(Failure::NotFound(_))) => session.write(path, bytes, None).await,
        Err(e) => Err(e),
    }
}

/// The media type of an image, known by its first bytes: what its sender calls it proves nothing.
fn image_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

fn data_url(mime: &str, bytes: &[u8]) -> String {
    format!("data:{mime};base64,{}", STANDARD.encode(bytes))
}

/// The length of [`data_url`], without making it.
fn data_url_bytes(mime: &str, bytes: &[u8]) -> usize {
    "data:;base64,".len() + mime.len() + bytes.len().div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_bytes() {
        let png = b"\x89PNG\r\n\x1a\nrest";
        assert_eq!(image_type(png), Some("image/png"));
        assert_eq!(data_url("image/png", png), "data:image/png;base64,iVBORw0KGgpyZXN0");
        assert_eq!(data_url_bytes("image/png", png), data_url("image/png", png).len());
        assert_eq!(image_type(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert!(image_type(b"GIF89a").is_some() && image_type(b"RIFF1234WEBPVP8 ").is_some());
        for other in [&b"<svg xmlns='http://www.w3.org/2000/svg'/>"[..], b"", b"\x89PNG", b"RIFF1234WAVE"] {
            assert_eq!(image_type(other), None);
        }
    }

    #[test]
    fn images_are_shown_where_the_model_sees_them_and_no_larger_ones() {
        let directory = tempfile::tempdir().expect("temp dir");
        let blind = Files::beside(&directory.path().join("agent.db")).expect("directories");
        let seeing = blind.clone().showing_images(true);
        let path = UploadPath::new(Uuid::new_v4(), "a.png").text();
        let mut png = b"\x89PNG\r\n\x1a\nrest".to_vec();
        assert!(blind.image(&path, &png).is_none() && seeing.image(&path, &png).is_some());
        png.resize(MAX_IMAGE + 1, 0);
        assert!(seeing.image(&path, &png).is_none());
    }

    #[test]
    fn images_in_memory_are_bounded_by_message_and_together() {
        let shown = Shown::default();
        let turn = Uuid::new_v4();
        let small: Vec<_> = (0..9).map(|_| shown.take(turn, 1)).collect();
        assert_eq!(small.iter().flatten().count(), MAX_OF_A_MESSAGE);
        drop(small);
        let large: Vec<_> = (0..20).filter_map(|_| shown.take(Uuid::new_v4(), MAX_BYTES_OF_A_MESSAGE)).collect();
        assert_eq!(large.len(), MAX_BYTES / MAX_BYTES_OF_A_MESSAGE);
        assert!(shown.take(turn, 1).is_none());
        drop(large);
        assert!(shown.take(turn, MAX_BYTES_OF_A_MESSAGE + 1).is_none());
        assert!(shown.take(turn, 1).is_some() && shown.lock().is_empty(), "all was given back");
    }
}
