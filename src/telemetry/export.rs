//! Sending traces to a collector: OTLP over HTTP, in batches, from a thread of their own.
//!
//! Nothing waits for the collector: spans that it does not take in time are dropped, and the log says so once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry::{KeyValue, Value};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use crate::trace;

/// How long the collector may take to take a batch.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to take what is left when the program ends.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// Kept for the end.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Spans of the logs that are part of traces, too: the queue whose rows they are about.
const QUEUES: [(&str, &str); 4] = [("update", "updates"), ("turn", "turns"), ("job", "jobs"), ("errand", "errands")];
/// The span of the API's requests in the logs.
const REQUEST: &str = "request";

/// What makes spans and sends them to the collector at `endpoint`, a base URL. To be called within the runtime that is to do
/// the sending.
pub(super) fn layer<S>(endpoint: &str) -> anyhow::Result<impl Layer<S> + Send + Sync + 'static>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let http = reqwest::Client::builder()
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("no HTTP client could be made")?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(http)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_timeout(PATIENCE)
        .build()?;
    let courier = Courier { exporter: Arc::new(exporter), runtime: Handle::current(), failing: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder().with_batch_exporter(courier).with_resource(resource()).build();
    let tracer = PROVIDER.get_or_init(|| provider).tracer("baal");
    let layer = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    // Asked anew each time, not once for each call site. Whoever only asks whether something is enabled (sqlx does, before it
    // logs a statement) leaves the answer with the thread, and the next span would be taken for what was asked about if its
    // call site were known to be enabled for logs and traces.
    let sometimes = |metadata: &'static Metadata<'static>| match is_traced(metadata) {
        true => Interest::sometimes(),
        false => Interest::never(),
    };
    let filter = dynamic_filter_fn(|metadata, _| is_traced(metadata)).with_callsite_filter(sometimes);
    Ok(layer.with_filter(filter.with_max_level_hint(LevelFilter::INFO)))
}

/// Sends what is left, for a few seconds at most. To be called when all work has ended, outside asynchronous code, while the
/// runtime is there.
pub fn end() {
    let Some(provider) = PROVIDER.get() else { return };
    if let Err(error) = provider.shutdown_with_timeout(LAST_PATIENCE) {
        warn!(%error, "the last traces could not be sent");
    }
}

/// Whether traces hold a span, or an event of one: of this program's spans those that are made for traces or named above.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let (target, name) = (metadata.target(), metadata.name());
    if !metadata.is_span() {
        return target.starts_with("baal") && *metadata.level() <= Level::INFO;
    }
    let named = || name == REQUEST || QUEUES.iter().any(|(span, _)| *span == name);
    target == trace::TARGET || (target.starts_with("baal") && named())
}

/// Who we are: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, and what they do not say.
fn resource() -> Resource {
    let named = Resource::builder().build();
    let unnamed = named.iter().all(|(key, value)| key.as_str() != "service.name" || is_unknown(value));
    let name = unnamed.then(|| KeyValue::new("service.name", "baal"));
    Resource::builder()
        .with_attributes(name)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ])
        .build()
}

fn is_unknown(service: &Value) -> bool {
    service.as_str().starts_with("unknown_service")
}

/// Takes batches to the collector. They come from a thread without a runtime, which the HTTP client needs.
#[derive(Debug)]
struct Courier {
    exporter: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
    failing: AtomicBool,
}

impl SpanExporter for Courier {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let batch = batch.into_iter().map(conventional).collect();
        let exporter = self.exporter.clone();
        let sent = self.runtime.spawn(async move { exporter.export(batch).await }).await;
        // The runtime ends, and this process with it.
        let sent = sent.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())));
        match &sent {
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                warn!(%error, spans, "the collector of traces does not take them; they are dropped until it does");
            }
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => info!("the collector takes traces again"),
            _ => {}
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Nothing is under way before it is known who we are.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// A span of the logs in the words of the semantic conventions.
fn conventional(mut span: SpanData) -> SpanData {
    if let Some((_, queue)) = QUEUES.iter().find(|(name, _)| *name == span.name) {
        let id = format!("{}.id", span.name);
        let id = span.attributes.iter().find(|attribute| attribute.key.as_str() == id);
        let id = id.map(|attribute| KeyValue::new("messaging.message.id", attribute.value.to_string()));
        span.attributes.extend(id);
        span.attributes.extend([
            KeyValue::new("messaging.system", "baal"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", *queue),
        ]);
        span.span_kind = SpanKind::Consumer;
        span.name = format!("process {queue}").into();
    } else if span.name == REQUEST {
        // A path is whatever a stranger writes; its route is known.
        span.attributes.retain(|attribute| attribute.key.as_str() != "path");
        let method = span.attributes.iter_mut().find(|attribute| attribute.key.as_str() == "method");
        let method = method.map(|attribute| {
            attribute.key = "http.request.method".into();
            attribute.value.to_string()
        });
        let route = span.attributes.iter().find(|attribute| attribute.key.as_str() == "http.route");
        let route = route.map(|attribute| attribute.value.to_string());
        span.name = method.into_iter().chain(route).collect::<Vec<_>>().join(" ").into();
        span.span_kind = SpanKind::Server;
    }
    span
}
