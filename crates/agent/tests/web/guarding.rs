use super::dns::NameServer;
use super::*;
use axum::response::Redirect;
use baal_agent::web::{FetchError, Refusal};
use baal_protocol::Role;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A server that must not be reached, and how often it was.
async fn secret() -> (SocketAddr, Arc<AtomicUsize>) {
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = visits.clone();
    let router = Router::new().fallback(move || async move {
        counted.fetch_add(1, Ordering::SeqCst);
        "secret"
    });
    (serve_on("127.0.0.1", router).await, visits)
}

#[tokio::test]
async fn this_machine_is_not_visited_however_it_is_written() {
    let (address, visits) = secret().await;
    for host in
        ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]", "localhost", "a.localhost"]
    {
        let error = fetcher().fetch(&format!("http://{host}:{}/", address.port()), Role::Visitor).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(Refusal::Closed(_))), "{host}: {error}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn no_redirect_leads_to_where_one_may_not_go() {
    let (address, visits) = secret().await;
    for to in [
        format!("http://{address}/"),
        format!("//localhost:{}/", address.port()),
        format!("http://[::ffff:127.0.0.1]:{}/", address.port()),
        "http://169.254.169.254/latest/meta-data/".into(),
        "http://2852039166/".into(),
        "http://[fd00:ec2::254]/".into(),
        "http://me:pw@example.com/".into(),
        "file:///etc/passwd".into(),
        "ftp://example.com/".into(),
        "http://example.com:22/".into(),
    ] {
        let target = to.clone();
        let url = serve(Router::new().fallback(move || async move { Redirect::permanent(&target) })).await;
        let error = fetcher().fetch(&url, Role::Visitor).await.unwrap_err();
        let refused = matches!(error, FetchError::RedirectRefused { .. } | FetchError::Refused(Refusal::Closed(_)));
        assert!(refused, "{to}: {error}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_in_the_middle_of_a_chain_is_checked_like_the_first() {
    let (address, visits) = secret().await;
    let last = serve(Router::new().fallback(move || async move { Redirect::to(&format!("http://{address}/")) })).await;
    let first = serve(Router::new().fallback(move || async move { Redirect::to(&last) })).await;
    let error = fetcher().fetch(&first, Role::Visitor).await.unwrap_err();
    assert!(matches!(error, FetchError::RedirectRefused { .. }), "{error}");
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_leads_only_to_those_of_its_addresses_that_may_be_visited() {
    let (address, visits) = secret().await;
    let open = serve_on(ALLOWED, Router::new().fallback(|| async { "open" })).await;
    let names = NameServer::start(&[
        ("inside.example", &[&["127.0.0.1", "10.0.0.1", "::1", "fd00:ec2::254", "::ffff:127.0.0.1"]]),
        ("metadata.example", &[&["169.254.169.254"]]),
        ("both.example", &[&["127.0.0.1", "127.0.0.2"]]),
    ])
    .await;
    let fetcher = fetcher_with(Dns::with_servers(vec![names.address]), small_limits());
    for name in ["inside.example", "metadata.example"] {
        let error = fetcher.fetch(&format!("http://{name}:{}/", address.port()), Role::Visitor).await.unwrap_err();
        assert_eq!(error, FetchError::Refused(Refusal::Closed(name.into())));
    }
    let page = fetcher.fetch(&format!("http://both.example:{}/", open.port()), Role::Visitor).await.unwrap();
    assert_eq!(page.text, "open");
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_changes_after_the_check_is_not_followed() {
    let (address, visits) = secret().await;
    let names = NameServer::start(&[("rebinding.example", &[&["127.0.0.2"], &["127.0.0.1"]])]).await;
    let fetcher = fetcher_with(Dns::with_servers(vec![names.address]), small_limits());
    let url = format!("http://rebinding.example:{}/", address.port());
    // The first answer is the permitted address, where nothing listens on this port; every later one is the secret's.
    for _ in 0..4 {
        assert!(fetcher.fetch(&url, Role::Visitor).await.is_err());
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
    assert!(names.questions() > 2, "the name was asked for again");
}

#[tokio::test]
async fn a_name_that_the_operator_lists_leads_anywhere_and_no_other_does() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (address, _) = secret().await;
    let names = NameServer::start(&[("wiki.corp", &[&["127.0.0.1"]]), ("other.corp", &[&["127.0.0.1"]])]).await;
    let policy = Policy::parse(&["wiki.corp"]).expect("a policy");
    let fetcher = Fetcher::new(policy, Dns::with_servers(vec![names.address]));
    let page = fetcher.fetch(&format!("http://wiki.corp:{}/", address.port()), Role::Visitor).await.unwrap();
    assert_eq!(page.text, "secret");
    let error = fetcher.fetch(&format!("http://other.corp:{}/", address.port()), Role::Visitor).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused(_)), "{error}");
}
