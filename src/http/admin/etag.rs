//! Entity tags: which version of a thing somebody has seen. [`IfMatch`](super::extract::IfMatch) compares them.

use axum::http::{HeaderName, header};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// A strong tag of what can be changed of a thing: the same as long as none of it is.
pub(super) fn of(changeable: &impl Serialize) -> String {
    // silent-ok: plain fields are always JSON
    let json = serde_json::to_vec(changeable).unwrap_or_default();
    format!("\"{}\"", hex::encode(&Sha256::digest(json)[..12]))
}

/// The header of an answer that carries a tag.
pub(super) type Tagged = [(HeaderName, String); 1];

/// A tag as the header of an answer.
pub(super) fn tagged(tag: String) -> Tagged {
    [(header::ETAG, tag)]
}
