//! Requests to servers that may hang, lie or never stop talking: a deadline over everything, a limit on the answer's size, no
//! redirects, and errors without URLs.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, RequestBuilder, StatusCode};
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::AlephError;
use crate::addresses::Public;
use crate::causes;
use crate::telemetry::is_unprintable;

/// Time to connect, within the deadline.
const CONNECT: Duration = Duration::from_secs(8);
/// What an answer may weigh, in bytes, where nothing else is said.
pub(super) const ANSWER: usize = 8 << 20;
/// What an answer of a compute node may weigh, in bytes.
pub(super) const NODE_ANSWER: usize = 1 << 20;
/// How much of an answer goes into an error, in characters.
const EXCERPT: usize = 300;

/// An HTTP client.
pub(super) struct Http(Client);

/// An answer, whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// For servers that the operator named.
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self(builder().build()?))
    }

    /// For servers that strangers named: goes to addresses on the internet alone, unless `allow_private`. Addresses within URLs
    /// are not looked up, and have to be checked where the URL is taken over.
    pub(super) fn to_strangers(allow_private: bool) -> anyhow::Result<Self> {
        let client = if allow_private { builder() } else { builder().dns_resolver(Public) };
        Ok(Self(client.build()?))
    }

    pub(super) fn get(&self, url: &str) -> RequestBuilder {
        self.0.get(url)
    }

    pub(super) fn post(&self, url: &str) -> RequestBuilder {
        self.0.post(url)
    }
}

fn builder() -> ClientBuilder {
    Client::builder().connect_timeout(CONNECT).redirect(reqwest::redirect::Policy::none()).no_proxy()
}

/// Sends a request and reads the whole answer, of at most [`ANSWER`] bytes, within `deadline`. `what` names the server in errors.
pub(super) async fn send(request: RequestBuilder, what: &str, deadline: Duration) -> Result<Answer, AlephError> {
    send_for(request, what, deadline, ANSWER).await
}

/// The same for an answer of at most `limit` bytes.
pub(super) async fn send_for(
    request: RequestBuilder,
    what: &str,
    deadline: Duration,
    limit: usize,
) -> Result<Answer, AlephError> {
    let all = async {
        let mut response = request.send().await.map_err(|e| unreachable(what, e))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(what, e))? {
            if body.len() + chunk.len() > limit {
                return Err(garbled(what, format!("the answer is larger than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    };
    within(all, what, deadline).await
}

/// Ends what takes too long.
pub(super) async fn within<T>(
    call: impl Future<Output = Result<T, AlephError>>,
    what: &str,
    deadline: Duration,
) -> Result<T, AlephError> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        let cause = format!("no answer within {} s", deadline.as_secs_f32());
        Err(AlephError::Unreachable { what: what.to_owned(), cause })
    })
}

impl Answer {
    /// The answer as JSON.
    pub(super) fn json(&self, what: &str) -> Result<Value, AlephError> {
        serde_json::from_slice(&self.body).map_err(|e| garbled(what, format!("not JSON ({e})")))
    }

    /// Of a 200 with a JSON object the value under this key, null where it is not there; otherwise an error. Nothing is made
    /// of the other values, of which a stranger may send many.
    pub(super) fn only(&self, key: &str, what: &str) -> Result<Value, AlephError> {
        if self.status != StatusCode::OK {
            return Err(self.refusal(what));
        }
        let mut json = serde_json::Deserializer::from_slice(&self.body);
        let value = Only(key).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        value.map_err(|e| garbled(what, format!("not the JSON that was expected ({e})")))
    }

    /// The answer as an error. A server that is overloaded or broken may do better later; other refusals stay.
    pub(super) fn refusal(&self, what: &str) -> AlephError {
        let (what, status) = (what.to_owned(), self.status.as_u16());
        match status {
            408 | 429 | 500.. => {
                AlephError::Unreachable { what, cause: format!("status {status}: {}", excerpt(&self.body)) }
            }
            _ => AlephError::Refused { what, status, body: excerpt(&self.body) },
        }
    }

    /// JSON of a 200, otherwise an error.
    pub(super) fn ok(&self, what: &str) -> Result<Value, AlephError> {
        if self.status == StatusCode::OK { self.json(what) } else { Err(self.refusal(what)) }
    }
}

/// Reads an object's value under this key.
struct Only<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Only<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Only<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Value::Null;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == self.0 {
                found = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

pub(super) fn garbled(what: &str, cause: impl Into<String>) -> AlephError {
    AlephError::Garbled { what: what.to_owned(), cause: cause.into() }
}

fn unreachable(what: &str, error: reqwest::Error) -> AlephError {
    let error = error.without_url();
    let cause = causes::of(&error).last().map(ToString::to_string).unwrap_or_default();
    AlephError::Unreachable { what: what.to_owned(), cause: clean(&cause, EXCERPT) }
}

/// The beginning of what a server said.
pub(super) fn excerpt(body: &[u8]) -> String {
    clean(&String::from_utf8_lossy(&body[..body.len().min(4 * EXCERPT)]), EXCERPT)
}

/// Strangers' words in one line of at most `limit` characters, without what could move a cursor or turn a line around.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let plain: String = text.chars().take(limit).map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
    plain.trim().to_owned()
}

/// Host and port of a URL, for errors.
pub(super) fn host(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let named = parsed.as_ref().and_then(|url| Some((url.host_str()?, url.port())));
    match named {
        Some((host, Some(port))) => format!("{host}:{port}"),
        Some((host, None)) => host.to_owned(),
        None => "without a name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn only(status: StatusCode, body: &str) -> Result<Value, AlephError> {
        Answer { status, body: body.into() }.only("b", "the node")
    }

    #[test]
    fn of_an_object_only_what_is_asked_for_is_read() {
        let read = |body| only(StatusCode::OK, body).unwrap();
        assert_eq!(read(r#"{"a": [[1]], "b": {"c": 1}, "d": null}"#), json!({"c": 1}));
        assert_eq!(read(r#"{"\u0062": 2, "\"": 3}"#), json!(2));
        assert_eq!(read(r#"{"a": 1}"#), Value::Null);
        assert_eq!(read("{}"), Value::Null);
    }

    #[test]
    fn what_is_no_object_or_only_begins_as_one_is_an_error() {
        for body in ["", "[]", "7", "null", r#"{"b": 1"#, r#"{"b": 1} x"#, r#"{"b": 1, "a": tru}"#, "<html>"] {
            assert!(matches!(only(StatusCode::OK, body), Err(AlephError::Garbled { .. })), "{body}");
        }
        assert!(matches!(only(StatusCode::FORBIDDEN, r#"{"b": 1}"#), Err(AlephError::Refused { status: 403, .. })));
    }
}
