//! One page of the web, fetched for a model: redirects followed here, each checked, and everything bounded.

use super::body::{self, BodyError};
use super::guard::{self, Policy, Refusal};
use super::resolver::{Dns, DnsError, Guarded, may_visit};
use super::{html, json};
use crate::tls;
use baal_protocol::Role;
use reqwest::{Client, Response, StatusCode, Url, header, redirect};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

/// Says who asks, so that a site can refuse it.
const USER_AGENT: &str = concat!("baal-agent/", env!("CARGO_PKG_VERSION"), " (AI agent; reads a page for its user)");
const ACCEPT: &str = "text/markdown, text/html;q=0.9, application/json;q=0.9, text/*;q=0.8, */*;q=0.1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Fetches at once of the owner, and of all visitors together: each may hold a few times [`Limits::body_bytes`].
const AT_ONCE: usize = 3;
/// Longest wait for a place.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of the web is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the beginning, which may have to wait for others, to the text, redirects included.
    pub total: Duration,
    /// Redirects that are followed.
    pub redirects: usize,
    /// Bytes of a body that are read, and that it may have decompressed.
    pub body_bytes: usize,
    /// Characters of text that are given back.
    pub characters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: Duration::from_secs(30), redirects: 5, body_bytes: 5 * 1024 * 1024, characters: 50_000 }
    }
}

/// Why there is no page. Said to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Must not be visited.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A redirect leads to where must not be visited.
    #[error("the page redirects to {to}: {why}")]
    RedirectRefused {
        /// Where it leads, shortened.
        to: String,
        /// Why not.
        why: Refusal,
    },
    /// More redirects than are followed.
    #[error("the page redirects more than {0} times")]
    TooManyRedirects(usize),
    /// The name could not be resolved.
    #[error(transparent)]
    Name(#[from] DnsError),
    /// Took too long.
    #[error("the page took longer than {} s", .0.as_secs_f32())]
    Slow(Duration),
    /// Others are at it.
    #[error("other pages are being fetched; try again in a minute")]
    Busy,
    /// No connection, or one that broke.
    #[error("the page cannot be reached: {0}")]
    Unreachable(String),
    /// An answer that cannot be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Something of this machine, not of the page.
    #[error("pages cannot be fetched on this machine: {0}")]
    Internal(String),
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it was found, after redirects.
    pub url: Url,
    /// HTTP status; a page may come with an error's.
    pub status: StatusCode,
    /// As the server says, without parameters; empty where it says nothing.
    pub content_type: String,
    /// Readable text, or a sentence that says why there is none.
    pub text: String,
    /// A sentence about what is missing at the end.
    pub cut: Option<String>,
}

/// Fetches pages. Cheap to make, to clone and to keep: it holds no connection and no certificates between fetches.
#[derive(Clone)]
pub struct Fetcher {
    policy: Arc<Policy>,
    dns: Arc<Dns>,
    limits: Limits,
    owners: Arc<Semaphore>,
    visitors: Arc<Semaphore>,
}

impl Fetcher {
    /// A fetcher that visits what `policy` permits.
    pub fn new(policy: Policy, dns: Arc<Dns>) -> Self {
        Self::with_limits(policy, dns, Limits::default())
    }

    /// A fetcher with limits of its own.
    pub fn with_limits(policy: Policy, dns: Arc<Dns>, limits: Limits) -> Self {
        let places = || Arc::new(Semaphore::new(AT_ONCE));
        Self { policy: Arc::new(policy), dns, limits, owners: places(), visitors: places() }
    }

    /// Fetches a page by GET, without cookies, credentials or a proxy, for a visitor or the owner. Dropping the future ends it.
    ///
    /// # Errors
    /// Told in words for the model.
    pub async fn fetch(&self, url: &str, role: Role) -> Result<Page, FetchError> {
        let url = Url::parse(url.trim()).map_err(|_| Refusal::NoUrl)?;
        let places = if role == Role::Owner { &self.owners } else { &self.visitors };
        let place = tokio::time::timeout(PATIENCE, places.clone().acquire_owned()).await;
        let place = place.map_err(|_| FetchError::Busy)?.map_err(|e| FetchError::Internal(e.to_string()))?;
        let fetched = tokio::time::timeout(self.limits.total, self.follow(url, place));
        fetched.await.unwrap_or(Err(FetchError::Slow(self.limits.total)))
    }

    async fn follow(&self, start: Url, place: OwnedSemaphorePermit) -> Result<Page, FetchError> {
        self.check(&start)?;
        let client = self.client().map_err(|e| FetchError::Internal(e.to_string()))?;
        let mut url = start;
        for _ in 0..=self.limits.redirects {
            let response = client.get(url.clone()).send().await.map_err(|e| told(&e))?;
            let Some(next) = redirect_target(&response, &url) else {
                return self.page(url, response, place).await;
            };
            self.check(&next).map_err(|why| FetchError::RedirectRefused { to: shortened(&next), why })?;
            debug!(status = response.status().as_u16(), "following a redirect");
            url = next;
        }
        Err(FetchError::TooManyRedirects(self.limits.redirects))
    }

    /// Everything but names, which [`Guarded`] checks when it resolves them; addresses are not resolved, so not seen by it.
    fn check(&self, url: &Url) -> Result<(), Refusal> {
        self.policy.check(url)?;
        match guard::literal(url) {
            Some(address) if !may_visit(&self.policy, address) => Err(Refusal::Closed(address.to_string())),
            _ => Ok(()),
        }
    }

    /// A client for one fetch.
    fn client(&self) -> reqwest::Result<Client> {
        Client::builder()
            .tls_backend_preconfigured(tls::client_config())
            .dns_resolver(Arc::new(Guarded { dns: self.dns.clone(), policy: self.policy.clone() }))
            .redirect(redirect::Policy::none())
            // A proxy would resolve names itself.
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(USER_AGENT)
            .default_headers(header::HeaderMap::from_iter([
                (header::ACCEPT, header::HeaderValue::from_static(ACCEPT)),
                (header::ACCEPT_ENCODING, header::HeaderValue::from_static("gzip")),
            ]))
            .build()
    }

    async fn page(&self, url: Url, response: Response, place: OwnedSemaphorePermit) -> Result<Page, FetchError> {
        let status = response.status();
        let (content_type, charset) = content_type(&response);
        let length = response.content_length();
        let Limits { body_bytes, characters, .. } = self.limits;
        if Kind::of(&content_type) == Some(Kind::Other) {
            let text = no_text(&content_type, length.map(|length| format!("{} bytes", grouped(length))));
            return Ok(Page { url, status, content_type, text, cut: None });
        }
        let body = body::read(response, body_bytes).await?;
        let (base, kind) = (url.clone(), content_type.clone());
        let rendered = move || {
            // It goes on when nobody waits for it any more, so it keeps its place.
            let _place = place;
            render(&body, &kind, charset.as_deref(), &base, characters, body_bytes)
        };
        // Megabytes of a stranger's text must not hold up everybody else's turns.
        let (text, cut) =
            tokio::task::spawn_blocking(rendered).await.map_err(|e| FetchError::Internal(e.to_string()))?;
        Ok(Page { url, status, content_type, text, cut })
    }
}

/// Where a response leads, if it is a redirect that says so in a way that can be followed.
fn redirect_target(response: &Response, from: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?;
    // Servers write other bytes than ASCII here, as UTF-8.
    let location = std::str::from_utf8(location.as_bytes()).ok()?;
    from.join(location).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Html,
    Json,
    Text,
    Other,
}

impl Kind {
    /// `None` where only the content can tell.
    fn of(content_type: &str) -> Option<Self> {
        let (kind, name) = content_type.split_once('/').unwrap_or_default();
        match (kind, name) {
            ("", _) | ("application", "octet-stream" | "binary") => None,
            ("text", "html") | ("application", "xhtml+xml") => Some(Self::Html),
            (_, "json" | "ld+json" | "geo+json") => Some(Self::Json),
            (_, name) if name.ends_with("+json") => Some(Self::Json),
            ("text", _) => Some(Self::Text),
            (
                "application",
                "xml" | "javascript" | "x-javascript" | "ecmascript" | "yaml" | "x-yaml" | "toml" | "sql" | "x-sh",
            ) => Some(Self::Text),
            ("application", name) if name.ends_with("+xml") || name.ends_with("ndjson") => Some(Self::Text),
            _ => Some(Self::Other),
        }
    }

    fn of_content(bytes: &[u8]) -> Self {
        let head = &bytes[..bytes.len().min(1024)];
        if head.iter().any(|byte| *byte < b'\t' || (b'\x0e'..b'\x1b').contains(byte)) {
            return Self::Other;
        }
        let head = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
        match head.chars().next() {
            Some('{' | '[') => Self::Json,
            Some('<') if head.starts_with("<!doctype html") || head.contains("<html") => Self::Html,
            _ => Self::Text,
        }
    }
}

fn content_type(response: &Response) -> (String, Option<String>) {
    let value = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = value.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().chars().take(100).collect::<String>().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_owned())
    });
    (kind, charset)
}

fn render(
    body: &body::Body,
    content_type: &str,
    charset: Option<&str>,
    base: &Url,
    characters: usize,
    body_bytes: usize,
) -> (String, Option<String>) {
    let kind = Kind::of(content_type).unwrap_or_else(|| Kind::of_content(&body.bytes));
    if kind == Kind::Other {
        let more = if body.cut { "more than " } else { "" };
        return (no_text(content_type, Some(format!("{more}{} bytes", grouped(body.bytes.len() as u64)))), None);
    }
    let decoded = body::decode(&body.bytes, charset, kind == Kind::Html);
    let (text, mut more) = match kind {
        Kind::Html => {
            let page = html::render(&decoded, base, characters);
            (page.text, page.cut)
        }
        Kind::Json => (json::pretty(&decoded, characters).unwrap_or(decoded), false),
        Kind::Text | Kind::Other => (decoded, false),
    };
    let text = match text.char_indices().nth(characters) {
        Some((end, _)) => {
            more = true;
            text[..end].to_owned()
        }
        None => text,
    };
    let cut = if more {
        Some(format!("The text is cut here, after {} characters; there is more of it.", grouped(characters as u64)))
    } else if body.cut {
        Some(format!("Only the first part was read, at most {} bytes.", grouped(body_bytes as u64)))
    } else {
        None
    };
    if text.trim().is_empty() {
        let empty = if kind == Kind::Html {
            "The page has no readable text; it may be made by scripts, which are not run."
        } else {
            "The answer is empty."
        };
        return (empty.into(), cut);
    }
    (text, cut)
}

fn no_text(content_type: &str, size: Option<String>) -> String {
    let kind = if content_type.is_empty() { "an unknown type" } else { content_type };
    let size = size.unwrap_or_else(|| "of unknown size".into());
    format!("This is no text but a file of {kind}, {size}.")
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn shortened(url: &Url) -> String {
    let mut url = url.clone();
    // silent-ok: a URL that cannot have a password has none
    let _ = url.set_password(None);
    let text = url.as_str();
    let short: String = text.chars().take(200).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// A failed request in words: what our resolver said, else the innermost cause, which reqwest keeps apart.
fn told(error: &reqwest::Error) -> FetchError {
    let mut cause: &(dyn Error + 'static) = error;
    loop {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return refusal.clone().into();
        }
        if let Some(dns) = cause.downcast_ref::<DnsError>() {
            return dns.clone().into();
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return FetchError::Unreachable(cause.to_string()),
        }
    }
}
