//! Attachments on their way into a workspace and before the model's eyes.

use super::{Files, UploadPath};
use baal_launcher::Root;
use baal_launcher::client::{CallError, Launcher};
use baal_launcher::wire::Failure;
use baal_protocol::MAX_FILE_BYTES;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io;
use tokio::io::AsyncReadExt;
use tracing::error;

/// Largest image that is shown to a model, in bytes.
const MAX_IMAGE: usize = 5 * 1024 * 1024;

/// What became of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Why it is not in the workspace, in words for the model.
    pub problem: Option<String>,
    /// As a `data:` URL, where it is an image that can be shown.
    pub image: Option<String>,
}

impl Files {
    /// Copies an upload into the workspace, under the path that it has here, unless it is there already: the model may have
    /// changed it before a restart.
    pub async fn bring_in(&self, path: &str, launcher: &Launcher, root: &Root) -> Arrived {
        let _one_at_a_time = self.whole_file().await;
        let bytes = match self.read_upload(path).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Arrived::failed("it is not there any more"),
            Err(e) => {
                error!(error = %e, "an upload cannot be read");
                return Arrived::failed("it could not be read");
            }
        };
        let image = data_url(&bytes);
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

async fn copy(path: &str, bytes: &[u8], launcher: &Launcher, root: &Root) -> Result<(), CallError> {
    let mut session = launcher.open(root).await?;
    match session.read(path, 1).await {
        Ok(_) => Ok(()),
        Err(CallError::Failed(Failure::NotFound(_))) => session.write(path, bytes, None).await,
        Err(e) => Err(e),
    }
}

/// An image as a `data:` URL, known by its first bytes: what its sender calls it proves nothing.
fn data_url(bytes: &[u8]) -> Option<String> {
    let mime = match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => return None,
    };
    (bytes.len() <= MAX_IMAGE).then(|| format!("data:{mime};base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_bytes_and_bounded() {
        let png = b"\x89PNG\r\n\x1a\nrest";
        assert_eq!(data_url(png).as_deref(), Some("data:image/png;base64,iVBORw0KGgpyZXN0"));
        assert!(data_url(b"\xff\xd8\xff\xe0").is_some_and(|url| url.starts_with("data:image/jpeg;")));
        assert!(data_url(b"GIF89a").is_some() && data_url(b"RIFF1234WEBPVP8 ").is_some());
        for other in [&b"<svg xmlns='http://www.w3.org/2000/svg'/>"[..], b"", b"\x89PNG", b"RIFF1234WAVE"] {
            assert_eq!(data_url(other), None);
        }
        let mut large = png.to_vec();
        large.resize(MAX_IMAGE + 1, 0);
        assert_eq!(data_url(&large), None);
    }
}
