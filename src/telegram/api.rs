//! Calls to the Bot API: teloxide-core's payloads and types over a transport of our own.
//!
//! teloxide-core's transport sleeps ten seconds on a 5xx, loses `error_code` and takes a 429 with an unknown parameter
//! for invalid JSON; this one reads Telegram's envelope tolerantly and tells three failures apart that callers must treat
//! differently: refused, never sent, and perhaps received.

use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use teloxide_core::requests::Payload;

use super::files::Whole;
use super::outbox::method_name;
use crate::causes;
use crate::config::Config;
use crate::eyes::metrics;
use crate::trace;

/// How long a call may take where nobody says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A Bot API client for one bot; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: SecretString,
}

/// Why a call did not succeed. None of the texts holds the token or the URL it stands in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Telegram answered no.
    #[error("Telegram answered {code}: {description}")]
    Refused {
        /// `error_code`, which is the HTTP status.
        code: u16,
        /// Telegram's words: there is no other code to tell errors apart by.
        description: String,
        /// How long to wait before trying again.
        retry_after: Option<Duration>,
        /// The chat's new id, where a group became a supergroup.
        migrate_to: Option<i64>,
    },
    /// No connection: Telegram cannot have had it.
    #[error("Telegram could not be reached: {0}")]
    NotSent(String),
    /// It left, and no answer came that says what became of it.
    #[error("Telegram's answer was lost: {0}")]
    Lost(String),
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    ok: bool,
    result: Option<Box<serde_json::value::RawValue>>,
    error_code: Option<u16>,
    #[serde(default)]
    description: String,
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    retry_after: Option<f64>,
    migrate_to_chat_id: Option<i64>,
}

impl Api {
    /// A client for the configured bot and server.
    pub fn new(config: &Config) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(50))
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, base: config.telegram_api_url.clone(), token: config.telegram_bot_token.clone() })
    }

    /// The bytes of a file that lies at Telegram, where `getFile` says (`file_path`). They are still to come; how long they
    /// may take is the caller's to bound.
    pub async fn download(&self, file_path: &str) -> Result<reqwest::Response, ApiError> {
        let url = reqwest::Url::parse(&self.base);
        let mut url = url.map_err(|_| ApiError::NotSent("its address is not one".into()))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["file", &format!("bot{}", self.token.expose_secret())])
                .extend(file_path.split('/'));
        }
        let sent = tokio::time::timeout(TIMEOUT, self.http.get(url).send()).await;
        let response = match sent {
            Ok(sent) => sent.map_err(|error| ApiError::Lost(describe(error)))?,
            Err(_) => return Err(ApiError::Lost("no answer in time".into())),
        };
        match response.status().as_u16() {
            200 => Ok(response),
            429 => Err(refused(429, "the file was asked for too often".into(), None, None)),
            code @ 400..500 => Err(refused(code, "the file is not there".into(), None, None)),
            code => Err(ApiError::Lost(format!("status {code}"))),
        }
    }

    /// Calls a method and reads its result.
    pub async fn call<P>(&self, payload: &P) -> Result<P::Output, ApiError>
    where
        P: Payload + Serialize,
        P::Output: DeserializeOwned,
    {
        let body = serde_json::to_string(payload).map_err(|e| ApiError::NotSent(e.to_string()))?;
        let result = self.call_raw(&method_name::<P>(), body, TIMEOUT).await?;
        serde_json::from_str(result.get()).map_err(|e| ApiError::Lost(format!("unexpected result ({e})")))
    }

    /// Calls `method` with parameters that are already JSON; the result as Telegram wrote it.
    pub async fn call_raw(
        &self,
        method: &str,
        body: String,
        timeout: Duration,
    ) -> Result<Box<serde_json::value::RawValue>, ApiError> {
        let began = Instant::now();
        let request = self
            .method(method)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .timeout(timeout)
            .body(body);
        let answer = answer(self.send(method, request).await, |error| error.is_connect() || error.is_builder()).await;
        metrics::telegram_called(method, &answer, began.elapsed());
        answer
    }

    /// Calls `method` with parameters that are already JSON and a file beside them. A call that breaks before its file was
    /// read to the end was not sent: Telegram cannot have understood it. The time is the caller's to bound.
    pub async fn call_with_file(
        &self,
        method: &str,
        body: &str,
        (name, file): (&'static str, Part),
        whole: &Whole,
    ) -> Result<Box<serde_json::value::RawValue>, ApiError> {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(body).unwrap_or_default();
        let form = fields.into_iter().fold(Form::new(), |form, (name, value)| match value {
            serde_json::Value::String(text) => form.text(name, text),
            value => form.text(name, value.to_string()),
        });
        // Telegram knows `filename="…"` in UTF-8, and no `filename*`.
        let form = form.percent_encode_noop().part(name, file);
        let began = Instant::now();
        let answer = answer(self.send(method, self.method(method).multipart(form)).await, |_| !whole.is_so()).await;
        metrics::telegram_called(method, &answer, began.elapsed());
        answer
    }

    /// Sends a method's request, which traces know without the token in its URL.
    async fn send(&self, method: &str, request: RequestBuilder) -> reqwest::Result<Response> {
        let server = self.base.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
        let call = trace::call("POST", format_args!("/bot/{method}"), server);
        trace::within(&call, request.send()).await
    }

    fn method(&self, method: &str) -> RequestBuilder {
        self.http.post(format!("{}/bot{}/{method}", self.base, self.token.expose_secret()))
    }
}

/// Reads an answer. `never_sent` says whether Telegram cannot have had the request that failed thus.
async fn answer(
    sent: reqwest::Result<Response>,
    never_sent: impl FnOnce(&reqwest::Error) -> bool,
) -> Result<Box<serde_json::value::RawValue>, ApiError> {
    let response = sent.map_err(|error| {
        let never_sent = never_sent(&error);
        let why = describe(error);
        if never_sent { ApiError::NotSent(why) } else { ApiError::Lost(why) }
    })?;
    let status = response.status().as_u16();
    let retry_header = response
        .headers()
        .get("retry-after")
        .and_then(|v| v.to_str().ok()?.parse::<f64>().ok().filter(|s| s.is_finite()));
    let bytes = response.bytes().await.map_err(|error| ApiError::Lost(describe(error)))?;
    read_envelope(status, retry_header, &bytes)
}

/// An error's chain of causes in words, without the URL, which holds the token.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    causes::of(&error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn read_envelope(
    status: u16,
    retry_header: Option<f64>,
    bytes: &[u8],
) -> Result<Box<serde_json::value::RawValue>, ApiError> {
    // Invalid UTF-8 in one update must not make a whole answer unreadable.
    let Ok(envelope) = serde_json::from_str::<Envelope>(&String::from_utf8_lossy(bytes)) else {
        return Err(match status {
            // A proxy in between speaks HTML; its 4xx are answers all the same.
            400..=499 => refused(status, "an answer that is not JSON".into(), retry_header, None),
            _ => ApiError::Lost(format!("status {status} with a body that is not JSON")),
        });
    };
    match envelope {
        Envelope { ok: true, result: Some(result), .. } => Ok(result),
        Envelope { ok: true, .. } => Err(ApiError::Lost("an answer without a result".into())),
        _ => {
            let code = envelope.error_code.unwrap_or(status);
            let retry = envelope.parameters.as_ref().and_then(|p| p.retry_after).or(retry_header);
            let migrate = envelope.parameters.and_then(|p| p.migrate_to_chat_id);
            if code >= 500 {
                return Err(ApiError::Lost(format!("status {code}: {}", envelope.description)));
            }
            Err(refused(code, envelope.description, retry, migrate))
        }
    }
}

fn refused(code: u16, description: String, retry_after: Option<f64>, migrate_to: Option<i64>) -> ApiError {
    // A 429 without a figure still means "wait"; a figure of a day is a ban, and obeyed.
    let retry_after = match (code, retry_after) {
        (_, Some(seconds)) => Some(Duration::from_secs_f64(seconds.clamp(0.0, 7.0 * 86_400.0))),
        (429, None) => Some(Duration::from_secs(5)),
        _ => None,
    };
    ApiError::Refused { code, description, retry_after, migrate_to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_tolerantly() {
        let ok = read_envelope(200, None, br#"{"ok":true,"result":{"message_id":7},"new":1}"#).expect("result");
        assert_eq!(ok.get(), r#"{"message_id":7}"#);
        let flood = br#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 3","parameters":{"retry_after":3,"adaptive":true}}"#;
        assert_eq!(
            read_envelope(429, None, flood).expect_err("refused"),
            ApiError::Refused {
                code: 429,
                description: "Too Many Requests: retry after 3".into(),
                retry_after: Some(Duration::from_secs(3)),
                migrate_to: None
            }
        );
        assert!(matches!(read_envelope(502, None, b"<html>"), Err(ApiError::Lost(_))));
        assert!(matches!(
            read_envelope(429, None, b"<html>"),
            Err(ApiError::Refused { retry_after: Some(wait), .. }) if wait == Duration::from_secs(5)
        ));
        let moved = br#"{"ok":false,"error_code":400,"description":"Bad Request: group chat was upgraded","parameters":{"migrate_to_chat_id":-1001}}"#;
        assert!(matches!(read_envelope(400, None, moved), Err(ApiError::Refused { migrate_to: Some(-1001), .. })));
    }
}
