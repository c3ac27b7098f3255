//! Traces at a collector: one of a message, one of a new agent; and the ids in log lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use uuid::Uuid;

use crate::api::{ADMIN_TOKEN, Api};
use crate::harness::{Builder, DEADLINE, POLL, Stack, free_port};

/// A span as the collector got it.
#[derive(Debug, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: SpanKind,
    failed: bool,
    attributes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    /// Requests as they came.
    bodies: Vec<Bytes>,
    /// Attributes of the senders.
    services: BTreeSet<(String, String)>,
    headers: HeaderMap,
}

/// An OTLP collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Received>>);

impl Collector {
    /// The collector and its base URL.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let router = Router::new().route("/v1/traces", post(receive)).with_state(collector.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().spans.clone()
    }

    /// Waits for something in the spans that have come.
    #[track_caller]
    fn wait_for<T>(&self, what: impl Display, look: impl Fn(&[Span]) -> Option<T>) -> impl Future<Output = T> {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + DEADLINE;
            loop {
                let spans = self.spans();
                if let Some(found) = look(&spans) {
                    return found;
                }
                let names: Vec<String> = spans.iter().map(|s| format!("{} {} < {}", s.name, s.id, s.parent)).collect();
                assert!(tokio::time::Instant::now() < deadline, "{caller}: no {what} in {names:#?}");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Waits for a line of spans, each the parent of the next, that ends with this one's descendants; the first one begins the
    /// trace.
    #[track_caller]
    fn wait_for_line(&self, names: &[&str], of: impl Fn(&Span) -> bool) -> impl Future<Output = Vec<Span>> {
        self.wait_for(format!("{names:?}"), move |spans| {
            let parent = |span: &Span| spans.iter().find(|p| p.id == span.parent && p.trace == span.trace).cloned();
            let lines = spans.iter().filter(|span| Some(&span.name.as_str()) == names.last()).map(|last| {
                let mut line: Vec<Span> = std::iter::successors(Some(last.clone()), parent).collect();
                line.reverse();
                line
            });
            let mut lines = lines.filter(|line| line.iter().map(|s| s.name.as_str()).eq(names.iter().copied()));
            lines.find(|line| line[0].parent.is_empty() && line.iter().any(&of))
        })
    }
}

async fn receive(
    State(Collector(received)): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let mut received = received.lock().unwrap();
    for resource in request.resource_spans {
        received.services.extend(attributes(resource.resource.unwrap().attributes));
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            received.spans.push(Span {
                trace: hex::encode(&span.trace_id),
                id: hex::encode(&span.span_id),
                parent: hex::encode(&span.parent_span_id),
                kind: span.kind(),
                failed: span.status.is_some_and(|status| status.code == 2),
                name: span.name,
                attributes: attributes(span.attributes).collect(),
            });
        }
    }
    received.bodies.push(body);
    received.headers = headers;
    (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

fn attributes(attributes: Vec<KeyValue>) -> impl Iterator<Item = (String, String)> {
    attributes.into_iter().map(|KeyValue { key, value, .. }| {
        let value = match value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (key, value)
    })
}

/// A program that sends its traces to this URL, soon.
fn traced(url: &str) -> Builder {
    Stack::builder().env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_BSP_SCHEDULE_DELAY", 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_one_trace_from_the_update_to_the_reply() {
    let (collector, url) = Collector::start().await;
    let stack = traced(&url).env("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=baal%20tests").start().await;
    let ann = stack.user(1);
    let ada = ann.creates_agent("Ada-Unsaid", "You count unheard-of things.").await;
    ann.asks(&format!("/start {ada}"), "You are talking to Ada").await;
    ann.asks("a confidential question", "message 1 of our conversation").await;
    let turn: Uuid = stack.sql("select id from turns where kind = 'message'").await;

    let way = ["POST /telegram/webhook", "process updates", "process turns"];
    let of = |span: &Span| span.attributes.get("turn.id") == Some(&turn.to_string());
    let asked = collector.wait_for_line(&[&way[..], &["POST /chat"]].concat(), of).await;
    let said = collector.wait_for_line(&[&way[..], &["process outbox", "POST /bot/sendMessage"]].concat(), of).await;
    assert_eq!(asked[2].id, said[2].id);
    let kinds: Vec<SpanKind> = said.iter().map(|span| span.kind).collect();
    let (server, consumer, client) = (SpanKind::Server, SpanKind::Consumer, SpanKind::Client);
    assert_eq!(kinds, [server, consumer, consumer, consumer, client]);
    assert!(said.iter().chain(&asked).all(|span| !span.failed), "{said:#?}");
    let has = |span: &Span, key: &str, value: &str| assert_eq!(span.attributes.get(key).unwrap(), value, "{span:#?}");
    has(&said[0], "http.response.status_code", "200");
    has(&said[1], "messaging.destination.name", "updates");
    has(&said[2], "turn.status", "completed");
    has(&said[2], "agent.id", &ada.to_string());
    assert!(said[2].attributes.contains_key("gen_ai.usage.output_tokens"));
    has(&said[4], "server.address", "127.0.0.1");
    has(&asked[3], "http.response.status_code", "200");
    // The rows say the same.
    let rows: Vec<String> = sqlx::query_scalar(
        "select trace_context from updates where trace_context like '%' || $1 || '%'
         union select trace_context from turns where id = $2
         union select trace_context from outbox where trace_context like '%' || $1 || '%'",
    )
    .bind(&said[0].trace)
    .bind(turn)
    .fetch_all(&stack.db)
    .await
    .unwrap();
    let parents: BTreeSet<String> = said[..3].iter().map(|span| format!("00-{}-{}-01", span.trace, span.id)).collect();
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), parents);

    // An admin's request is a trace of its own, named after its route.
    Api::of(&stack).get("/audit?limit=7").await.is(200);
    let request = |spans: &[Span]| spans.iter().find(|span| span.name == "GET /api/v1/audit").cloned();
    let request = collector.wait_for("request", request).await;
    assert_eq!((request.kind, request.parent.as_str()), (server, ""));
    has(&request, "http.response.status_code", "200");

    // What was said, names and secrets are nobody's but theirs; nor does sending traces make any.
    stack.baal(0).stop().await;
    let received = collector.0.lock().unwrap();
    let words = ["confidential", "unheard-of", "Ada-Unsaid", "our conversation", ADMIN_TOKEN, "test-webhook-secret"];
    for secret in words.into_iter().chain([stack.simulator.bot_token()]) {
        let shown = received.bodies.iter().any(|body| body.windows(secret.len()).any(|w| w == secret.as_bytes()));
        assert!(!shown, "{secret} is in a trace");
    }
    assert!(received.spans.iter().all(|span| !span.name.contains("v1/traces")));
    assert_eq!(received.headers["x-tenant"], "baal tests");
    let services: Vec<&str> =
        received.services.iter().filter(|s| s.0 == "service.name").map(|s| s.1.as_str()).collect();
    assert_eq!(services, ["baal"]);
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_is_one_trace_from_the_press_to_its_hello() {
    let (collector, url) = Collector::start().await;
    let stack = traced(&url).env("OTEL_SERVICE_NAME", "our-bot").start().await;
    stack.user(1).creates_agent("Ada", "You count.").await;
    let (job, hello): (Uuid, Uuid) = (stack.sql("select id from jobs where kind = 'provision'").await, {
        stack.wait_for_sql("select count(*) from turns where kind = 'hello' and done", 1i64).await;
        stack.sql("select id from turns where kind = 'hello'").await
    });
    let of_job = |span: &Span| span.attributes.get("job.id") == Some(&job.to_string());
    let of_hello = |span: &Span| span.attributes.get("turn.id") == Some(&hello.to_string());
    let way = ["POST /telegram/webhook", "process updates", "process jobs"];
    let steps: Vec<String> = sqlx::query_scalar("select distinct step from job_steps where job_id = $1")
        .bind(job)
        .fetch_all(&stack.db)
        .await
        .unwrap();
    assert!(steps.len() > 3, "{steps:?}");
    for step in &steps {
        let name = format!("step {step}");
        let line = collector.wait_for_line(&[&way[..], &[name.as_str()]].concat(), of_job).await;
        assert!(!line[3].failed);
    }
    // The last step asks for the hello; the agent says it, and Telegram hears it.
    let way = [&way[..], &["step finish", "process turns"]].concat();
    let asked = collector.wait_for_line(&[&way[..], &["POST /chat"]].concat(), of_hello).await;
    let said =
        collector.wait_for_line(&[&way[..], &["process outbox", "POST /bot/sendMessage"]].concat(), of_hello).await;
    assert!(of_job(&said[2]) && asked[2].id == said[2].id);
    let services = &collector.0.lock().unwrap().services;
    assert!(services.contains(&("service.name".into(), "our-bot".into())), "{services:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_rows_say_nothing_of_traces() {
    let stack = Stack::start().await;
    let ann = stack.user(1);
    let ada = ann.creates_agent("Ada", "You count.").await;
    ann.asks(&format!("/start {ada}"), "You are talking to Ada").await;
    ann.asks("hello", "message 1 of our conversation").await;
    let written = "select sum(n)::int8 from (
         select count(trace_context) n from updates union all select count(trace_context) from turns
         union all select count(trace_context) from outbox union all select count(trace_context) from jobs
         union all select count(trace_context) from errands) t";
    assert_eq!(stack.sql::<i64>(written).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_or_never_answers_holds_up_nothing() {
    // It takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    for url in [format!("http://127.0.0.1:{}", free_port()), silent_url] {
        let stack = traced(&url).start().await;
        let ann = stack.user(1);
        let ada = ann.creates_agent("Ada", "You count.").await;
        ann.asks(&format!("/start {ada}"), "You are talking to Ada").await;
        ann.asks("hello", "message 1 of our conversation").await;
        let stopping = tokio::time::timeout(Duration::from_secs(30), stack.baal(0).stop()).await;
        assert!(stopping.is_ok(), "it does not end");
        let log = std::fs::read_to_string(stack.dir().join("baal-0.log")).unwrap();
        assert!(log.contains(" stopped"), "{log}");
        let told = log.lines().filter(|line| line.contains("the collector of traces does not take them")).count();
        assert!(told <= 1, "{log}");
        assert_eq!(stack.errors(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_carry_the_ids_of_what_they_are_about_with_and_without_traces() {
    let (_, url) = Collector::start().await;
    for builder in [Stack::builder(), traced(&url)] {
        let stack = builder.env("LOG_FORMAT", "json").start().await;
        let ann = stack.user(1);
        let ada = ann.creates_agent("Ada", "You count.").await;
        ann.asks(&format!("/start {ada}"), "You are talking to Ada").await;
        ann.asks("hello", "message 1 of our conversation").await;
        stack.wait_for_sql("select count(*) from turns where not done", 0i64).await;
        let turn: Uuid = stack.sql("select id from turns where kind = 'message'").await;
        let job: Uuid = stack.sql("select id from jobs where kind = 'provision'").await;
        let update: i64 = stack.sql("select max(update_id) from updates").await;
        stack.baal(0).stop().await;
        let log = std::fs::read_to_string(stack.dir().join("baal-0.log")).unwrap();
        let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let about = |message: &str, key: &str, value: serde_json::Value| {
            let mut found = lines.iter().filter(|line| line["message"] == message && line["span"][key] == value);
            found.next().unwrap_or_else(|| panic!("no {message:?} with {key} {value} in {log}"))["span"].clone()
        };
        about("update handled", "update.id", update.into());
        let span = about("turn finished", "turn.id", turn.to_string().into());
        assert_eq!((&span["agent.id"], &span["chat.id"], &span["name"]), (&ada.into(), &1.into(), &"turn".into()));
        let span = about("the agent runs as wanted", "job.id", job.to_string().into());
        assert_eq!((&span["agent.id"], &span["job.kind"]), (&ada.into(), &"provision".into()));
        // What is for traces alone is not in logs.
        assert!(!log.contains("otel.") && !log.contains("messaging."), "{log}");
    }
}
