//! Secrets at rest: Fernet, the format that the Python system's `BOT_ENCRYPTION_KEY` already made.

use std::sync::Arc;

use fernet::Fernet;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

/// Encrypts and decrypts under one Fernet key. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Fernet>);

/// A stored token that this key does not open: another key wrote it, or it was damaged.
#[derive(Debug, thiserror::Error)]
#[error("a stored secret cannot be decrypted with this BOT_ENCRYPTION_KEY")]
pub struct Undecryptable;

impl Vault {
    /// `None` if `key` is not 32 bytes in URL-safe base64.
    pub fn new(key: &SecretString) -> Option<Self> {
        Fernet::new(key.expose_secret().trim()).map(|fernet| Self(Arc::new(fernet)))
    }

    /// A new random key, as `baal keygen` prints it.
    pub fn generate_key() -> SecretString {
        Fernet::generate_key().into()
    }

    /// A Fernet token of `plain`, ready for a `bytea` column.
    pub fn encrypt(&self, plain: &[u8]) -> Vec<u8> {
        self.0.encrypt(plain).into_bytes()
    }

    /// A Fernet token of a value as JSON, which must be a plain one with string keys: such always serialise.
    pub fn seal(&self, value: &impl Serialize) -> Vec<u8> {
        self.encrypt(&serde_json::to_vec(value).unwrap_or_default())
    }

    /// The bytes behind a token.
    pub fn decrypt(&self, token: &[u8]) -> Result<Vec<u8>, Undecryptable> {
        // Tokens that came through files or editors carry a newline, which the crate refuses.
        let token = std::str::from_utf8(token).map_err(|_| Undecryptable)?.trim();
        self.0.decrypt(token).map_err(|_| Undecryptable)
    }

    /// The text behind a token, kept out of logs.
    pub fn decrypt_text(&self, token: &[u8]) -> Result<SecretString, Undecryptable> {
        String::from_utf8(self.decrypt(token)?).map(SecretString::from).map_err(|_| Undecryptable)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_python_cryptography_are_read_with_a_trailing_newline() {
        // From the Fernet specification's verify.json.
        let vault = Vault::new(&"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".to_owned().into()).expect("a key");
        let token =
            b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==\n";
        assert_eq!(vault.decrypt(token).expect("opens"), b"hello");
    }

    #[test]
    fn another_keys_token_is_refused() {
        let ours = Vault::new(&Vault::generate_key()).expect("a key");
        let theirs = Vault::new(&Vault::generate_key()).expect("a key");
        assert!(ours.decrypt(&theirs.encrypt(b"x")).is_err());
        assert_eq!(ours.decrypt(&ours.encrypt(b"x")).expect("opens"), b"x");
    }
}
