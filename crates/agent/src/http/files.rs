//! `GET /files/{path}`: snapshots of files that were sent, and the owner's files.

use super::{App, Failure};
use crate::files::{SnapshotPath, is_sensitive};
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use baal_launcher::Root;
use baal_launcher::client::CallError;
use baal_launcher::wire::Failure as Refused;
use baal_protocol::MAX_FILE_BYTES;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::io::ReaderStream;
use tracing::error;

/// Bytes that are sent at once.
const PIECE: usize = 64 * 1024;
/// Longest wait for a caller to take one of them.
const SILENCE: Duration = Duration::from_secs(30);

const GONE: Failure = Failure::NotFound("there is no such file");

pub(super) async fn get(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(path) = path?;
    // A snapshot that is gone is gone: a file of the same path in a workspace is another one.
    if let Some(path) = SnapshotPath::parse(&path) {
        let opened = app.files.open_snapshot(&path).await.map_err(|e| {
            error!(error = %e, "a snapshot cannot be read");
            Failure::Unavailable("the file cannot be read, try again in a moment")
        })?;
        let (file, size) = opened.ok_or(GONE)?;
        return Ok(attachment(path.name(), size, Body::from_stream(ReaderStream::with_capacity(file, PIECE))));
    }
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(Failure::Forbidden("this path leads out of the workspace"));
    }
    if is_sensitive(&path) {
        return Err(Failure::Forbidden("files of this name are not given out"));
    }
    from_workspace(&app, &path).await
}

async fn from_workspace(app: &App, path: &str) -> Result<Response, Failure> {
    let permit = app.files.whole_file().await;
    let content = async { app.launcher.open(&Root::Owner).await?.read(path, MAX_FILE_BYTES).await };
    let content = content.await.map_err(|e| match e {
        CallError::Failed(Refused::NotFound(_) | Refused::Invalid(_)) => GONE,
        CallError::Failed(Refused::Denied(_)) => Failure::Forbidden("this path leads out of the workspace"),
        CallError::Failed(Refused::TooLarge(_)) => Failure::FileTooLarge,
        e => {
            error!(error = %e, "a file of the workspace cannot be read");
            Failure::Unavailable("the workspace does not answer, try again in a moment")
        }
    })?;
    if content.truncated {
        return Err(Failure::FileTooLarge);
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    Ok(attachment(name, content.size, held(content.bytes.into(), permit, SILENCE)))
}

/// A body that is in memory whole. It and the permit are let go when the last of it is sent, or when the caller is gone or
/// takes nothing for too long: others wait for the permit. What is cut off then is known by the length in the head.
fn held(mut bytes: Bytes, permit: Option<OwnedSemaphorePermit>, silence: Duration) -> Body {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            if sender.send_timeout(Ok::<_, Infallible>(piece), silence).await.is_err() {
                break;
            }
        }
        drop(permit);
    });
    Body::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

/// Bytes to be kept in a file, never to be shown or run by whoever gets them.
fn attachment(name: &str, size: u64, body: Body) -> Response {
    let mut disposition = String::from("attachment; filename*=UTF-8''");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            disposition.push(char::from(byte));
        } else {
            // silent-ok: writing to a String cannot fail
            let _ = write!(disposition, "%{byte:02X}");
        }
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
        (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_file_in_memory_counts_until_it_is_sent_or_nobody_takes_it() {
        let permits = Arc::new(Semaphore::new(1));
        let content = Bytes::from(vec![7; 10 * PIECE + 1]);
        let begin = async |silence| {
            held(content.clone(), permits.clone().acquire_owned().await.ok(), silence).into_data_stream()
        };

        let mut body = begin(SILENCE).await;
        assert!(body.next().await.is_some());
        assert_eq!(permits.available_permits(), 0);
        let rest: usize = body.map(|piece| piece.map_or(0, |piece| piece.len())).fold(0, async |a, b| a + b).await;
        assert_eq!(rest, 9 * PIECE + 1);

        let mut slow = begin(Duration::from_millis(50)).await;
        assert!(slow.next().await.is_some());
        // The next one waits for its permit until the slow caller is given up.
        drop(begin(SILENCE).await);
        assert!(slow.fold(0, async |n, _| n + 1).await < 10, "it was cut off");
    }
}
