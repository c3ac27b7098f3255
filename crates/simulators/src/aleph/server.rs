//! HTTP listeners that can be dead, and answers that can be lost.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::Aleph;
use super::faults::{Kind, Occasion};

/// Largest body that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Marks an answer that is not to be sent: the connection is closed instead.
#[derive(Clone, Copy)]
struct Unanswered;

/// A far side that is called: who it is, and all of them.
#[derive(Clone)]
struct Side {
    aleph: Aleph,
    /// None on the listener that several share.
    party: Option<String>,
}

/// Keeps a journal of a router's calls and lets them meet ordered faults.
pub fn watched(router: Router, aleph: &Aleph, party: Option<&str>) -> Router {
    let side = Side { aleph: aleph.clone(), party: party.map(str::to_owned) };
    router.layer(from_fn_with_state(side, watch))
}

/// Who answers on the shared listener.
fn party_of(route: &str) -> &'static str {
    match route {
        "/crns.json" => "list",
        "/api/hash/{hash}" => "gateway",
        _ => "scheduler",
    }
}

async fn watch(State(side): State<Side>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let party = side.party.unwrap_or_else(|| party_of(&route).to_owned());
    let path = parts.uri.to_string();
    let text = format!("{path}\n{}", String::from_utf8_lossy(&body));
    let (faults, journal) = (&side.aleph.inner.faults, &side.aleph.inner.journal);
    let begun = journal.begin(&party, parts.method.as_str(), &route, &path);
    let occasion = Occasion { party: &party, method: parts.method.as_str(), route: &route, text: &text };
    let fault = faults.take(&Kind::CALLS, &occasion);
    if side.aleph.inner.dead.borrow().contains(&party) {
        journal.end(begun, None, Some(Kind::Dead));
        return unanswered();
    }
    let request = Request::from_parts(parts, Body::from(body));
    let Some(fault) = fault else {
        let response = next.run(request).await;
        journal.end(begun, Some(response.status().as_u16()), None);
        return response;
    };
    let end = |status: Option<StatusCode>| journal.end(begun, status.map(|s| s.as_u16()), Some(fault.kind));
    match fault.kind {
        Kind::Status => {
            let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
            let status = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            end(Some(status));
            (status, Json(fault.body.unwrap_or_else(|| json!({ "error": "told to fail" })))).into_response()
        }
        Kind::Slow => {
            tokio::time::sleep(fault.wait().unwrap_or(Duration::from_secs(1))).await;
            let response = next.run(request).await;
            end(Some(response.status()));
            response
        }
        Kind::Hang => {
            let status = if fault.processed == Some(true) { Some(next.run(request).await.status()) } else { None };
            end(status);
            std::future::pending().await
        }
        Kind::Lost => {
            let status = if fault.processed == Some(false) { None } else { Some(next.run(request).await.status()) };
            end(status);
            unanswered()
        }
        _ => {
            let status = next.run(request).await.status();
            end(Some(status));
            (StatusCode::OK, "<html><body>It works!").into_response()
        }
    }
}

fn unanswered() -> Response {
    let mut response = Response::new(Body::from(Bytes::new()));
    response.extensions_mut().insert(Unanswered);
    response
}

/// Serves until everything stops. While `party` is dead the port is closed and connections are cut.
pub async fn serve(aleph: Aleph, party: String, listener: TcpListener, router: Router) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    let mut dead = aleph.inner.dead.subscribe();
    while !aleph.inner.stop.is_cancelled() {
        if dead.borrow_and_update().contains(&party) {
            listener = None;
        } else if listener.is_none() {
            listener = bind_again(address).await;
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(aleph.clone(), party.clone(), stream, router.clone()));
                }
                Err(error) => {
                    tracing::warn!(party = %party, error = %error, "a simulated node could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
            _ = dead.changed() => {}
            () = aleph.inner.stop.cancelled() => {}
        }
    }
}

/// The port may linger for a moment, or for ever if something else took it meanwhile.
async fn bind_again(address: SocketAddr) -> Option<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::error!(%address, error = %error, "a simulated node cannot come back to its port");
            None
        }
    }
}

async fn connection(aleph: Aleph, party: String, stream: TcpStream, router: Router) {
    // silent-ok: a slower connection still works
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answered = router.clone().oneshot(request.map(Body::new));
        async move { answer(answered.await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // silent-ok: the other side went away, or it was told not to get an answer
        _ = served => {}
        () = aleph.is_dead(&party) => {}
        () = aleph.inner.stop.cancelled() => {}
    }
}

/// An error closes the connection without a byte.
fn answer(result: Result<Response, Infallible>) -> Result<Response, io::Error> {
    match result {
        Ok(response) if response.extensions().get::<Unanswered>().is_none() => Ok(response),
        _ => Err(io::Error::other("this answer is lost")),
    }
}
