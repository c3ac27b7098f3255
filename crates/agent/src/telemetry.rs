//! Logs on standard error: for people, or as JSON with `LOG_FORMAT=json`; `RUST_LOG` chooses what, such as `debug` or
//! `info,baal_agent::web=debug` (default `info`).

use std::io::IsTerminal;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// Starts logging; a second call changes nothing.
pub fn init() {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|wanted| wanted.parse::<Targets>().ok());
    let logs = registry().with(wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let json = std::env::var("LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let started = if json { logs.with(lines.json()).try_init() } else { logs.with(lines).try_init() };
    // silent-ok: it fails only when logging already runs
    drop(started);
}
