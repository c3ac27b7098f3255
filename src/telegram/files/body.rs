//! A file as the body of a request, which knows whether it was read to its end.

use std::io::{self, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::Body;

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Whether a file was read to its end: a request that broke before cannot have been understood by whoever received it.
#[derive(Debug, Clone, Default)]
pub struct Whole(Arc<AtomicBool>);

impl Whole {
    /// Whether all of it was read.
    pub fn is_so(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn note(&self) {
        self.0.store(true, Ordering::Release);
    }
}

fn stopped() -> io::Error {
    io::Error::other("this replica must not send any more")
}

pub(super) fn of_bytes(bytes: Bytes, whole: &Whole, may_go: impl Fn() -> bool + Send + 'static) -> Body {
    let whole = whole.clone();
    Body::wrap_stream(stream::once(async move {
        if !may_go() {
            return Err(stopped());
        }
        whole.note();
        Ok(bytes)
    }))
}

/// From the beginning of `file`, `size` bytes long. Of two bodies of one file only the later may be read.
pub(super) fn of_file(
    file: &std::fs::File,
    size: u64,
    whole: &Whole,
    may_go: impl Fn() -> bool + Send + 'static,
) -> io::Result<Body> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    let (whole, mut left) = (whole.clone(), size);
    let reader = tokio::fs::File::from_std(file);
    let pieces = tokio_util::io::ReaderStream::with_capacity(reader, PIECE);
    let pieces = pieces.map(move |piece| {
        if !may_go() {
            return Err(stopped());
        }
        let piece = piece?;
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 {
            whole.note();
        }
        Ok(piece)
    });
    Ok(Body::wrap_stream(pieces))
}
