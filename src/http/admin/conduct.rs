//! What holds for every request of the API: an id, a log line, the caller's address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use ipnet::IpNet;
use tracing::{Instrument as _, debug, field, info_span};
use uuid::Uuid;

use super::problem::{self, ApiError};
use crate::app::App;
use crate::trace;

/// How long an answer may take to begin; a body that streams goes on.
pub(in super::super) const TIMEOUT: Duration = Duration::from_secs(30);

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id: the caller's own if it is a short word, else a new one. It is in the answer, in problems and in logs.
#[derive(Clone)]
pub(super) struct RequestId(pub String);

/// Where the request comes from; behind [trusted proxies](crate::config::Config::trusted_proxies), as they say.
#[derive(Clone, Copy)]
pub(super) struct ClientAddress(pub IpAddr);

/// The outermost layer.
pub(super) async fn conduct(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = own_id(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let address = peer.map(|peer| client(peer, request.headers(), &app.config.trusted_proxies));
    request.extensions_mut().insert(RequestId(id.clone()));
    if let Some(address) = address {
        request.extensions_mut().insert(ClientAddress(address));
    }
    let span = info_span!("request", request.id = id, method = %request.method(), path = request.uri().path(), caller = field::Empty);
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        trace::note(&span, "http.route", route.as_str().to_owned());
    }
    let traced = span.clone();
    async {
        let answer = tokio::time::timeout(TIMEOUT, next.run(request)).await;
        let answer = answer.unwrap_or_else(|_| ApiError::TookTooLong.into_response());
        let mut response = problem::complete(answer, &id);
        debug!(status = response.status().as_u16(), "answered");
        trace::answered(&traced, response.status().as_u16());
        // silent-ok: ids are made of letters, digits and a few signs
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID.clone(), id);
        }
        response
    }
    .instrument(span)
    .await
}

fn own_id(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    ((8..=64).contains(&given.len()) && given.bytes().all(plain)).then(|| given.to_owned())
}

/// The nearest address in X-Forwarded-For that is not a trusted proxy: what stands before it anybody can write.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(&address.to_canonical()));
    let mut nearest = peer;
    // Bytes: a line need not be text, and what a client wrote before it must not hide what a proxy appended.
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    for item in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        if !is_trusted(&nearest) {
            break;
        }
        let Some(address) = std::str::from_utf8(item).ok().and_then(|text| address(text.trim())) else { break };
        nearest = address;
    }
    nearest.to_canonical()
}

/// An address as proxies write it: some with the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded<V: AsRef<[u8]>>(values: &[V]) -> HeaderMap {
        let line = |value: &V| HeaderValue::from_bytes(value.as_ref()).unwrap();
        values.iter().map(|value| (HeaderName::from_static("x-forwarded-for"), line(value))).collect()
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_no_trusted_proxy() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"].map(|text| text.parse().unwrap()).into();
        let seen = |peer: &str, said: &[&str]| client(peer.parse().unwrap(), &forwarded(said), &trusted).to_string();
        // Who is no proxy of ours may say what it likes.
        assert_eq!(seen("192.0.2.7", &["198.51.100.1"]), "192.0.2.7");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        // A client writes what it likes before what proxies append.
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, 192.0.2.7, 10.0.0.2"]), "192.0.2.7");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9", "192.0.2.7,fd00::2"]), "192.0.2.7");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, unknown"]), "10.0.0.1");
        assert_eq!(seen("::ffff:127.0.0.1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(seen("127.0.0.1", &["10.0.0.9, 10.0.0.8"]), "10.0.0.9");
        for with_port in ["192.0.2.7:4711", "[2001:db8::7]:4711", "[2001:db8::7]"] {
            let told = seen("10.0.0.1", &["203.0.113.9", with_port]);
            assert!(["192.0.2.7", "2001:db8::7"].contains(&told.as_str()), "{with_port}: {told}");
        }
    }

    #[test]
    fn what_a_client_writes_hides_nothing_that_a_proxy_appends() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let seen = |said: &[&[u8]]| client("10.0.0.1".parse().unwrap(), &forwarded(said), &trusted).to_string();
        assert_eq!(seen(&[b"\xff, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(seen(&[b"203.0.113.9", b"\xff, 192.0.2.7, 10.0.0.3"]), "192.0.2.7");
        // Not skipped: what stands before it was not said by a proxy of ours.
        assert_eq!(seen(&[b"203.0.113.9", b"\xff"]), "10.0.0.1");
        assert_eq!(seen(&[b"203.0.113.9, \xff, 10.0.0.3"]), "10.0.0.3");
    }

    #[test]
    fn ids_of_requests_are_taken_over_if_they_are_short_words() {
        let own = |id: &str| own_id(&HeaderMap::from_iter([(REQUEST_ID.clone(), id.parse().unwrap())]));
        assert_eq!(own("0199c0de-5f2a").as_deref(), Some("0199c0de-5f2a"));
        for refused in ["short", "with space", "quote\"quote", &"x".repeat(65)] {
            assert_eq!(own(refused), None);
        }
    }
}
