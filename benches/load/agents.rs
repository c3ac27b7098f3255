//! All agents at one address: each answers at once, or after HOLD seconds, with the words that it was asked with;
//! and each may have something to say unasked.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use baal_protocol::ChatRequest;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::tls::Tls;
use crate::{pending, tls};

/// Seconds before an answer, where a test wants turns to stay open.
pub const HOLD: &str = "BAAL_BENCH_HOLD";
/// Set where each agent has one message for its owner, which it keeps for whoever has taken in nothing.
pub const PENDING: &str = "BAAL_BENCH_PENDING";

/// Serves until it is killed; tells its address on standard output.
pub async fn serve() -> anyhow::Result<()> {
    let hold: u64 = std::env::var(HOLD).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let speaks = std::env::var_os(PENDING).is_some();
    let app = Router::new()
        .route("/health", get(async || Json(json!({"status": "ok", "agent_name": "Ada"}))))
        .route("/version", get(async || Json(json!({"version": "0", "protocol": 3, "features": []}))))
        .route("/chat", post(move |body: Bytes| chat(body, hold)))
        .route("/turns/{id}/cancel", post(async |Path(_): Path<String>| StatusCode::OK))
        .route("/pending", get(move |headers: HeaderMap, query: Query<Since>| pending(headers, query, speaks)))
        .route("/pending/ack", post(async || Json(json!({"status": "ok"}))));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    println!("{address}");
    match std::env::var_os(tls::CERTIFICATE) {
        Some(file) => axum::serve(Tls::listen(listener, file.as_ref())?, app).await?,
        None => axum::serve(listener, app).await?,
    }
    Ok(())
}

async fn chat(body: Bytes, hold: u64) -> Response {
    let Ok(request) = serde_json::from_slice::<ChatRequest>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let events = format!(
        "data: {}\n\ndata: {{\"type\":\"usage\",\"prompt_tokens\":10,\"completion_tokens\":10,\"seq\":2}}\n\ndata: {{\"type\":\"done\",\"seq\":3}}\n\n",
        json!({"type": "text", "content": request.message, "seq": 1})
    );
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    if hold == 0 {
        return (headers, events).into_response();
    }
    // As an agent does: a sign of life now and then, in the protocol's time.
    let beats = hold / baal_protocol::KEEPALIVE_SECONDS;
    let signs = futures_util::stream::iter(0..beats).then(async |_| {
        tokio::time::sleep(Duration::from_secs(baal_protocol::KEEPALIVE_SECONDS)).await;
        Ok::<_, std::convert::Infallible>("data: {\"type\":\"keepalive\",\"seq\":0}\n\n".to_owned())
    });
    let rest = Duration::from_secs(hold % baal_protocol::KEEPALIVE_SECONDS);
    let answer = futures_util::stream::once(async move {
        tokio::time::sleep(rest).await;
        Ok(events)
    });
    let later = signs.chain(answer);
    (headers, Body::from_stream(later)).into_response()
}

/// What the caller has.
#[derive(Deserialize)]
struct Since {
    after: i64,
    #[serde(default)]
    wait: u64,
}

/// One message, or nothing: that is held open for as long as the caller asks.
async fn pending(headers: HeaderMap, Query(Since { after, wait }): Query<Since>, speaks: bool) -> Json<Value> {
    let owner = headers.get(header::HOST).and_then(|host| pending::owner(host.to_str().ok()?));
    let messages = match owner.filter(|_| speaks && after == 0) {
        Some(owner) => {
            json!([{"id": 1, "chat_id": owner.to_string(), "content": "It is time.", "source": "heartbeat"}])
        }
        None => {
            tokio::time::sleep(Duration::from_secs(wait.min(30))).await;
            json!([])
        }
    };
    Json(json!({"messages": messages, "database_id": "00000000-0000-4000-8000-000000000000"}))
}
