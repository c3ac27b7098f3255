//! `baal health`: whether the process of this host can do its work, for health checks of containers, which have no other
//! program to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::causes;
use crate::config::Config;

/// How long an answer may take: longer than `/readyz` gives its database, so that it can say so.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Says in a line whether the server of this host is ready, by `GET /readyz` on LISTEN_ADDR; where nothing listens there, whether
/// the worker lives, by `GET /healthz` on ADMIN_LISTEN_ADDR. Needs no other variable.
pub async fn run(env_file: bool) -> anyhow::Result<bool> {
    let (listen, admin) = Config::listens(env_file)?;
    let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let (well, words) = match ask(&http, listen, admin).await {
        Ok(words) => (true, words),
        Err(words) => (false, words),
    };
    println!("{words}");
    Ok(well)
}

/// What was answered; an error is why the process is not well.
async fn ask(http: &reqwest::Client, listen: SocketAddr, admin: Option<SocketAddr>) -> Result<String, String> {
    match (get(http, listen, "/readyz").await, admin) {
        // `baal worker` listens nowhere else. A server that listens on neither is not up.
        (Err(Answer::NobodyThere), Some(admin)) => get(http, admin, "/healthz").await,
        (answer, _) => answer,
    }
    .map_err(|answer| match answer {
        Answer::NobodyThere => "nothing listens: it is starting, stopping, or gone".to_owned(),
        Answer::Bad(words) => words,
    })
}

enum Answer {
    NobodyThere,
    Bad(String),
}

async fn get(http: &reqwest::Client, address: SocketAddr, path: &str) -> Result<String, Answer> {
    let sent = http.get(format!("http://{}{path}", reachable(address))).send().await;
    let answer = sent.map_err(|error| match error.is_connect() {
        true => Answer::NobodyThere,
        false => Answer::Bad(format!("{path} does not answer ({})", cause(&error))),
    })?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| Answer::Bad(format!("{path} breaks off ({})", cause(&error))))?;
    let words: String = text.trim().chars().take(200).collect();
    if status.is_success() { Ok(words) } else { Err(Answer::Bad(format!("{path}: {}: {words}", status.as_u16()))) }
}

/// The innermost reason: the others repeat the address.
fn cause(error: &reqwest::Error) -> String {
    causes::of(error).last().map(ToString::to_string).unwrap_or_default()
}

/// Where a server that listens on `address` is reached from this machine.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => return address,
    };
    SocketAddr::new(loopback, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;

    async fn serve(router: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    /// An address on which nobody listens.
    async fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
    }

    async fn asked(listen: SocketAddr, admin: Option<SocketAddr>) -> Result<String, String> {
        drop(rustls::crypto::ring::default_provider().install_default());
        ask(&reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().expect("a client"), listen, admin).await
    }

    #[tokio::test]
    async fn a_server_is_as_well_as_it_is_ready() {
        let ready = serve(Router::new().route("/readyz", get(async || "ready\n"))).await;
        let waits = || async { (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n") };
        let waiting = serve(Router::new().route("/readyz", get(waits))).await;
        let lives = serve(Router::new().route("/healthz", get(async || "ok"))).await;
        assert_eq!(asked(ready, None).await, Ok("ready".into()));
        let not_ready = Err("/readyz: 503: the database does not answer".into());
        assert_eq!(asked(waiting, None).await, not_ready);
        assert_eq!(asked(waiting, Some(lives)).await, not_ready, "living is not enough for a server");
    }

    #[tokio::test]
    async fn a_worker_is_asked_where_it_shows_its_figures() {
        let lives = serve(Router::new().route("/healthz", get(async || "ok"))).await;
        assert_eq!(asked(nobody().await, Some(lives)).await, Ok("ok".into()));
        for admin in [None, Some(nobody().await)] {
            let answer = asked(nobody().await, admin).await;
            assert_eq!(answer, Err("nothing listens: it is starting, stopping, or gone".into()));
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_this_machine() {
        for (listens, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(reachable(listens.parse().expect("an address")).to_string(), asked);
        }
    }
}
