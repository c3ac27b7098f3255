//! `PUT /uploads/{turn_id}/{name}`: a file that comes with a message, before the message.

use super::{App, Failure, turns};
use crate::files::{self, ReceiveError, UploadPath};
use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use baal_protocol::{MAX_FILE_BYTES, Uploaded};
use tracing::{error, info, warn};

/// Longest name that is taken, in bytes.
const MAX_NAME: usize = 1024;

pub(super) async fn put(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Uploaded>, Failure> {
    let Path((turn_id, name)) = path?;
    let turn_id = turns::turn_id(&turn_id)?;
    if name.len() > MAX_NAME {
        return Err(Failure::BadRequest(format!("the name must be at most {MAX_NAME} bytes long")));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_FILE_BYTES) {
        return Err(Failure::FileTooLarge);
    }
    // One that is full of what was read already is not full.
    if app.files.uploads_are_many()
        && let Err(e) = files::sweep_uploads(&app.files, &app.store).await
    {
        warn!(error = %e, "old uploads could not be deleted");
    }
    let path = UploadPath::new(turn_id, &name);
    let size = app.files.receive(&path, body.into_data_stream()).await.map_err(|e| match e {
        ReceiveError::TooLarge => Failure::FileTooLarge,
        ReceiveError::TooMany | ReceiveError::Broken => Failure::BadRequest(e.to_string()),
        ReceiveError::Full => Failure::Unavailable("too many uploads wait for their message, try again later"),
        ReceiveError::Io(e) => {
            error!(turn.id = %turn_id, error = %e, "an upload could not be stored");
            Failure::Unavailable("the file could not be stored, look whether the agent's disk is full")
        }
    })?;
    info!(turn.id = %turn_id, size, "upload received");
    Ok(Json(Uploaded { path: path.text(), size }))
}
