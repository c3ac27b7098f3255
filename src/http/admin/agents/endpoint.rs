//! Where an agent is that runs already.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::problem::ApiError;
use crate::agents::external::{self, Found, SECRET_BYTES, URL_BYTES};
use crate::agents::service::{NewAgent, ServiceError};
use crate::app::App;

/// An agent that runs already. `Debug` leaves out its secret.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    /// Its base URL, below which are `/health` and `/chat`: https and on the internet, unless AGENT_ALLOW_PRIVATE says
    /// otherwise.
    #[schema(
        example = "https://agent.example.org",
        min_length = 8,
        max_length = 512,
        pattern = r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$"
    )]
    url: String,
    /// The bearer secret that it asks of its callers. It is kept encrypted and never shown.
    #[schema(example = "kQ3_long-random-text", min_length = 1, max_length = 512, pattern = "^[!-~]+$", write_only)]
    secret: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Whether it is written as the schema says.
    pub(super) fn check(&self) -> [Result<(), ServiceError>; 2] {
        let invalid = |field, message: String| Err(ServiceError::Invalid { field, message });
        let url = if self.url.len() <= URL_BYTES && is_bare(&self.url) {
            Ok(())
        } else {
            let message =
                "That is no address. Give one like https://agent.example.org, without a user's name, ? and #.";
            invalid("endpoint.url", message.into())
        };
        let secret = &self.secret;
        let secret = if (1..=SECRET_BYTES).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(())
        } else {
            let message = format!("A secret has 1 to {SECRET_BYTES} visible ASCII characters, without spaces.");
            invalid("endpoint.secret", message)
        };
        [url, secret]
    }

    /// Asks the agent how it is. Outside of transactions: it takes up to 15 s.
    pub(super) async fn look(&self, app: &App, new: &NewAgent) -> Result<Found, ApiError> {
        let endpoint = external::Endpoint { url: self.url.clone(), secret: self.secret.clone().into() };
        external::look(app, new, &endpoint).await.map_err(|error| match error {
            // It is written well: at fault is what is there, and where that is.
            ServiceError::Invalid { field, message } if field.starts_with("endpoint.") => ApiError::Conflict(message),
            other => other.into(),
        })
    }
}

/// Scheme, host, perhaps a port and a path of plain characters.
fn is_bare(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else { return false };
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match place.rsplit_once(':').filter(|_| !place.ends_with(']')) {
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    };
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)),
    };
    is_host && port.is_none_or(is_port) && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~/-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_lite::Regex;
    use utoipa::PartialSchema as _;

    #[test]
    fn addresses_are_as_the_schema_says() {
        let schema = serde_json::to_value(Endpoint::schema()).expect("JSON");
        let pattern =
            Regex::new(schema["properties"]["url"]["pattern"].as_str().expect("a pattern")).expect("a pattern");
        let addresses = [
            ("https://agent.example.org", true),
            ("http://127.0.0.1:8080/a/b_c~d", true),
            ("https://[2001:db8::1]:443/", true),
            ("https://[2001:db8::1]", true),
            ("https://-..", true),
            ("https://a.org:123456", false),
            ("https://a.org:", false),
            ("https://:80", false),
            ("https://[]", false),
            ("https://a:b:80", false),
            ("https://u@a.org", false),
            ("https://u:p@a.org", false),
            ("https://a.org?x", false),
            ("https://a.org/#x", false),
            ("https://bücher.example", false),
            ("https://a.org/ x", false),
            ("ftp://a.org", false),
            ("a.org", false),
            ("", false),
        ];
        for (url, good) in addresses {
            assert_eq!((is_bare(url), pattern.is_match(url)), (good, good), "{url}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let endpoint = Endpoint { url: "https://a.org".into(), secret: "hidden".into() };
        assert!(!format!("{endpoint:?}").contains("hidden"));
    }
}
