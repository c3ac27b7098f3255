use super::*;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use baal_agent::web::FetchError;
use baal_protocol::Role;
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use std::convert::Infallible;
use std::io::Write;

fn page(kind: &'static str, body: impl Into<Vec<u8>>) -> Router {
    let body: Vec<u8> = body.into();
    Router::new().fallback(move || async move { ([(header::CONTENT_TYPE, kind)], body) })
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn gzip_page(kind: &'static str, body: Vec<u8>) -> Router {
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, "gzip")];
    Router::new().fallback(move || async move { (headers, body) })
}

#[tokio::test]
async fn a_page_is_read_as_text_with_its_links() {
    let html = "<title>Tea</title><script>x</script><p>All about <a href='/green'>green tea</a>.";
    let page = fetched(page("text/html; charset=utf-8", html)).await;
    assert_eq!(page.text, format!("# Tea\n\nAll about [green tea]({}green).", page.url));
    assert_eq!((page.status, page.content_type.as_str(), page.cut), (StatusCode::OK, "text/html", None));
}

#[tokio::test]
async fn a_page_is_asked_for_honestly_and_without_cookies() {
    let headers = |headers: HeaderMap| async move {
        let (name, cookie) = (&headers["user-agent"], headers.contains_key("cookie"));
        assert!(!headers.contains_key("authorization") && !headers.contains_key("referer"));
        ([(header::SET_COOKIE, "a=b")], format!("{name:?} {cookie}")).into_response()
    };
    let router = Router::new()
        .route("/", get(|| async { ([(header::SET_COOKIE, "a=b")], Redirect::to("/next")) }))
        .route("/next", get(headers));
    let page = fetched(router).await;
    assert!(page.text.starts_with("\"baal-agent/") && page.text.ends_with(" false"), "{}", page.text);
}

#[tokio::test]
async fn json_is_laid_out_and_text_is_left_as_it_is() {
    assert_eq!(fetched(page("application/ld+json", r#"{"a":[1]}"#)).await.text, "{\n  \"a\": [\n    1\n  ]\n}");
    assert_eq!(fetched(page("application/json", "{not json")).await.text, "{not json");
    assert_eq!(fetched(page("text/plain", "<b>as  it is</b>\n")).await.text, "<b>as  it is</b>\n");
    assert_eq!(fetched(page("application/rss+xml", "<rss/>")).await.text, "<rss/>");
}

#[tokio::test]
async fn what_is_no_text_is_named_with_its_size() {
    let page_of = async |kind, body: Vec<u8>| fetched(page(kind, body)).await.text;
    assert_eq!(page_of("image/png", vec![1; 1234]).await, "This is no text but a file of image/png, 1,234 bytes.");
    let unknown = "This is no text but a file of application/octet-stream, 3 bytes.";
    assert_eq!(page_of("application/octet-stream", vec![0, 1, 2]).await, unknown);
    assert_eq!(page_of("application/octet-stream", b"<html><p>x".to_vec()).await, "x");
    assert_eq!(page_of("text/plain", vec![]).await, "The answer is empty.");
    assert!(page_of("text/html", b"<div id=app></div>".to_vec()).await.contains("made by scripts"));
}

#[tokio::test]
async fn an_errors_page_is_read_with_its_status() {
    let page = fetched(Router::new().fallback(|| async { (StatusCode::NOT_FOUND, "no such tea") })).await;
    assert_eq!((page.status, page.text.as_str()), (StatusCode::NOT_FOUND, "no such tea"));
}

#[tokio::test]
async fn charsets_are_those_of_the_header_or_the_page_and_wrong_ones_break_nothing() {
    assert_eq!(fetched(page("text/plain; charset=\"Windows-1251\"", [0xcf, 0xf0])).await.text, "Пр");
    let html = b"<meta charset=shift_jis><p>\x82\xa0".to_vec();
    assert_eq!(fetched(page("text/html", html)).await.text, "あ");
    assert_eq!(fetched(page("text/plain; charset=utf-8", [b'a', 0xff, b'b'])).await.text, "a\u{fffd}b");
    assert_eq!(fetched(page("text/plain; charset=nonsense", "é")).await.text, "é");
}

#[tokio::test]
async fn compressed_pages_are_read_and_wrongly_compressed_ones_told() {
    assert_eq!(fetched(gzip_page("text/plain", gzipped(b"hello"))).await.text, "hello");
    let url = serve(gzip_page("text/plain", b"not gzip at all".to_vec())).await;
    let error = fetcher().fetch(&url, Role::Visitor).await.unwrap_err();
    assert!(error.to_string().contains("it is not"), "{error}");
    let brotli = [(header::CONTENT_ENCODING, "br"), (header::CONTENT_TYPE, "text/plain")];
    let url = serve(Router::new().fallback(move || async move { (brotli, "x") })).await;
    assert!(fetcher().fetch(&url, Role::Visitor).await.unwrap_err().to_string().contains("\"br\""));
}

#[tokio::test]
async fn a_decompression_bomb_is_read_to_the_limit_only() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    (0..20).for_each(|_| bomb.write_all(&vec![b' '; 1_000_000]).unwrap());
    let url = serve(gzip_page("text/html", bomb.finish().unwrap())).await;
    let page = fetcher_with(Dns::system(), small_limits()).fetch(&url, Role::Visitor).await.unwrap();
    assert_eq!(page.cut.as_deref(), Some("Only the first part was read, at most 100,000 bytes."));
}

#[tokio::test]
async fn an_endless_body_is_read_to_the_limit_only() {
    let endless = || async {
        let piece = Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096]));
        ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream::repeat(piece)))
    };
    let url = serve(Router::new().fallback(endless)).await;
    let page = fetcher_with(Dns::system(), small_limits()).fetch(&url, Role::Visitor).await.unwrap();
    assert_eq!(page.text.len(), 1_000);
    assert_eq!(page.cut.as_deref(), Some("The text is cut here, after 1,000 characters; there is more of it."));
}

#[tokio::test]
async fn a_body_that_never_ends_ends_with_the_time() {
    let silent = || async {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"x"))]);
        Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()))
    };
    let url = serve(Router::new().fallback(silent)).await;
    let limits = Limits { total: Duration::from_millis(300), ..Limits::default() };
    let error = fetcher_with(Dns::system(), limits).fetch(&url, Role::Visitor).await.unwrap_err();
    assert_eq!(error, FetchError::Slow(limits.total));
}

#[tokio::test]
async fn five_redirects_are_followed_and_no_sixth() {
    let router = Router::new().route(
        "/{left}",
        get(|axum::extract::Path(left): axum::extract::Path<u8>| async move {
            match left {
                0 => "arrived".into_response(),
                left => Redirect::temporary(&format!("{}", left - 1)).into_response(),
            }
        }),
    );
    let url = serve(router).await;
    assert_eq!(fetcher().fetch(&format!("{url}/5"), Role::Visitor).await.unwrap().text, "arrived");
    assert_eq!(fetcher().fetch(&format!("{url}/6"), Role::Visitor).await.unwrap_err(), FetchError::TooManyRedirects(5));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_in_words() {
    let listener = TcpListener::bind((ALLOWED, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = fetcher().fetch(&url, Role::Visitor).await.unwrap_err();
    assert!(matches!(&error, FetchError::Unreachable(why) if why.contains("refused")), "{error}");
}
