//! `GET /files/{path}`: snapshots of files that were sent, and the owner's files.

use super::{App, Failure};
use crate::files::{SnapshotPath, is_sensitive};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use baal_launcher::Root;
use baal_launcher::client::CallError;
use baal_launcher::wire::Failure as Refused;
use baal_protocol::MAX_FILE_BYTES;
use std::fmt::Write;
use tokio_util::io::ReaderStream;
use tracing::error;

const GONE: Failure = Failure::NotFound("there is no such file");

pub(super) async fn get(State(app): State<App>, Path(path): Path<String>) -> Result<Response, Failure> {
    // A snapshot that is gone is gone: a file of the same path in a workspace is another one.
    if let Some(path) = SnapshotPath::parse(&path) {
        let opened = app.files.open_snapshot(&path).await.map_err(|e| {
            error!(error = %e, "a snapshot cannot be read");
            Failure::Unavailable("the file cannot be read, try again in a moment")
        })?;
        let (file, size) = opened.ok_or(GONE)?;
        return Ok(attachment(path.name(), size, Body::from_stream(ReaderStream::with_capacity(file, 64 * 1024))));
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
    drop(permit);
    if content.truncated {
        return Err(Failure::FileTooLarge);
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    Ok(attachment(name, content.size, content.bytes.into()))
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
