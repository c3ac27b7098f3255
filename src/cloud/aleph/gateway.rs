//! Public names of instances: the gateway at 2n6.me routes `https://<four words>.2n6.me` to the instance with that hash.

use aleph_types::item_hash::ItemHash;
use bip39::Language;
use reqwest::StatusCode;
use serde_json::Value;

use super::http::{host, send};
use super::{Aleph, AlephError};

/// A word of BIP-39's English list of 2,048 stands for so many bits.
const WORD_BITS: u32 = 11;

impl Aleph {
    /// The instance's public name: four words and the gateway's domain, with the port where that has one.
    pub fn public_name(&self, item_hash: &str) -> Result<String, AlephError> {
        Ok(format!("{}.{}", words(&native(item_hash)?), self.gateway_domain))
    }

    /// Whether the gateway routes the instance's name already.
    pub async fn routed(&self, item_hash: &str) -> Result<bool, AlephError> {
        let what = format!("the gateway {}", host(&self.gateway_url));
        let url = format!("{}/api/hash/{}", self.gateway_url, hex::encode(native(item_hash)?));
        let answer = send(self.http.get(&url), &what, self.deadlines.read).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        Ok(answer.ok(&what)?.get("active").and_then(Value::as_bool) == Some(true))
    }
}

/// The 32 bytes of an instance's hash.
pub(super) fn native(item_hash: &str) -> Result<[u8; 32], AlephError> {
    match ItemHash::try_from(item_hash) {
        Ok(ItemHash::Native(hash)) => Ok(*hash.as_bytes()),
        _ => Err(AlephError::Own("a stored instance's hash is not 64 hexadecimal digits".into())),
    }
}

/// The top 44 bits of the hash, 11 at a time from the top, as words.
fn words(hash: &[u8; 32]) -> String {
    let mut top = [0; 8];
    top.copy_from_slice(&hash[..8]);
    let top = u64::from_be_bytes(top);
    let index = |nth: u32| usize::try_from((top >> (64 - WORD_BITS * nth)) & ((1 << WORD_BITS) - 1)).unwrap_or(0);
    let list = Language::English.word_list();
    [1, 2, 3, 4].map(|nth| list[index(nth)]).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed apart, in Python: `b = int(hash, 16) >> 212`, then `words[(b >> s) & 2047] for s in (33, 22, 11, 0)`, with the
    /// list of the Python package `mnemonic`.
    #[test]
    fn the_name_is_the_top_44_bits_in_words() {
        let word = |hash: &str| words(&native(hash).unwrap());
        assert_eq!(word(&"00".repeat(32)), "abandon-abandon-abandon-abandon");
        assert_eq!(word(&"ff".repeat(32)), "zoo-zoo-zoo-zoo");
        let debian = "b6ff5c3a8205d1ca4c7c3369300eeafff498b558f71b851aa2114afd0a532717";
        assert_eq!(word(debian), "report-wife-attitude-advice");
        let ubuntu = "5330dcefe1857bcd97b7b7f24d1420a7d46232d53f27be280c8a7071d88bd84e";
        assert_eq!(word(ubuntu), "farm-manage-desk-seek");
    }

    #[test]
    fn what_is_no_hash_has_no_name() {
        for odd in ["", "../../secret", &"0".repeat(63), &"g".repeat(64)] {
            assert!(native(odd).is_err(), "{odd}");
        }
    }
}
