//! Reading the web against local servers: what is fetched, and what is not however it is asked for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dns;
mod fetching;
mod guarding;
mod names;
mod searching;

use axum::Router;
use baal_agent::web::{Dns, Fetcher, Limits, Page, Policy};
use baal_protocol::Role;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The address that tests may visit: loopback, and yet not 127.0.0.1.
const ALLOWED: &str = "127.0.0.2";

/// Serves on an address of this machine until the test's runtime ends.
async fn serve_on(host: &str, router: Router) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn serve(router: Router) -> String {
    format!("http://{}", serve_on(ALLOWED, router).await)
}

fn fetcher_with(dns: Arc<Dns>, limits: Limits) -> Fetcher {
    // silent-ok: an error only says that another test was first
    drop(rustls::crypto::ring::default_provider().install_default());
    Fetcher::with_limits(Policy::parse(&[ALLOWED]).expect("a policy"), dns, limits)
}

fn fetcher() -> Fetcher {
    fetcher_with(Dns::system(), Limits::default())
}

fn small_limits() -> Limits {
    Limits { total: Duration::from_secs(20), redirects: 5, body_bytes: 100_000, characters: 1_000 }
}

async fn fetched(router: Router) -> Page {
    let url = serve(router).await;
    fetcher().fetch(&url, Role::Visitor).await.expect("a page")
}
