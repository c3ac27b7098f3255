//! Secrets at rest: Fernet, the format that the Python system's `BOT_ENCRYPTION_KEY` already made.

use std::sync::Arc;

use fernet::Fernet;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

/// A token says when it was made, and the crate refuses those of more than a minute from now. What we keep does not expire, and has
/// to open where the clock is behind the one that it was made by: so it is late, always. Less than the minute that is added.
const END_OF_TIME: u64 = u64::MAX - 60;

/// Fernet keys: the first encrypts, all decrypt, so that keys can be changed while programs run. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Ring>);

struct Ring {
    /// Never empty.
    keys: Vec<Fernet>,
    text: SecretString,
}

/// A stored token that none of the keys opens: another key wrote it, or it was damaged.
#[derive(Debug, thiserror::Error)]
#[error("a stored secret cannot be decrypted with this BOT_ENCRYPTION_KEY")]
pub struct Undecryptable;

/// Why a text is no list of keys. Goes on behind the name of what was to hold them, and shows nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// The only one is none.
    #[error("is not a Fernet key (32 bytes in URL-safe base64)")]
    NotAKey,
    /// One of several is none; counted from 1.
    #[error("holds {of} keys, of which number {which} is not a Fernet key (32 bytes in URL-safe base64)")]
    NotAllKeys {
        /// Which.
        which: usize,
        /// Of how many.
        of: usize,
    },
    /// Two are the same, which is never meant; counted from 1.
    #[error("holds the same key twice (numbers {0} and {1}): was one of them to be another?")]
    Twice(usize, usize),
}

impl Vault {
    /// From keys of 32 bytes in URL-safe base64 each, separated by commas or white space, lines among it.
    pub fn new(keys: &SecretString) -> Result<Self, BadKeys> {
        let texts = keys.expose_secret().split(|c: char| c == ',' || c.is_whitespace());
        let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
        let mut ring: Vec<Fernet> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let key = Fernet::new(text).ok_or(match texts.len() {
                1 => BadKeys::NotAKey,
                of => BadKeys::NotAllKeys { which: index + 1, of },
            })?;
            // One key can be written in several ways, with padding and without.
            let probe = key.encrypt(b"");
            if let Some(same) = ring.iter().position(|other| other.decrypt(&probe).is_ok()) {
                return Err(BadKeys::Twice(same + 1, index + 1));
            }
            ring.push(key);
        }
        match ring.is_empty() {
            true => Err(BadKeys::NotAKey),
            false => Ok(Self(Arc::new(Ring { keys: ring, text: texts.join(",").into() }))),
        }
    }

    /// How many keys there are; at least one.
    pub fn size(&self) -> usize {
        self.0.keys.len()
    }

    /// The keys as BOT_ENCRYPTION_KEY takes them, for what is to outlive this host.
    pub fn keys(&self) -> &SecretString {
        &self.0.text
    }

    /// A new random key, as `baal keygen` prints it.
    pub fn generate_key() -> SecretString {
        Fernet::generate_key().into()
    }

    /// A Fernet token of `plain` under the first key, ready for a `bytea` column.
    pub fn encrypt(&self, plain: &[u8]) -> Vec<u8> {
        self.0.keys[0].encrypt(plain).into_bytes()
    }

    /// A Fernet token of a value as JSON, which must be a plain one with string keys: such always serialise.
    pub fn seal(&self, value: &impl Serialize) -> Vec<u8> {
        self.encrypt(&serde_json::to_vec(value).unwrap_or_default())
    }

    /// The bytes behind a token.
    pub fn decrypt(&self, token: &[u8]) -> Result<Vec<u8>, Undecryptable> {
        self.open(token).map(|(_, plain)| plain).ok_or(Undecryptable)
    }

    /// The key that opens a token, counted from 0, and the bytes behind it.
    fn open(&self, token: &[u8]) -> Option<(usize, Vec<u8>)> {
        // Tokens that came through files or editors carry a newline, which the crate refuses.
        let token = std::str::from_utf8(token).ok()?.trim();
        let mut keys = self.0.keys.iter().enumerate();
        keys.find_map(|(index, key)| Some((index, key.decrypt_at_time(token, None, END_OF_TIME).ok()?)))
    }

    /// Which key a stored value needs, counted from 0: of several tokens, one a line (see [`crate::turns::request`]), the last
    /// key that one of them needs. `None`: there is one that no key opens.
    pub fn key_of(&self, stored: &[u8]) -> Option<usize> {
        tokens(stored).map(|token| self.open(token).map(|(key, _)| key)).try_fold(0, |last, key| Some(last.max(key?)))
    }

    /// A stored value under the first key: each of its tokens, in their order.
    pub fn renew(&self, stored: &[u8]) -> Result<Vec<u8>, Undecryptable> {
        let renewed: Result<Vec<_>, _> = tokens(stored).map(|token| Ok(self.encrypt(&self.decrypt(token)?))).collect();
        Ok(renewed?.join(&b'\n'))
    }

    /// The text behind a token, kept out of logs.
    pub fn decrypt_text(&self, token: &[u8]) -> Result<SecretString, Undecryptable> {
        String::from_utf8(self.decrypt(token)?).map(SecretString::from).map_err(|_| Undecryptable)
    }
}

fn tokens(stored: &[u8]) -> impl Iterator<Item = &[u8]> {
    stored.split(|byte| *byte == b'\n').filter(|token| !token.trim_ascii().is_empty())
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
    fn what_a_clock_ahead_of_ours_has_sealed_opens() {
        let key = Vault::generate_key();
        let vault = Vault::new(&key).expect("a key");
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        for at in [0, now - 86_400, now + 61, now + 10 * 365 * 86_400, u64::MAX] {
            let token = Fernet::new(key.expose_secret()).expect("a key").encrypt_at_time(b"x", at);
            assert_eq!(vault.decrypt(token.as_bytes()).expect("opens"), b"x", "{at}");
        }
    }

    #[test]
    fn another_keys_token_is_refused() {
        let ours = Vault::new(&Vault::generate_key()).expect("a key");
        let theirs = Vault::new(&Vault::generate_key()).expect("a key");
        assert!(ours.decrypt(&theirs.encrypt(b"x")).is_err());
        assert_eq!(ours.decrypt(&ours.encrypt(b"x")).expect("opens"), b"x");
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let (old, new) = (Vault::generate_key(), Vault::generate_key());
        let both = |first: &SecretString, second: &SecretString, between: &str| {
            let text = format!(" {}{between}{}\n", first.expose_secret(), second.expose_secret());
            Vault::new(&text.into()).expect("two keys")
        };
        let [old_only, new_only] = [&old, &new].map(|key| Vault::new(key).expect("a key"));
        for between in [",", " , ", "\n", "\r\n\n", ",\n"] {
            let vault = both(&new, &old, between);
            assert_eq!((vault.size(), vault.key_of(&vault.encrypt(b"x"))), (2, Some(0)));
            assert_eq!(new_only.decrypt(&vault.encrypt(b"x")).expect("opens"), b"x");
            assert_eq!(vault.decrypt(&old_only.encrypt(b"x")).expect("opens"), b"x");
            assert_eq!(Vault::new(vault.keys()).expect("keys").key_of(&old_only.encrypt(b"x")), Some(1));
        }
        let vault = both(&new, &old, ",");
        let several = [old_only.encrypt(b"one"), new_only.encrypt(b"two"), old_only.encrypt(b"three")].join(&b'\n');
        assert_eq!((vault.key_of(&several), old_only.key_of(&several), vault.key_of(b"")), (Some(1), None, Some(0)));
        let renewed = vault.renew(&several).expect("opens");
        let words: Vec<_> = tokens(&renewed).map(|token| new_only.decrypt(token).expect("under the new key")).collect();
        assert_eq!(words, [b"one".as_slice(), b"two", b"three"]);
        assert!(new_only.renew(&several).is_err());
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused_without_showing_it() {
        let (one, other) = (Vault::generate_key(), Vault::generate_key());
        let (one, other) = (one.expose_secret(), other.expose_secret());
        let unpadded = one.trim_end_matches('=');
        for (text, expected) in [
            (String::new(), BadKeys::NotAKey),
            (" , \n".into(), BadKeys::NotAKey),
            ("hunter2".into(), BadKeys::NotAKey),
            (format!("{one},hunter2"), BadKeys::NotAllKeys { which: 2, of: 2 }),
            (format!("{one}{other}"), BadKeys::NotAKey),
            (format!("{one},{other},{one}"), BadKeys::Twice(1, 3)),
            (format!("{other} {unpadded} {one}"), BadKeys::Twice(2, 3)),
        ] {
            let refused = Vault::new(&text.into()).expect_err("refused");
            assert_eq!(refused, expected);
            assert!(!refused.to_string().contains("hunter2"));
        }
    }
}
