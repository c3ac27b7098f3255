//! One question to the model, whose answer is passed on as it comes.

use crate::model::{Answer, Client, Message, ModelError, ToolCall, Usage};
use crate::store::Store;
use baal_protocol::EventKind;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Text that comes within this time is one delta: enough for the eye, and few rows.
const DELTA_EVERY: Duration = Duration::from_millis(50);

/// What one question to the model brought.
pub(super) struct Said {
    pub text: String,
    /// Only of an answer that is whole.
    pub calls: Vec<ToolCall>,
    pub usage: Option<Usage>,
    pub end: End,
    /// Partial text was stored.
    pub had_deltas: bool,
}

impl Said {
    /// Nothing: the turn was stopped before the model was asked.
    pub(super) fn stopped() -> Self {
        Self { text: String::new(), calls: Vec::new(), usage: None, end: End::Stopped, had_deltas: false }
    }
}

pub(super) enum End {
    Whole,
    Broken(ModelError),
    Stopped,
}

/// Asks the model once and reads its answer, until it ends, breaks or is stopped.
pub(super) async fn ask(
    model: &Client,
    messages: &[Message],
    tools: Option<&RawValue>,
    mut deltas: Deltas<'_>,
    stop: &CancellationToken,
) -> Said {
    let mut said = Said { text: String::new(), calls: Vec::new(), usage: None, end: End::Whole, had_deltas: false };
    match stop.run_until_cancelled(model.ask(messages, tools)).await {
        None => said.end = End::Stopped,
        Some(Err(e)) => said.end = End::Broken(e),
        Some(Ok(mut answer)) => {
            said.end = read(&mut answer, &mut said.text, &mut deltas, stop).await;
            said.usage = answer.usage();
            if matches!(said.end, End::Whole) {
                said.calls = answer.into_calls();
            }
        }
    }
    said.had_deltas = deltas.stored;
    if let End::Broken(e) = &said.end {
        warn!(error = %e, "the model gave no whole answer");
    }
    said
}

async fn read(answer: &mut Answer, whole: &mut String, deltas: &mut Deltas<'_>, stop: &CancellationToken) -> End {
    let mut pending = String::new();
    let mut flush_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return End::Stopped,
            () = sleep_until(flush_at), if deltas.wanted && !pending.is_empty() => {
                deltas.send(std::mem::take(&mut pending)).await;
                flush_at = Instant::now() + DELTA_EVERY;
            }
            piece = answer.next() => match piece {
                Ok(Some(text)) => {
                    if deltas.wanted {
                        pending.push_str(&text);
                    }
                    whole.push_str(&text);
                }
                Ok(None) => return End::Whole,
                Err(e) => return End::Broken(e),
            },
        }
    }
}

/// Where partial text goes.
pub(super) struct Deltas<'a> {
    store: &'a Store,
    position: i64,
    wanted: bool,
    stored: bool,
}

impl<'a> Deltas<'a> {
    pub(super) fn new(store: &'a Store, position: i64, wanted: bool) -> Self {
        Self { store, position, wanted, stored: false }
    }

    async fn send(&mut self, content: String) {
        // Also where it fails: then nobody knows.
        self.stored = true;
        if let Err(e) = self.store.append(self.position, vec![EventKind::Delta { content }]).await {
            // The whole text will follow; without this piece the next ones would not fit.
            self.wanted = false;
            warn!(error = %e, "partial text was not stored, the rest comes in one piece");
        }
    }
}
