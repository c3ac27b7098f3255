//! Reads a streamed answer, within bounds of size and time.

use super::calls::{Calls, Piece};
use super::lines::{Lines, MAX_EVENT};
use super::{ModelError, ToolCall, Usage};
use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use reqwest::{Response, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sse_stream::{Sse, SseStream};
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// Longest text of an answer, in bytes: some 60 Telegram messages.
pub const MAX_TEXT: usize = 256 * 1024;
/// Longest stream, in bytes; each token comes in an envelope of some 200 bytes.
const MAX_STREAM: usize = 64 * 1024 * 1024;
/// Longest time of one answer, however busy the stream.
const MAX_TIME: Duration = Duration::from_secs(30 * 60);

/// An answer as it comes.
pub struct Answer {
    events: BoxStream<'static, Result<Sse, ModelError>>,
    /// Text that was read and not yet asked for.
    ready: Option<String>,
    usage: Option<Usage>,
    calls: Calls,
    text_bytes: usize,
    finished: bool,
    ended: bool,
}

impl Answer {
    pub(super) fn new(response: Response, idle_timeout: Duration) -> Self {
        let json = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/json"));
        let bytes = bounded(response, idle_timeout);
        let events = if json { whole_as_event(bytes) } else { server_sent(bytes) };
        Self { events, ready: None, usage: None, calls: Calls::default(), text_bytes: 0, finished: json, ended: false }
    }

    /// Waits until there is text to read, or until the end where there are only calls: nobody sees a call before its answer is
    /// whole, so until then all can be done again.
    pub(super) async fn wait_until_worked(&mut self) -> Result<(), ModelError> {
        while self.ready.is_none() {
            if !self.read_event().await? {
                return if self.calls.is_empty() { Err(ModelError::Empty) } else { Ok(()) };
            }
        }
        Ok(())
    }

    /// The next characters, never none; `None` at the end. Safe to drop while waiting: nothing gets lost.
    ///
    /// # Errors
    /// The answer broke off; what came before is all there is.
    pub async fn next(&mut self) -> Result<Option<String>, ModelError> {
        loop {
            if let Some(text) = self.ready.take() {
                return Ok(Some(text));
            }
            if !self.read_event().await? {
                return Ok(None);
            }
        }
    }

    /// What it cost, as the service last said; mostly known at the end only.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The calls of tools of an answer that has ended well; half a call is none.
    pub fn into_calls(self) -> Vec<ToolCall> {
        self.calls.finish()
    }

    /// Reads one event, only while nothing is in `ready`, into it; `false` at the end of the answer.
    async fn read_event(&mut self) -> Result<bool, ModelError> {
        if self.ended {
            return Ok(false);
        }
        let Some(event) = self.events.next().await else {
            self.ended = true;
            // Some servers end without `[DONE]`; without a reason to finish it is a broken connection.
            return if self.finished { Ok(false) } else { Err(ModelError::Broken) };
        };
        let Some(data) = event?.data else {
            return Ok(true);
        };
        let data = data.trim();
        if data == "[DONE]" {
            self.ended = true;
            return Ok(false);
        }
        if !data.is_empty() {
            self.take(data)?;
        }
        Ok(true)
    }

    fn take(&mut self, data: &str) -> Result<(), ModelError> {
        let chunk: Chunk = serde_json::from_str(data).map_err(|e| {
            // The error's own words may quote the answer.
            warn!(problem = ?e.classify(), line = e.line(), column = e.column(), "the model sent an unreadable chunk");
            ModelError::Unreadable
        })?;
        if chunk.error.is_some_and(|error| !error.is_null()) {
            warn!("the model reported an error in its answer");
            return Err(if self.text_bytes == 0 { failing() } else { ModelError::Reported });
        }
        if let Some(choice) = chunk.choices.unwrap_or_default().into_iter().next() {
            self.finished |= choice.finish_reason.is_some();
            let delta = choice.delta.or(choice.message).unwrap_or_default();
            for piece in delta.tool_calls.into_iter().flatten() {
                self.calls.take(piece)?;
            }
            let text = delta.content.unwrap_or_default();
            self.text_bytes += text.len();
            if self.text_bytes > MAX_TEXT {
                return Err(ModelError::TooLong);
            }
            if !text.is_empty() {
                self.ready = Some(text);
            }
        }
        self.usage = chunk.usage.as_ref().and_then(Usage::read).or(self.usage);
        Ok(())
    }
}

/// An error in place of the answer is as good as a 500.
fn failing() -> ModelError {
    ModelError::Failing { status: 500, retry_after: None }
}

/// The parts of a chunk, or of a whole completion, that are read; all may be missing or null, others are ignored.
#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    message: Option<Delta>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    tool_calls: Option<Vec<Piece>>,
}

type ByteStream = BoxStream<'static, Result<Bytes, ModelError>>;

/// The body with an end to every silence, to its size and to its time.
fn bounded(response: Response, idle_timeout: Duration) -> ByteStream {
    let deadline = Instant::now() + MAX_TIME;
    let start = (Box::pin(response.bytes_stream()), 0, false);
    stream::unfold(start, move |(mut body, mut size, failed)| async move {
        if failed {
            return None;
        }
        let item = match tokio::time::timeout(idle_timeout, body.next()).await {
            Err(_) => Err(ModelError::Silent(idle_timeout)),
            Ok(None) => return None,
            Ok(Some(Err(e))) => {
                warn!(error = %super::error_chain(&e.without_url()), "the model's answer broke off");
                Err(ModelError::Broken)
            }
            Ok(Some(Ok(_))) if Instant::now() > deadline => Err(ModelError::Endless),
            Ok(Some(Ok(bytes))) => {
                size += bytes.len();
                if size > MAX_STREAM { Err(ModelError::TooLong) } else { Ok(bytes) }
            }
        };
        let failed = item.is_err();
        Some((item, (body, size, failed)))
    })
    .boxed()
}

fn server_sent(bytes: ByteStream) -> BoxStream<'static, Result<Sse, ModelError>> {
    let mut lines = Lines::default();
    let data = bytes.map(move |piece| lines.keep(&piece?).map(Bytes::from));
    SseStream::from_bytes_stream(data)
        .map(|event| {
            event.map_err(|error| match error {
                sse_stream::Error::Body(cause) => {
                    cause.downcast::<ModelError>().map_or(ModelError::Broken, |error| *error)
                }
                _ => ModelError::Unreadable,
            })
        })
        .boxed()
}

/// A server that cannot stream answers in one piece.
fn whole_as_event(mut bytes: ByteStream) -> BoxStream<'static, Result<Sse, ModelError>> {
    let whole = async move {
        let mut body = Vec::new();
        while let Some(part) = bytes.next().await {
            body.extend_from_slice(&part?);
            if body.len() > MAX_EVENT {
                return Err(ModelError::TooLong);
            }
        }
        let text = String::from_utf8(body).map_err(|_| ModelError::Unreadable)?;
        Ok(Sse::default().data(text))
    };
    stream::once(whole).boxed()
}

/// The first bytes of a body; what cannot be read is left out.
pub(super) async fn read_bounded(response: Response, max: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut parts = Box::pin(response.bytes_stream());
    while let Some(Ok(part)) = parts.next().await {
        body.extend_from_slice(&part);
        if body.len() >= max {
            break;
        }
    }
    body.truncate(max);
    body
}
