//! Random words that let somebody in: links and invitations. Tables hold what finds them, never what lets in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// A new token: 128 random bits in URL-safe base64, 22 characters.
pub fn new() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}

/// SHA-256 of a token: whoever reads the table cannot come in by what stands there.
pub fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
