//! Web pages of other origins: none may call the API unless the configuration names them.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// For these origins; none if there are none. Cookies play no part: a page must know a token.
pub(super) fn layer(origins: &[String]) -> Option<CorsLayer> {
    // silent-ok: the configuration has taken them as origins, which are visible ASCII
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let request_id = HeaderName::from_static("x-request-id");
    let taken = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::IF_MATCH,
        HeaderName::from_static("idempotency-key"),
        HeaderName::from_static("last-event-id"),
        request_id.clone(),
    ];
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(taken)
            .expose_headers([header::ETAG, header::LOCATION, header::RETRY_AFTER, request_id])
            .max_age(Duration::from_secs(600))
    })
}
