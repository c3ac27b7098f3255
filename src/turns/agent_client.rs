//! HTTP to an agent (`baal-protocol`). An agent is a far side: what it sends is bounded and not trusted.

mod pace;
mod pulling;

use std::pin::Pin;
use std::time::Duration;

use axum::body::Bytes;
use baal_protocol::{ChatRequest, Event};
use futures_util::{Stream, StreamExt};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use sse_stream::SseStream;
use tracing::Span;
use uuid::Uuid;

use self::pace::Pace;
use super::uploads::FileTrouble;
use crate::addresses::NotOnInternet;
use crate::agents::http::{AgentHttp, Barred};
use crate::trace;

/// The longest event, in bytes.
const MAX_EVENT: usize = 2 * 1024 * 1024;

/// Silence after which a connection counts as broken: three keepalives.
const SILENCE: Duration = Duration::from_secs(3 * baal_protocol::KEEPALIVE_SECONDS);

/// How long the first byte of an answer may take.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// How long a file may take to reach an agent.
const UPLOAD: Duration = Duration::from_secs(180);

/// A turn's events, in order.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event, AgentError>> + Send>>;

/// Why an agent did not answer. The texts hold neither URL nor secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// No connection: the request has not left.
    #[error("the agent could not be reached: {0}")]
    Unreachable(String),
    /// Nobody is called there: the request has not left, and asking again will not help.
    #[error("the agent is not called: {0}")]
    Barred(Barred),
    /// The request left and the connection broke.
    #[error("the connection to the agent broke: {0}")]
    Broken(String),
    /// The agent, or what stands before it, is in trouble for now.
    #[error("the agent answered with status {0}")]
    Unwell(u16),
    /// The agent does not know this turn.
    #[error("the agent does not know this turn")]
    UnknownTurn,
    /// The agent is not running any more.
    #[error("the agent is {0}")]
    NotRunning(String),
    /// A file of the turn could not be brought.
    #[error("a file could not be brought to the agent: {why}")]
    File {
        /// What it is called; any text.
        name: String,
        /// Why not.
        why: FileTrouble,
    },
    /// Asking again will not help.
    #[error("the agent refused with status {0}")]
    Refused(u16),
}

impl From<Barred> for AgentError {
    fn from(barred: Barred) -> Self {
        Self::Barred(barred)
    }
}

/// One agent's address and secret.
#[derive(Debug, Clone)]
pub struct AgentClient {
    http: AgentHttp,
    base: String,
    secret: SecretString,
}

impl AgentClient {
    /// The same agent at another address.
    pub fn at(&mut self, base: &str) {
        self.base = base.trim_end_matches('/').to_owned();
    }

    /// A client for the agent at `base`, such as `https://some-four-random-words.2n6.me`.
    pub fn new(http: &AgentHttp, base: &str, secret: SecretString) -> Self {
        Self { http: http.clone(), base: base.trim_end_matches('/').to_owned(), secret }
    }

    /// `POST /chat`: runs a turn, or attaches to it where its id is known.
    pub async fn chat(&self, request: &ChatRequest) -> Result<Events, AgentError> {
        self.events(self.request(Method::POST, "/chat")?.json(request)).await
    }

    /// `GET /turns/{id}/events?after=SEQ`: the rest of a turn.
    pub async fn resume(&self, turn: Uuid, after: i64) -> Result<Events, AgentError> {
        self.events(self.request(Method::GET, &format!("/turns/{turn}/events?after={after}"))?).await
    }

    /// `POST /turns/{id}/cancel`: nobody wants the rest of the turn.
    pub async fn cancel(&self, turn: Uuid) -> Result<(), AgentError> {
        let request = self.request(Method::POST, &format!("/turns/{turn}/cancel"))?;
        self.ask(request.timeout(FIRST_BYTE)).await.map(drop)
    }

    /// `DELETE /chat/{chat_id}`: the conversation is forgotten. May be repeated.
    pub async fn forget(&self, chat_id: &str) -> Result<(), AgentError> {
        let request = self.request(Method::DELETE, &format!("/chat/{chat_id}"))?;
        self.ask(request.timeout(FIRST_BYTE)).await.map(drop)
    }

    /// `PUT /uploads/{id}/{name}`: brings a file of a turn. May be repeated.
    pub async fn upload<E>(
        &self,
        turn: Uuid,
        name: &str,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<(), AgentError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let base = reqwest::Url::parse(&self.base);
        let mut url = base.map_err(|_| AgentError::Unreachable("its address is not one".into()))?;
        // A name is any text: as one part of a path it is escaped.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["uploads", &turn.to_string(), name]);
        }
        let request = self.http.request(Method::PUT, url.as_str())?.body(reqwest::Body::wrap_stream(bytes));
        self.ask_within(request, UPLOAD).await.map(drop)
    }

    /// `GET /turns/{id}`: whether the agent has this turn.
    pub async fn knows(&self, turn: Uuid) -> Result<bool, AgentError> {
        match self.ask(self.request(Method::GET, &format!("/turns/{turn}"))?.timeout(FIRST_BYTE)).await {
            Ok(_) => Ok(true),
            Err(AgentError::UnknownTurn) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A request below its address, if one may be made there.
    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, AgentError> {
        Ok(self.http.request(method, &format!("{}{path}", self.base))?)
    }

    async fn events(&self, request: RequestBuilder) -> Result<Events, AgentError> {
        self.ask(request).await.map(read)
    }

    /// Makes a request; its answer's body is still to come.
    async fn ask(&self, request: RequestBuilder) -> Result<reqwest::Response, AgentError> {
        self.ask_within(request, FIRST_BYTE).await
    }

    async fn ask_within(&self, request: RequestBuilder, patience: Duration) -> Result<reqwest::Response, AgentError> {
        let response = self.send(request, patience).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(AgentError::UnknownTurn),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(AgentError::Unwell(status.as_u16()))
            }
            status => Err(AgentError::Refused(status.as_u16())),
        }
    }

    /// Makes a request; the head of its answer, whatever its status.
    async fn send(&self, request: RequestBuilder, patience: Duration) -> Result<reqwest::Response, AgentError> {
        let (http, request) = request.bearer_auth(self.secret.expose_secret()).build_split();
        let mut request = request.map_err(|error| AgentError::Unreachable(describe(error)))?;
        let call = self.call(&request);
        // A header of ours alone: random numbers, which tell nobody anything.
        if let Some(context) = call.in_scope(trace::here).and_then(|context| context.parse().ok()) {
            request.headers_mut().insert(trace::TRACEPARENT, context);
        }
        match tokio::time::timeout(patience, trace::within(&call, http.execute(request))).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if NotOnInternet::is_behind(&error) => Err(Barred::NotPublic.into()),
            Ok(Err(error)) if error.is_connect() || error.is_builder() => Err(AgentError::Unreachable(describe(error))),
            Ok(Err(error)) => Err(AgentError::Broken(describe(error))),
            Err(_) => {
                trace::failed(&call, "timeout");
                Err(AgentError::Broken("no answer in time".into()))
            }
        }
    }

    /// The span of a request. Of its path only the first word: others are ids and people's names of files.
    fn call(&self, request: &reqwest::Request) -> Span {
        let path = request.url().as_str().strip_prefix(&self.base).unwrap_or_default();
        let place = path.get(1..).and_then(|path| path.split(['/', '?']).next()).unwrap_or_default();
        trace::call(request.method().as_str(), format_args!("/{place}"), request.url().host_str().unwrap_or_default())
    }
}

/// Events of a response's body. A `data:` line that is not an event is skipped: a newer agent may send more.
fn read(response: reqwest::Response) -> Events {
    // An event ends at a blank line; until then the parser keeps its bytes, so they are counted before it sees them.
    let (mut line, mut event) = (0, 0);
    let counted = response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(|error| std::io::Error::other(describe(error)))?;
        for byte in &chunk {
            event += 1;
            match byte {
                b'\n' if line == 0 => event = 0,
                b'\n' => line = 0,
                b'\r' => {}
                _ => line += 1,
            }
        }
        if event > MAX_EVENT {
            return Err(std::io::Error::other("an endless event"));
        }
        Ok(chunk)
    });
    // All of it, also what is no event: to read that takes time as well.
    let mut pace = Pace::new();
    let bytes = counted.then(move |chunk| {
        let wait = pace.take(chunk.as_ref().map_or(0, Bytes::len));
        async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            chunk
        }
    });
    let events = tokio_stream::StreamExt::timeout(SseStream::from_bytes_stream(bytes), SILENCE);
    Box::pin(events.filter_map(async |event| match event {
        Err(_) => Some(Err(AgentError::Broken("the agent fell silent".into()))),
        Ok(Err(error)) => Some(Err(AgentError::Broken(error.to_string()))),
        Ok(Ok(event)) => serde_json::from_str(&event.data?).ok().map(Ok), // silent-ok: see above
    }))
}

fn describe(error: reqwest::Error) -> String {
    error.without_url().to_string()
}
