//! Headers that make browsers careful with every answer of this server.

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// No answer is a page that loads anything.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Swagger UI: its own files; styles that its program sets, pictures that are in its style sheets, and this server's API.
const SWAGGER: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The outermost layer: also what no route answers gets them.
pub(super) async fn harden(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_page_of_docs = path == "/docs" || path.starts_with("/docs/");
    let mut response = next.run(request).await;
    let fixed = [
        // Swagger UI's files are 1.5 MB and the same until the program is another.
        (header::CACHE_CONTROL, if is_page_of_docs { "private, max-age=600" } else { "no-store" }),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, if is_page_of_docs { SWAGGER } else { NOTHING }),
    ];
    for (name, value) in fixed {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
