//! The directory that a connection sees.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Whose files a connection sees. Never a path, so that nothing on the wire can name a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Root {
    /// The owner's workspace.
    Owner,
    /// A visitor's directory: the first 16 bytes of the SHA-256 of the chat's id.
    Chat([u8; 16]),
}

/// A text that names no root.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no root: it is `owner` or `chats/` and 32 lower-case hexadecimal digits")]
pub struct BadRoot(String);

impl Root {
    /// Its place below the workspace's base directory.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// One name without a slash, for what is kept about it elsewhere.
    pub(crate) fn flat_name(&self) -> String {
        self.to_string().replace('/', "-")
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Chat(digest) => {
                f.write_str("chats/")?;
                digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl FromStr for Root {
    type Err = BadRoot;

    fn from_str(text: &str) -> Result<Self, BadRoot> {
        if text == "owner" {
            return Ok(Self::Owner);
        }
        let bad = || BadRoot(text.chars().take(64).collect());
        let digits = text.strip_prefix("chats/").map(str::as_bytes).ok_or_else(bad)?;
        let (pairs, rest) = digits.as_chunks::<2>();
        let mut digest = [0; 16];
        if !rest.is_empty() || pairs.len() != digest.len() {
            return Err(bad());
        }
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            *byte = nibble(*high).ok_or_else(bad)? << 4 | nibble(*low).ok_or_else(bad)?;
        }
        Ok(Self::Chat(digest))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl TryFrom<String> for Root {
    type Error = BadRoot;

    fn try_from(text: String) -> Result<Self, BadRoot> {
        text.parse()
    }
}

impl From<Root> for String {
    fn from(root: Root) -> Self {
        root.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_read_as_written() {
        for root in [Root::Owner, Root::Chat([0xa5; 16]), Root::Chat(*b"0123456789abcdef")] {
            assert_eq!(root.to_string().parse::<Root>().unwrap(), root);
        }
    }

    #[test]
    fn nothing_else_is_a_root() {
        let good = "a".repeat(32);
        let bad = ["", "owner/", "/owner", "Owner", "chats", "chats/", "chats/..", "chats/../owner", "../owner"];
        let near = [format!("chats/{good}/"), format!("chats/{good}a"), format!("chats/{}", "A".repeat(32)), good];
        for text in bad.iter().map(|text| (*text).to_owned()).chain(near) {
            assert!(text.parse::<Root>().is_err(), "{text}");
        }
    }
}
