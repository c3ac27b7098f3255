//! Logs on standard error: for people, or as JSON with `LOG_FORMAT=json`; `RUST_LOG` chooses what (default `info`).

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging; a second call changes nothing.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let json = std::env::var("LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let started = if json { logs.json().try_init() } else { logs.try_init() };
    // silent-ok: it fails only when logging already runs
    drop(started);
}
