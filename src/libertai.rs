//! LibertAI, as far as Baal itself asks it: what is left on an account.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::agents::http::read_json;

const CALL: Duration = Duration::from_secs(10);
/// Characters that a key may have. LibertAI's have about 35; the bound keeps nonsense out of headers and rows.
const KEY_CHARACTERS: std::ops::RangeInclusive<usize> = 8..=512;

/// What came of asking for a balance instead of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BalanceError {
    /// The key is not known, or not any more.
    #[error("LibertAI does not know the key")]
    Refused,
    /// The account has nothing left.
    #[error("LibertAI says that the account has no credits left")]
    Empty,
    /// No answer, or one that says to come later.
    #[error("LibertAI does not answer at the moment")]
    Unreachable,
    /// An answer without a balance.
    #[error("LibertAI answered something that is no balance")]
    Nonsense,
}

/// LibertAI's API under its base URL.
#[derive(Debug, Clone)]
pub struct LibertAi {
    http: reqwest::Client,
    base: String,
}

impl LibertAi {
    /// A client for `base`, such as `https://api.libertai.io/v1`.
    pub fn new(base: &str) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CALL)
            .timeout(CALL)
            // A key goes where the operator said, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, base: base.to_owned() })
    }

    /// `GET /credits/balance`: credits that are left on the key's account. LibertAI answers `{"balance": 12.5}`.
    pub async fn balance(&self, key: &SecretString) -> Result<f64, BalanceError> {
        #[derive(Deserialize)]
        struct Answer {
            balance: f64,
        }
        let request = self.http.get(format!("{}/credits/balance", self.base)).bearer_auth(key.expose_secret());
        let answer = request.send().await.map_err(|_| BalanceError::Unreachable)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(BalanceError::Refused),
            StatusCode::PAYMENT_REQUIRED => return Err(BalanceError::Empty),
            StatusCode::TOO_MANY_REQUESTS => return Err(BalanceError::Unreachable),
            status if status.is_server_error() => return Err(BalanceError::Unreachable),
            _ => return Err(BalanceError::Nonsense),
        }
        let balance = read_json::<Answer>(answer).await.map_err(|_| BalanceError::Nonsense)?.balance;
        if balance.is_finite() { Ok(balance) } else { Err(BalanceError::Nonsense) }
    }
}

/// The key in what somebody typed: one word of visible ASCII characters, 8 to 512 of them.
pub fn read_key(text: &str) -> Option<SecretString> {
    // Keys are copied with quotes, backticks or angle brackets around them.
    let word = text.trim().trim_matches(['"', '\'', '`', '<', '>']);
    let fits = KEY_CHARACTERS.contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| word.into())
}

/// A key as it may be shown: its beginning, where that says what it is, and its last four characters.
pub fn masked(key: &SecretString) -> String {
    let key = key.expose_secret();
    let end = key.get(key.len().saturating_sub(4)..).unwrap_or_default();
    let start = if key.starts_with("sk-") && key.len() >= 16 { "sk-" } else { "" };
    // Of a short key four characters would be half of it.
    if key.len() < 12 { "…".to_owned() } else { format!("{start}…{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_visible_word() {
        for (typed, key) in
            [(" sk-1234567 \n", "sk-1234567"), ("`sk-1234567`", "sk-1234567"), ("\"abcdefgh\"", "abcdefgh")]
        {
            assert_eq!(read_key(typed).map(|key| key.expose_secret().to_owned()).as_deref(), Some(key), "{typed}");
        }
        for typed in ["", "short", "two words here", "sk-ключ-ключ", "sk-\u{0}1234567", &"x".repeat(513)] {
            assert!(read_key(typed).is_none(), "{typed}");
        }
    }

    #[test]
    fn little_of_a_key_is_shown() {
        for (key, shown) in [("sk-0123456789abcdef", "sk-…cdef"), ("0123456789abcdef", "…cdef"), ("sk-01234567", "…")]
        {
            assert_eq!(masked(&key.into()), shown);
        }
    }
}
