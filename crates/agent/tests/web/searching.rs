use super::*;
use baal_agent::web::{Brave, SearchError, SearchResult};
use baal_simulators::brave::{self, Prescribed, Search};
use serde_json::json;

async fn service() -> (brave::Brave, String) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let simulator = brave::Brave::default();
    let address = serve_on("127.0.0.1", brave::router_with(simulator.clone())).await;
    (simulator, format!("http://localhost:{}/", address.port()))
}

fn client(base_url: &str, key: &str) -> Brave {
    Brave::new(base_url, key.into(), Dns::system())
}

#[tokio::test]
async fn a_search_gives_titles_addresses_and_descriptions_as_plain_text() {
    let (simulator, url) = service().await;
    let found = client(&url, "key").search(" green tea & more ", 2).await.unwrap();
    let expected = |n: u8| SearchResult {
        title: format!("Result {n} for green tea & more"),
        url: format!("https://www.example.com/{n}"),
        description: format!("What \"page {n}\" says about it."),
    };
    assert_eq!(found, [expected(1), expected(2)]);
    assert_eq!(simulator.searches(), [Search { q: "green tea & more".into(), count: 2 }]);
    assert_eq!(client(&url, "key").search("x", 200).await.unwrap().len(), 20);
}

#[tokio::test]
async fn nothing_found_is_no_error() {
    let (simulator, url) = service().await;
    for body in [json!({"type": "search"}), json!({"web": null}), json!({"web": {"results": []}})] {
        simulator.prescribe(Prescribed { status: 200, body });
        assert_eq!(client(&url, "key").search("x", 5).await, Ok(vec![]));
    }
}

#[tokio::test]
async fn failures_are_told_in_words_that_hold_neither_key_nor_address() {
    let (simulator, url) = service().await;
    assert_eq!(client(&url, "bad-key").search("x", 5).await, Err(SearchError::Key));
    assert_eq!(client(&url, "two\nlines").search("x", 5).await, Err(SearchError::Key));
    assert_eq!(client(&url, "key").search("  ", 5).await, Err(SearchError::EmptyQuery));
    assert_eq!(client(&url, "key").search(&"x ".repeat(51), 5).await, Err(SearchError::LongQuery));
    for (status, error) in [
        (429, SearchError::Busy),
        (402, SearchError::UsedUp),
        (500, SearchError::Failing(500)),
        (302, SearchError::Failing(302)),
        (200, SearchError::Unreadable),
    ] {
        simulator.prescribe(Prescribed { status, body: json!("not what was promised") });
        assert_eq!(client(&url, "key").search("x", 5).await, Err(error));
    }
    assert_eq!(client("http://127.0.0.1:1", "key").search("x", 5).await, Err(SearchError::Unreachable));
}
