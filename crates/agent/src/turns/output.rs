//! Passes on what a tool prints while it runs.

use crate::store::Store;
use axum::body::Bytes;
use baal_protocol::EventKind;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What comes within this time is one event.
const EVERY: Duration = Duration::from_millis(100);
/// Characters of one call that are passed on.
const MAX: usize = 30_000;
/// Bytes that make an event however soon they came.
const MUCH: usize = 16 * 1024;

/// Where the output of one call goes.
pub(super) struct Printed<'a> {
    pub store: &'a Store,
    pub position: i64,
    pub name: &'a str,
    /// Somebody reads it.
    pub wanted: bool,
}

impl Printed<'_> {
    /// Reads the output until `ended` and nothing is left, so that the tool never waits for long; whether any was stored.
    pub(super) async fn pass_on(mut self, mut output: mpsc::Receiver<Bytes>, ended: &CancellationToken) -> bool {
        let mut text = Text::default();
        let mut stored = false;
        let mut flush_at = Instant::now() + EVERY;
        loop {
            let due = self.wanted && text.has_any();
            tokio::select! {
                biased;
                piece = output.recv() => match piece {
                    Some(piece) => {
                        text.add(&piece, self.wanted);
                        if text.bytes.len() < MUCH {
                            continue;
                        }
                    }
                    None => {
                        let rest = text.take(true);
                        return self.send(rest).await || stored;
                    }
                },
                () = sleep_until(flush_at), if due => {}
                // What was sent before is still read.
                () = ended.cancelled(), if !output.is_closed() => {
                    output.close();
                    continue;
                }
            }
            let piece = text.take(false);
            stored |= self.send(piece).await;
            flush_at = Instant::now() + EVERY;
        }
    }

    async fn send(&mut self, content: String) -> bool {
        if content.is_empty() || !self.wanted {
            return false;
        }
        let event = EventKind::ToolOutput { name: self.name.to_owned(), content };
        if let Err(e) = self.store.append(self.position, vec![event]).await {
            self.wanted = false;
            warn!(error = %e, "a tool's output was not stored, its result will be");
        }
        true
    }
}

/// Bytes that become text, whose characters may come in pieces, up to a bound.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    taken: usize,
    /// There was more than is passed on.
    cut: bool,
}

impl Text {
    fn has_any(&self) -> bool {
        !self.bytes.is_empty()
    }

    fn add(&mut self, piece: &[u8], wanted: bool) {
        if wanted && !self.cut {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// What can be shown; half a character is kept for later, unless it is the last.
    fn take(&mut self, last: bool) -> String {
        let kept = if last { 0 } else { half_a_character(&self.bytes) };
        let rest = self.bytes.split_off(self.bytes.len() - kept);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        let count = text.chars().count();
        let left = MAX - self.taken;
        self.taken += count.min(left);
        if count > left {
            self.cut = true;
            self.bytes.clear();
            text = text.chars().take(left).collect();
            text += "\n[… the rest is not shown …]\n";
        }
        text
    }
}

/// Bytes at the end that may be the beginning of a character.
fn half_a_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    match tail.utf8_chunks().last() {
        Some(chunk) if !chunk.invalid().is_empty() => {
            let invalid = chunk.invalid();
            let incomplete = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if incomplete { invalid.len() } else { 0 }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole_however_the_output_is_cut() {
        let output = "aä€𝄞b\n".repeat(3);
        for size in 1..=output.len() {
            let (mut text, mut seen) = (Text::default(), String::new());
            for piece in output.as_bytes().chunks(size) {
                text.add(piece, true);
                seen += &text.take(false);
            }
            seen += &text.take(true);
            assert_eq!(seen, output, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_text_is_replaced_and_what_is_too_long_cut() {
        let mut text = Text::default();
        text.add(b"a\xff\xe2\x82", true);
        assert_eq!(text.take(false), "a\u{fffd}");
        assert_eq!(text.take(true), "\u{fffd}");

        let (mut text, mut seen) = (Text::default(), String::new());
        for _ in 0..10 {
            text.add("ä".repeat(MAX / 4).as_bytes(), true);
            seen += &text.take(false);
        }
        assert_eq!(seen.matches('ä').count(), MAX);
        assert!(seen.ends_with("not shown …]\n"));
    }
}
