//! Logs, to standard error: for people or as JSON lines. And traces, to a collector, where one is named.

mod export;

use std::fmt::{self, Write as _};
use std::io::IsTerminal;

use anyhow::Context as _;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::LogFormat;
use crate::trace;

pub use export::end;

/// What is logged unless RUST_LOG says otherwise. The SSH library logs what a server sends, up to errors, as often as it sends it.
const DEFAULT_FILTER: &str = "info,sqlx=warn,hyper=warn,reqwest=warn,russh=off,async_ssh2_tokio=off";

/// What RUST_LOG gets of libraries that it does not name: below these, they log what goes over the wire.
const QUIETER: [(&str, LevelFilter); 4] = [
    ("russh", LevelFilter::WARN),
    ("async_ssh2_tokio", LevelFilter::WARN),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
];

/// Starts logging, and sending traces to the collector at this base URL. Later calls change nothing. Within a runtime; [`end`]
/// sends the last traces.
pub fn init(format: LogFormat, collector: Option<&str>) -> anyhow::Result<()> {
    // silent-ok: what cannot be read is as good as not set
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    // What is made for traces alone is not logged, whether they are collected or not.
    let filter = |directives: &str| format!("{directives},{}=off", trace::TARGET);
    let filter = EnvFilter::try_new(filter(&directives(asked.as_deref())))
        .unwrap_or_else(|_| EnvFilter::new(filter(DEFAULT_FILTER)));
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Human => {
            logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).fmt_fields(one_line()).boxed()
        }
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    let started = match collector {
        // What is not logged then is disabled altogether.
        None => tracing_subscriber::registry().with(logs).with(filter).try_init(),
        Some(url) => {
            let traces = export::layer(url).with_context(|| format!("traces cannot be sent to {url}"))?;
            tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init()
        }
    };
    drop(started); // silent-ok: logging is on already
    Ok(())
}

/// Whether a character moves a cursor, ends a line, turns a text around or is not to be seen: strangers' words reach no log and
/// no terminal with it.
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn directives(asked: Option<&str>) -> String {
    let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else { return DEFAULT_FILTER.to_owned() };
    let each = || asked.split(',').map(str::trim);
    // Of what is not named nothing is logged without a level for all.
    let general = each().filter_map(|directive| directive.parse::<LevelFilter>().ok()).next_back();
    let general = general.unwrap_or(LevelFilter::OFF);
    let mut directives = asked.to_owned();
    for (library, level) in QUIETER {
        let target = |directive: &str| directive.split(['=', '[', ':']).next() == Some(library);
        if general > level && !each().any(target) {
            directives += &format!(",{library}={level}");
        }
    }
    directives
}

/// Fields of which none can end the line and begin another that looks like ours.
fn one_line() -> impl for<'w> FormatFields<'w> + 'static {
    debug_fn(|writer, field, value| match field.name() {
        "message" => write!(Escaped(writer), "{value:?}"),
        // What the `log` crate knows of its records' places.
        name if name.starts_with("log.") => Ok(()),
        name => {
            write!(writer, "{}=", name.trim_start_matches("r#"))?;
            write!(Escaped(writer), "{value:?}")
        }
    })
    .delimited(" ")
}

/// Writes `\n` for a line's end, and the like.
struct Escaped<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_unprintable) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut characters = from.chars();
            if let Some(odd) = characters.next() {
                write!(self.0, "{}", odd.escape_default())?;
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("the test's own").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_strangers_say() {
        let written = Written::default();
        let writer = written.clone();
        let logs = tracing_subscriber::fmt().with_writer(move || writer.clone()).without_time().with_target(false);
        tracing::subscriber::with_default(logs.with_ansi(false).fmt_fields(one_line()).finish(), || {
            let said = "late\n2026-11-23 INFO all is well\u{1b}[2J\u{202e}\u{200b}\u{9b}";
            tracing::info_span!("job", said).in_scope(|| {
                tracing::warn!(%said, r#type = said, count = 3, "what {said}");
            });
        });
        let line = String::from_utf8(written.0.lock().expect("the test's own").clone()).expect("text");
        let escaped = r"late\n2026-11-23 INFO all is well\u{1b}[2J\u{202e}\u{200b}\u{9b}";
        let expected =
            format!(" WARN job{{said=\"{escaped}\"}}: what {escaped} said={escaped} type=\"{escaped}\" count=3\n");
        assert_eq!(line, expected);
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        for unset in [None, Some(""), Some(" ")] {
            assert_eq!(directives(unset), DEFAULT_FILTER);
        }
        let all = ",russh=warn,async_ssh2_tokio=warn,h2=info,hyper=info";
        assert_eq!(directives(Some("debug")), format!("debug{all}"));
        assert_eq!(directives(Some("baal=trace, trace")), format!("baal=trace, trace{all}"));
        assert_eq!(directives(Some("info")), "info,russh=warn,async_ssh2_tokio=warn");
        assert_eq!(
            directives(Some("debug,russh=trace,h2::codec=debug")),
            "debug,russh=trace,h2::codec=debug,async_ssh2_tokio=warn,hyper=info"
        );
        // Nothing is added to what is quieter already.
        for quiet in ["warn", "off", "baal=debug", "error,baal[job]=debug"] {
            assert_eq!(directives(Some(quiet)), quiet);
        }
        for filter in [DEFAULT_FILTER.to_owned(), directives(Some("debug,baal[job]=trace"))] {
            EnvFilter::try_new(&filter).expect(&filter);
        }
    }
}
