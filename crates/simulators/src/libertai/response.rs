//! Turns a reply into an HTTP response, plain or piece by piece, with the failure it asks for.

use super::control::{Pace, Reply};
use super::refuse;
use super::request::Request;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

/// Pieces of one answer; longer texts come in larger pieces, so that the longest takes seconds, not minutes.
const MAX_PIECES: usize = 300;

pub(super) async fn respond(request: &Request, reply: Reply, pace: Pace) -> Response {
    tokio::time::sleep(Duration::from_millis(reply.delay_ms.unwrap_or(pace.first_ms))).await;
    if let Some(status) = reply.status {
        return failure(status, reply.retry_after);
    }
    if reply.hang && reply.content.is_none() && reply.raw.is_none() {
        let never: Infallible = std::future::pending().await;
        match never {}
    }
    if request.stream || reply.raw.is_some() {
        return streamed(request, reply, pace);
    }
    let content = reply.content.unwrap_or_default();
    let usage = usage(request, &content);
    let calls = tool_calls(&reply.tool_calls);
    let finish = if calls.is_empty() { "stop" } else { "tool_calls" };
    let mut message = json!({"role": "assistant", "content": content});
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    Json(json!({
        "id": format!("chatcmpl-{}", Uuid::new_v4().simple()), "object": "chat.completion", "created": 1_760_000_000,
        "model": request.model, "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }))
    .into_response()
}

fn failure(status: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = refuse(status, "scripted", "scripted failure");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// About four characters a token, as real tokenisers do for English.
fn usage(request: &Request, content: &str) -> Value {
    let prompt: usize = request.messages.iter().map(|m| m.text.chars().count() / 4 + 4).sum();
    let completion = content.chars().count() / 4 + 1;
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// Tool calls in OpenAI's form, short ones completed.
fn tool_calls(calls: &[Value]) -> Vec<Value> {
    calls
        .iter()
        .map(|call| {
            if call["function"].is_object() {
                return call.clone();
            }
            let arguments = match &call["arguments"] {
                Value::String(text) => text.clone(),
                Value::Null => "{}".to_owned(),
                other => other.to_string(),
            };
            let id = call["id"].as_str().map_or_else(|| format!("call_{}", Uuid::new_v4().simple()), str::to_owned);
            json!({"id": id, "type": "function", "function": {"name": call["name"], "arguments": arguments}})
        })
        .collect()
}

/// The text word by word, several words at a time where it is long.
fn pieces(content: &str) -> Vec<String> {
    let words: Vec<&str> = content.split_inclusive(' ').collect();
    words.chunks(words.len().div_ceil(MAX_PIECES).max(1)).map(|chunk| chunk.concat()).collect()
}

fn streamed(request: &Request, reply: Reply, pace: Pace) -> Response {
    let (out, body) = mpsc::channel::<Result<Bytes, io::Error>>(8);
    let head = json!({"id": format!("chatcmpl-{}", Uuid::new_v4().simple()), "object": "chat.completion.chunk",
        "created": 1_760_000_000, "model": request.model});
    let usage = request.include_usage.then(|| usage(request, reply.content.as_deref().unwrap_or_default()));
    // Ends by itself: sending fails once the caller is gone, and a hang waits for just that.
    tokio::spawn(async move {
        // silent-ok: the caller went away, which is the caller's right
        let _ = send(&out, head, usage, reply, pace).await; // silent-ok: the client has gone
    });
    let mut response = Body::from_stream(ReceiverStream::new(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

type Out = mpsc::Sender<Result<Bytes, io::Error>>;
type Sent = Result<(), mpsc::error::SendError<Result<Bytes, io::Error>>>;

async fn send(out: &Out, head: Value, usage: Option<Value>, reply: Reply, pace: Pace) -> Sent {
    if let Some(raw) = reply.raw {
        for _ in 0..reply.raw_repeat.unwrap_or(1) {
            out.send(Ok(Bytes::from(raw.clone()))).await?;
        }
        if reply.hang {
            out.closed().await;
        }
        return Ok(());
    }
    let pause = Duration::from_millis(reply.piece_delay_ms.unwrap_or(pace.piece_ms));
    chunk(out, &head, json!({"role": "assistant", "content": ""}), Value::Null).await?;
    for (at, piece) in pieces(reply.content.as_deref().unwrap_or_default()).into_iter().enumerate() {
        if reply.drop_after_pieces == Some(at) {
            return drop_connection(out, pause).await;
        }
        if at > 0 {
            tokio::time::sleep(pause).await;
        }
        chunk(out, &head, json!({"content": piece}), Value::Null).await?;
    }
    if reply.drop_after_pieces.is_some() {
        return drop_connection(out, pause).await;
    }
    if reply.hang {
        out.closed().await;
        return Ok(());
    }
    let calls = tool_calls(&reply.tool_calls);
    for (index, call) in calls.iter().enumerate() {
        // As real services do: the name first, then the arguments in pieces.
        let name = &call["function"]["name"];
        let opening = json!({"index": index, "id": call["id"], "type": "function",
            "function": {"name": name, "arguments": ""}});
        chunk(out, &head, json!({"tool_calls": [opening]}), Value::Null).await?;
        for piece in pieces(call["function"]["arguments"].as_str().unwrap_or_default()) {
            let part = json!({"index": index, "function": {"arguments": piece}});
            chunk(out, &head, json!({"tool_calls": [part]}), Value::Null).await?;
        }
    }
    chunk(out, &head, json!({}), json!(if calls.is_empty() { "stop" } else { "tool_calls" })).await?;
    if let Some(usage) = usage {
        let mut last = head;
        last["choices"] = json!([]);
        last["usage"] = usage;
        event(out, &last.to_string()).await?;
    }
    event(out, "[DONE]").await
}

/// Breaks the connection, but not before what was sent is on its way: the server throws away what it still holds.
async fn drop_connection(out: &Out, pause: Duration) -> Sent {
    tokio::time::sleep(pause.max(Duration::from_millis(100))).await;
    out.send(Err(io::Error::other("dropped as scripted"))).await
}

async fn chunk(out: &Out, head: &Value, delta: Value, finish: Value) -> Sent {
    let mut chunk = head.clone();
    chunk["choices"] = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    event(out, &chunk.to_string()).await
}

async fn event(out: &Out, data: &str) -> Sent {
    out.send(Ok(Bytes::from(format!("data: {data}\n\n")))).await
}
