//! `GET /`: what this server is, for whoever comes across it.

use axum::response::Html;

const HEAD: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"color-scheme\" content=\"light dark\">\n",
    "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Baal</title>\n<h1>Baal ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<p>A Telegram bot platform on which anyone creates and shares AI agents.\n",
);

const ADMIN: &str = "<ul>\n<li><a href=\"/docs\">/docs</a>: the administrators' API, to read and to try out\n\
    <li><a href=\"/openapi.json\">/openapi.json</a>: the same for programs (OpenAPI)\n\
    <li><a href=\"/metrics\">/metrics</a>: figures for Prometheus, with a token\n\
    <li><a href=\"/healthz\">/healthz</a>, <a href=\"/readyz\">/readyz</a>: whether it lives, whether it can work\n</ul>\n";

/// The page; `admin`: whether the administrators' part is on this address too.
pub(super) fn page(admin: bool) -> Html<String> {
    Html(if admin { format!("{HEAD}{ADMIN}") } else { HEAD.to_owned() })
}
