//! Telegram's Bot API as far as a reply needs it: says yes to everything, and tells the driver what was sent to whom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::stack::FIRST_USER;

/// Where each user hears what was sent to them.
pub type Ears = Vec<mpsc::UnboundedReceiver<String>>;

struct Stub {
    mouths: Vec<mpsc::UnboundedSender<String>>,
    next: AtomicI64,
}

#[derive(Deserialize)]
struct Sent {
    chat_id: i64,
    text: String,
}

/// Serves within this process, for so many users.
pub async fn serve(users: usize) -> anyhow::Result<(SocketAddr, Ears)> {
    let (mouths, ears) = (0..users).map(|_| mpsc::unbounded_channel()).unzip();
    let stub = Arc::new(Stub { mouths, next: AtomicI64::new(1) });
    let app = Router::new().route("/{bot}/{method}", any(call)).with_state(stub);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((address, ears))
}

async fn call(State(stub): State<Arc<Stub>>, Path((_, method)): Path<(String, String)>, body: Bytes) -> Response {
    let result = match method.to_ascii_lowercase().as_str() {
        "getme" => r#"{"id":1000000001,"is_bot":true,"first_name":"Baal","username":"baal_bot","can_join_groups":true,"can_read_all_group_messages":false,"supports_inline_queries":false,"can_connect_to_business":false,"has_main_web_app":false}"#.to_owned(),
        "sendmessage" | "editmessagetext" => {
            let Ok(sent) = serde_json::from_slice::<Sent>(&body) else { return bad() };
            let id = stub.next.fetch_add(1, Ordering::Relaxed);
            let message = format!(
                r#"{{"message_id":{id},"date":1700000000,"chat":{{"id":{},"type":"private","first_name":"U"}},"text":"ok"}}"#,
                sent.chat_id
            );
            let user = usize::try_from(sent.chat_id - FIRST_USER).ok().and_then(|user| stub.mouths.get(user));
            if let Some(mouth) = user {
                // silent-ok: nobody waits for it any more.
                let _ = mouth.send(sent.text);
            }
            message
        }
        _ => "true".to_owned(),
    };
    ([(header::CONTENT_TYPE, "application/json")], format!(r#"{{"ok":true,"result":{result}}}"#)).into_response()
}

fn bad() -> Response {
    (axum::http::StatusCode::BAD_REQUEST, r#"{"ok":false,"error_code":400,"description":"Bad Request: what is that"}"#)
        .into_response()
}
