//! `POST /chat` takes a turn in and streams its events; `DELETE /chat/{chat_id}` forgets a conversation.

use super::{App, Failure, events};
use crate::files::{UploadPath, quoted};
use crate::store::{Accepted, NewTurn};
use crate::tools::{HEARTBEAT_CHAT, SUBAGENT_CHAT, TurnKind};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::response::Response;
use baal_protocol::{Attachment, ChatDeleted, ChatRequest};
use sha2::{Digest, Sha256};
use tracing::{error, info};
use uuid::Uuid;

/// Longest chat id, in bytes.
const MAX_CHAT_ID: usize = 200;
const MAX_ATTACHMENTS: usize = 20;
/// Longest name of an attachment, in characters.
const MAX_NAME: usize = 200;

pub(super) async fn post(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, Failure> {
    let mut turn = read(&body?)?;
    let id = turn.id;
    check_attachments(&app, &mut turn).await?;
    // Before the turn exists, so that nothing of it is missed.
    let watch = app.store.watch(id);
    match app.turns.accept(turn).await? {
        Accepted::New { position, .. } => Ok(events::of_new_turn(app, id, position, watch)),
        Accepted::Known => events::of_turn(app, id, 0).await,
        Accepted::Conflict => Err(Failure::Conflict("this turn_id was used for another request")),
    }
}

/// Sees to it that every attachment came before its message.
async fn check_attachments(app: &App, turn: &mut NewTurn) -> Result<(), Failure> {
    let (turn, attachments) = (turn.id, &mut turn.request.attachments);
    let missing = |name: &str| {
        let name = quoted(name);
        Failure::BadRequest(format!(
            "the attachment {name} is missing; PUT it to /uploads/{turn}/ first, under its name"
        ))
    };
    // A turn that is known may be over, and its files gone: whoever asks again only wants its events.
    if attachments.is_empty() || app.store.read().turn(turn).await?.is_some() {
        return Ok(());
    }
    if attachments.len() > MAX_ATTACHMENTS {
        return Err(Failure::BadRequest(format!("a message can have {MAX_ATTACHMENTS} attachments")));
    }
    for attachment in attachments {
        let path = UploadPath::parse(&attachment.path, turn).ok_or_else(|| missing(&attachment.name))?;
        let found = app.files.open_upload(&path).await.map_err(|e| {
            error!(turn.id = %turn, error = %e, "an upload cannot be read");
            Failure::Unavailable("an attachment cannot be read, try again in a moment")
        })?;
        attachment.size = found.ok_or_else(|| missing(&attachment.name))?.1;
    }
    Ok(())
}

fn read(body: &[u8]) -> Result<NewTurn, Failure> {
    let bad = |problem: String| Failure::BadRequest(problem);
    let mut request: ChatRequest =
        serde_json::from_slice(body).map_err(|e| bad(format!("the body does not fit: {e}")))?;
    if request.message.trim().is_empty() && request.attachments.is_empty() {
        return Err(bad("message must not be empty".into()));
    }
    if request.chat_id.is_empty() || request.chat_id.len() > MAX_CHAT_ID {
        return Err(bad(format!("chat_id must be 1 to {MAX_CHAT_ID} bytes long")));
    }
    if request.chat_id == HEARTBEAT_CHAT || request.chat_id.starts_with(SUBAGENT_CHAT) {
        return Err(bad(format!("chat_id must not be {HEARTBEAT_CHAT} or begin with {SUBAGENT_CHAT}")));
    }
    let id = request.turn_id.take().unwrap_or_else(Uuid::new_v4);
    for attachment in &mut request.attachments {
        *attachment = as_stored(attachment, id);
    }
    // The fields in the order of the type, absent ones left out: the same request gives the same bytes.
    let canonical = serde_json::to_vec(&request).map_err(|e| bad(e.to_string()))?;
    let body_sha256 = Sha256::digest(&canonical).into();
    Ok(NewTurn { id, body_sha256, request, kind: TurnKind::Chat, deliver_to: None })
}

/// An attachment as the turn keeps it: at the path that its upload has, its name and type cut to what one may show.
fn as_stored(attachment: &Attachment, turn: Uuid) -> Attachment {
    let path = UploadPath::parse(&attachment.path, turn).map_or_else(|| attachment.path.clone(), |path| path.text());
    let name = attachment.name.chars().take(MAX_NAME).collect();
    let mime =
        attachment.mime.clone().filter(|mime| mime.len() <= MAX_NAME && mime.chars().all(|c| c.is_ascii_graphic()));
    Attachment { path, name, mime, size: attachment.size }
}

pub(super) async fn delete(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<ChatDeleted>, Failure> {
    let Path(chat_id) = path?;
    let deleted = app.turns.delete_chat(&chat_id).await?;
    info!(deleted, "conversation deleted");
    Ok(Json(ChatDeleted { status: "ok".into(), deleted }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(body: &str) -> [u8; 32] {
        read(body.as_bytes()).expect("fits").body_sha256
    }

    #[test]
    fn the_hash_sees_the_request_and_not_its_spelling() {
        let one = hash(r#"{"message":"hi","chat_id":"1","turn_id":"67e55044-10b1-426f-9247-bb680e5fe0c8"}"#);
        assert_eq!(one, hash(r#"{ "chat_id":"1", "message":"\u0068i", "stream":false, "new_field":1 }"#));
        assert_ne!(one, hash(r#"{"message":"ho","chat_id":"1"}"#));
        assert_ne!(one, hash(r#"{"message":"hi","chat_id":"2"}"#));
        assert_ne!(one, hash(r#"{"message":"hi","chat_id":"1","stream":true}"#));
        let edit = r#"{"message":"hi","chat_id":"1","edit_of":"67e55044-10b1-426f-9247-bb680e5fe0c8"}"#;
        assert_ne!(one, hash(edit));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for body in [
            "",
            "[]",
            r#"{"message":"","chat_id":"1"}"#,
            r#"{"message":"x","chat_id":""}"#,
            r#"{"message":"x"}"#,
            r#"{"message":"x","chat_id":"heartbeat"}"#,
            r#"{"message":"x","chat_id":"subagent:1"}"#,
        ] {
            assert!(matches!(read(body.as_bytes()), Err(Failure::BadRequest(_))), "{body}");
        }
    }
}
