//! Client of the Brave Search API (<https://api-dashboard.search.brave.com/app/documentation/web-search/get-started>).
//!
//! It goes to a host that the configuration names, so not through the guard, and its key goes nowhere else.

use super::html;
use super::resolver::{Dns, Unfiltered};
use crate::tls;
use reqwest::header::{self, HeaderValue};
use reqwest::{Client, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// The service, where the configuration names no other.
pub const BASE_URL: &str = "https://api.search.brave.com";
/// Most results of one search: the service gives no more.
pub const MAX_RESULTS: u8 = 20;
/// Longest query, in characters and in words: the service refuses longer ones.
const MAX_QUERY: (usize, usize) = (400, 50);
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// Characters of a title or a description.
const MAX_TEXT: usize = 500;

/// One page that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchResult {
    /// Its title, plain text on one line.
    pub title: String,
    /// Where it is.
    pub url: String,
    /// What it is about, plain text on one line; may be empty.
    pub description: String,
}

/// Why there are no results. Said to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// No words.
    #[error("the query is empty; say what to search for")]
    EmptyQuery,
    /// The service takes no longer one.
    #[error("the query is too long; use at most 400 characters and 50 words")]
    LongQuery,
    /// 401 or 403.
    #[error("the search service refuses the agent's key; its owner has to set a valid brave_api_key")]
    Key,
    /// 429.
    #[error("too many searches in this second or this month; wait a little, then try once more")]
    Busy,
    /// 402 or another quota's end.
    #[error("the search service's plan is used up; its owner has to renew it")]
    UsedUp,
    /// Another status.
    #[error("the search service answered with status {0}; try again later")]
    Failing(u16),
    /// No answer.
    #[error("the search service cannot be reached; try again later")]
    Unreachable,
    /// Not what it promises.
    #[error("the search service's answer cannot be read; try again later")]
    Unreadable,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    web: Option<Web>,
}

#[derive(Deserialize)]
struct Web {
    #[serde(default)]
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    title: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    description: Option<String>,
}

/// The service and the key to it. Holds no connection between searches.
#[derive(Clone)]
pub struct Brave {
    search_url: String,
    key: SecretString,
    dns: Arc<Dns>,
}

impl Brave {
    /// A client for the service at `base_url`, such as [`BASE_URL`].
    pub fn new(base_url: &str, key: SecretString, dns: Arc<Dns>) -> Self {
        Self { search_url: format!("{}/res/v1/web/search", base_url.trim_end_matches('/')), key, dns }
    }

    /// The first `count` pages for `query`, at most [`MAX_RESULTS`]; none is no error.
    ///
    /// # Errors
    /// Told in words for the model.
    pub async fn search(&self, query: &str, count: u8) -> Result<Vec<SearchResult>, SearchError> {
        let query = query.trim();
        if query.is_empty() {
            return Err(SearchError::EmptyQuery);
        }
        if query.chars().count() > MAX_QUERY.0 || query.split_whitespace().count() > MAX_QUERY.1 {
            return Err(SearchError::LongQuery);
        }
        let count = count.clamp(1, MAX_RESULTS);
        let body =
            tokio::time::timeout(TIMEOUT, self.ask(query, count)).await.unwrap_or(Err(SearchError::Unreachable))?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|e| {
            warn!(line = e.line(), column = e.column(), "the search service's answer cannot be read");
            SearchError::Unreadable
        })?;
        let found = answer.web.map(|web| web.results).unwrap_or_default();
        Ok(found.into_iter().filter(|found| !found.url.is_empty()).take(count.into()).map(SearchResult::from).collect())
    }

    async fn ask(&self, query: &str, count: u8) -> Result<Vec<u8>, SearchError> {
        let mut key = HeaderValue::from_str(self.key.expose_secret()).map_err(|_| SearchError::Key)?;
        key.set_sensitive(true);
        let request = self
            .client()
            .map_err(unreachable)?
            .get(&self.search_url)
            .query(&[("q", query), ("result_filter", "web"), ("text_decorations", "false")])
            .query(&[("count", count)])
            .header(header::ACCEPT, "application/json")
            .header("X-Subscription-Token", key);
        let response = request.send().await.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(SearchError::Key),
            StatusCode::PAYMENT_REQUIRED => return Err(SearchError::UsedUp),
            StatusCode::TOO_MANY_REQUESTS => return Err(SearchError::Busy),
            status => {
                warn!(status = status.as_u16(), "the search service refused");
                return Err(SearchError::Failing(status.as_u16()));
            }
        }
        let body = super::body::read(response, MAX_BODY).await.map_err(|_| SearchError::Unreachable)?;
        if body.cut { Err(SearchError::Unreadable) } else { Ok(body.bytes) }
    }

    /// A client for one search.
    fn client(&self) -> reqwest::Result<Client> {
        Client::builder()
            .tls_backend_preconfigured(tls::client_config())
            .dns_resolver(Arc::new(Unfiltered(self.dns.clone())))
            // A redirect would take the key to a host that nobody configured.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("baal-agent/", env!("CARGO_PKG_VERSION")))
            .build()
    }
}

fn unreachable(error: reqwest::Error) -> SearchError {
    // `without_url`: the address holds the query, which is a user's.
    warn!(error = %error.without_url(), "the search service cannot be reached");
    SearchError::Unreachable
}

impl From<Found> for SearchResult {
    fn from(found: Found) -> Self {
        let line = |text: &str| html::inline(text).chars().take(MAX_TEXT).collect();
        let description = found.description.as_deref().map(line).unwrap_or_default();
        Self { title: line(&found.title), url: found.url, description }
    }
}
