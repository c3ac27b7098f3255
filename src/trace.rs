//! Traces across rows: who puts a row into a queue writes down which span it was in, and who takes the row out goes on below it.
//! So one trace leads from an update to its reply, and from a press to an agent that says hello.
//!
//! Spans whose target is [`TARGET`] are made for traces alone: logs never show them, and where no traces are collected they are
//! disabled at their call sites and cost nothing. Their names and attributes are those of OpenTelemetry's semantic conventions
//! (<https://opentelemetry.io/docs/specs/semconv/>). They hold ids and figures, never what people or agents say.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry::{Context, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Instrument as _, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that are for traces alone.
pub const TARGET: &str = "traces";

/// The header, and the key of [`here`]'s text: <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub const TRACEPARENT: &str = "traceparent";

/// The current span as a `traceparent`; none where no traces are collected.
pub fn here() -> Option<String> {
    if !has_context() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Context::current(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes a span that has not been entered yet go on below what [`here`] said when its row was written. None, or what is no
/// `traceparent`: it begins a trace.
pub fn follow(span: &Span, led_here: Option<&str>) {
    let Some(led_here) = led_here else { return };
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), led_here.to_owned())]);
    // silent-ok: where traces are not collected any more, what is left of them in rows means nothing
    let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
}

/// The span of a request to this server; `route` is the path with its parameters' names.
pub fn served(method: &str, route: &str) -> Span {
    info_span!(
        target: TARGET,
        "served",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
    )
}

/// Notes what a [`served`] request was answered.
pub fn answered(span: &Span, status: u16) {
    note(span, "http.response.status_code", i64::from(status));
    if status >= 500 {
        failed(span, status.to_string());
    }
}

/// The span of a call to Telegram that was a row of the outbox.
pub fn sending(outbox_id: i64, method: &str, led_here: Option<&str>) -> Span {
    let span = info_span!(
        target: TARGET,
        "sending",
        otel.name = "process outbox",
        otel.kind = "consumer",
        messaging.system = "baal",
        messaging.operation.name = "process",
        "messaging.operation.type" = "process",
        messaging.destination.name = "outbox",
        messaging.message.id = outbox_id,
        telegram.method = method,
    );
    follow(&span, led_here);
    span
}

/// The span of one step of a job.
pub fn step(step: &str) -> Span {
    info_span!(target: TARGET, "step", otel.name = format_args!("step {step}"), otel.kind = "internal", job.step = step)
}

/// The span of a request to a far side, if it is part of a trace. `place` is its path without what is secret or anybody's words;
/// `server` its host.
pub fn call(method: &str, place: fmt::Arguments<'_>, server: &str) -> Span {
    if !has_context() {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "call",
        otel.name = format_args!("{method} {place}"),
        otel.kind = "client",
        http.request.method = method,
        url.template = %place,
        server.address = server,
    )
}

/// Sends a request within its [`call`] and notes what came of it.
pub async fn within(
    call: &Span,
    sending: impl Future<Output = reqwest::Result<reqwest::Response>>,
) -> reqwest::Result<reqwest::Response> {
    let sent = sending.instrument(call.clone()).await;
    match &sent {
        _ if call.is_none() => {}
        Ok(response) => {
            let status = response.status().as_u16();
            note(call, "http.response.status_code", i64::from(status));
            if status >= 400 {
                failed(call, status.to_string());
            }
        }
        Err(error) if error.is_timeout() => failed(call, "timeout"),
        Err(error) if error.is_connect() => failed(call, "connect"),
        Err(_) => failed(call, "connection"),
    }
    sent
}

/// Adds an attribute to a span; nothing where no traces are collected. Logs do not show it.
pub fn note(span: &Span, key: &'static str, value: impl Into<Value>) {
    span.set_attribute(key, value);
}

/// What the span is about did not work; `kind` is a word or number of few (`error.type`), never a message.
pub fn failed(span: &Span, kind: impl Into<Value>) {
    span.set_attribute("error.type", kind);
    span.set_status(Status::error(""));
}

fn has_context() -> bool {
    Context::map_current(|context| context.has_active_span() && context.span().span_context().is_valid())
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const EARLIER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn traced(test: impl FnOnce()) {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), test);
    }

    #[test]
    fn what_a_row_says_is_where_the_next_span_goes_on() {
        traced(|| {
            assert_eq!(here(), None);
            let span = sending(7, "sendMessage", Some(EARLIER));
            let said = span.in_scope(here).expect("a context");
            assert!(said.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && said.ends_with("-01"), "{said}");
            assert_ne!(said, EARLIER);
            assert_eq!(here(), None);
        });
    }

    #[test]
    fn what_was_not_sampled_stays_so() {
        traced(|| {
            let span = sending(7, "sendMessage", Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"));
            let said = span.in_scope(here).expect("a context");
            assert!(said.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && said.ends_with("-00"), "{said}");
        });
    }

    #[test]
    fn what_is_no_context_begins_a_trace() {
        traced(|| {
            for nothing in ["", "nonsense", "00-0-0-01", "00-00000000000000000000000000000000-0000000000000000-01"] {
                let said = sending(7, "sendMessage", Some(nothing)).in_scope(here).expect("a context");
                assert!(said.starts_with("00-") && !said.contains("0af765"), "{said}");
            }
        });
    }

    #[test]
    fn calls_are_traced_only_within_a_trace() {
        traced(|| {
            assert!(call("POST", format_args!("/chat"), "example.org").is_none());
            let inside = step("install").in_scope(|| call("POST", format_args!("/chat"), "example.org").in_scope(here));
            assert!(inside.is_some());
        });
    }

    #[test]
    fn without_a_collector_nothing_is_written_down() {
        let span = sending(7, "sendMessage", Some(EARLIER));
        assert_eq!(span.in_scope(here), None);
        assert!(call("POST", format_args!("/chat"), "example.org").is_none());
    }
}
