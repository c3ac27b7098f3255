//! Client of the inference service: OpenAI-compatible chat completions, streamed.
//!
//! Own and thin, because strict types break on compatible servers: whatever is missing, null or new in an answer is no
//! error as long as there is text or a call of a tool.

mod calls;
mod error;
mod lines;
mod message;
mod stream;
mod usage;

pub use error::ModelError;
pub use message::{Message, ToolCall};
pub use stream::Answer;
pub use usage::Usage;

use crate::tls;
use rand::Rng;
use reqwest::{StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tracing::{info, warn};

/// Waits before the first and second retry, where the service doesn't say.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Longest `Retry-After` that is waited for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an error's body that are looked at.
const MAX_ERROR_BODY: usize = 16 * 1024;
/// Characters of the service's own words that are logged.
const MAX_REASON: usize = 300;

#[derive(Serialize)]
struct Completion<'a> {
    model: &'a str,
    messages: &'a [Message],
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The service, one model of it, and the key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    completions_url: String,
    model: String,
    key: SecretString,
    idle_timeout: Duration,
}

impl Client {
    /// A client for `base_url` (up to and with the version); `idle_timeout` is the longest silence that is borne.
    ///
    /// # Errors
    /// TLS could not be set up.
    pub fn new(base_url: &str, model: &str, key: SecretString, idle_timeout: Duration) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config())
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would take the conversation to a host that nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("baal-agent/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let completions_url = format!("{}/chat/completions", base_url.trim_end_matches('/'));
        Ok(Self { http, completions_url, model: model.to_owned(), key, idle_timeout })
    }

    /// Asks for an answer and waits for its first text, or for its end where it only calls tools. `tools` is the list of what
    /// may be called, in OpenAI's form.
    ///
    /// Retried twice on 429, 5xx and broken connections; not once text came, because then the caller has seen it, and
    /// not after a silence, because the user has waited long enough.
    ///
    /// # Errors
    /// Told in words for the user.
    pub async fn ask(&self, messages: &[Message], tools: Option<&RawValue>) -> Result<Answer, ModelError> {
        for (attempt, backoff) in BACKOFF.into_iter().enumerate() {
            let error = match self.ask_once(messages, tools).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(wait) = wait_before_retry(&error, backoff) else {
                return Err(error);
            };
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            info!(attempt = attempt + 1, wait_ms, error = %error, "asking the model again");
            tokio::time::sleep(wait).await;
        }
        self.ask_once(messages, tools).await
    }

    async fn ask_once(&self, messages: &[Message], tools: Option<&RawValue>) -> Result<Answer, ModelError> {
        let body = Completion {
            model: &self.model,
            messages,
            tools,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
        };
        let request = self.http.post(&self.completions_url).bearer_auth(self.key.expose_secret()).json(&body).send();
        let response = tokio::time::timeout(self.idle_timeout, request)
            .await
            .map_err(|_| ModelError::Silent(self.idle_timeout))?
            .map_err(|e| {
                // `without_url`: the address is the operator's business.
                warn!(error = %error_chain(&e.without_url()), "the model cannot be reached");
                ModelError::Unreachable
            })?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let mut answer = Answer::new(response, self.idle_timeout);
        answer.wait_until_worked().await?;
        Ok(answer)
    }

    async fn refused(&self, response: reqwest::Response) -> ModelError {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ModelError::Key,
            StatusCode::PAYMENT_REQUIRED => ModelError::NoCredits,
            StatusCode::TOO_MANY_REQUESTS => ModelError::Busy { retry_after },
            status if status.is_server_error() => ModelError::Failing { status: status.as_u16(), retry_after },
            status => ModelError::Refused { status: status.as_u16() },
        };
        let reason = tokio::time::timeout(Duration::from_secs(5), stream::read_bounded(response, MAX_ERROR_BODY)).await;
        let reason = reason.unwrap_or_default();
        warn!(status = status.as_u16(), reason = %self.reason(&reason), "the model refused");
        error
    }

    /// The service's own words, short and without the key.
    fn reason(&self, body: &[u8]) -> String {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let message = body["error"]["message"].as_str().or(body["message"].as_str()).unwrap_or("no reason given");
        // The key first: half of one would not be found.
        message.replace(self.key.expose_secret(), "[key]").chars().take(MAX_REASON).collect()
    }
}

fn wait_before_retry(error: &ModelError, backoff: Duration) -> Option<Duration> {
    let jitter = backoff.mul_f64(rand::rng().random_range(0.0..0.25));
    match error {
        ModelError::Busy { retry_after } | ModelError::Failing { retry_after, .. } => {
            Some(retry_after.map_or(backoff + jitter, |wait| wait.min(MAX_RETRY_AFTER)))
        }
        ModelError::Unreachable | ModelError::Broken => Some(backoff + jitter),
        _ => None,
    }
}

/// An error with its causes, which reqwest keeps apart.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_holds_no_part_of_the_key_wherever_it_is_cut() {
        // An error only says that another test was first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let key = SecretString::from("sk-0123456789");
        let client = Client::new("http://127.0.0.1:1/v1", "any", key, CONNECT_TIMEOUT).expect("a client");
        for before in 0..=MAX_REASON {
            let message = format!("{} sk-0123456789 is no key", "x".repeat(before));
            let reason = client.reason(serde_json::json!({"error": {"message": message}}).to_string().as_bytes());
            assert!(reason.chars().count() <= MAX_REASON && !reason.contains("sk-"), "{reason}");
        }
    }
}
