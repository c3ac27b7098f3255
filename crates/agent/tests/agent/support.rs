//! Starts an agent and the service that it asks, and speaks HTTP to it.

use baal_protocol::{AgentLock, Event, EventKind, LOCK_FILE, TurnStatus};
use baal_simulators::libertai::{LibertAi, Pace, Script, router_with};
use futures_util::StreamExt;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use rustix::process::Pid;
use serde_json::{Value, json};
use sse_stream::SseStream;
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub const SECRET: &str = "agent-secret-for-tests";
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The inference service.
pub struct Model {
    pub sim: LibertAi,
    pub base_url: String,
}

impl Model {
    pub async fn start() -> Self {
        let sim = LibertAi::default();
        sim.set_pace(Pace { first_ms: 0, piece_ms: 0 });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let base_url = format!("http://{}/v1", listener.local_addr().expect("address"));
        let router = router_with(sim.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { sim, base_url }
    }

    pub fn script(&self, script: Value) {
        self.sim.add_script(serde_json::from_value::<Script>(script).expect("a script"));
    }

    /// The messages of the newest request.
    pub fn last_messages(&self) -> Vec<Value> {
        let requests = self.sim.requests();
        requests.last().expect("asked")["messages"].as_array().expect("messages").clone()
    }

    /// What the calls of the conversation brought, as the model last saw it.
    pub fn results(&self) -> Vec<String> {
        let messages = self.last_messages();
        let results = messages.iter().filter(|message| message["role"] == "tool");
        results.map(|message| message["content"].as_str().expect("a text").to_owned()).collect()
    }

    pub async fn wait_until_asked(&self, message: &str, times: u64) {
        wait_until("the model is asked", async || self.sim.times_asked(message) >= times).await;
    }
}

impl Drop for Model {
    /// Whatever a test is about, the conversation must be as services want it.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = self.sim.violations();
            assert!(violations.is_empty(), "{violations:#?}");
        }
    }
}

/// One agent; killed when dropped.
pub struct Agent {
    pub directory: TempDir,
    pub process: Child,
    pub address: String,
    http: Client,
}

pub fn config(directory: &TempDir, base_url: &str) -> Value {
    json!({
        "agent_name": "Ada", "system_prompt": "You answer like a lighthouse keeper.", "model": "qwen3-coder-next",
        "libertai_api_key": "key-for-tests", "libertai_api_base_url": base_url, "agent_secret": SECRET, "port": 0,
        "db_path": directory.path().join("agent.db"), "workspace_path": directory.path().join("workspace"),
    })
}

pub fn write_config(directory: &TempDir, config: &Value) -> PathBuf {
    let path = directory.path().join("agent.json");
    let file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).expect("open");
    serde_json::to_writer(file, config).expect("write");
    path
}

pub fn command(config: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baal-agent"));
    command.arg("--config").arg(config).env_remove("RUST_LOG").env_remove("LOG_FORMAT").env("NO_PROXY", "127.0.0.1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub fn http() -> Client {
    // An error only says that another test was first.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().no_proxy().build().expect("client")
}

impl Agent {
    pub async fn start(model: &Model) -> Self {
        Self::start_with(model, |_| {}).await
    }

    pub async fn start_with(model: &Model, change: impl FnOnce(&mut Value)) -> Self {
        let directory = TempDir::new().expect("temp dir");
        let mut config = config(&directory, &model.base_url);
        change(&mut config);
        write_config(&directory, &config);
        let process = spawn(&directory);
        let mut agent = Self { directory, process, address: String::new(), http: http() };
        agent.find().await;
        agent
    }

    /// An agent to which a write beyond its limit of file sizes is an error like a full disk, not a deadly signal.
    pub async fn start_with_limitable_files(model: &Model) -> Self {
        let directory = TempDir::new().expect("temp dir");
        let path = write_config(&directory, &config(&directory, &model.base_url));
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" --config \"$1\"", env!("CARGO_BIN_EXE_baal-agent")]).arg(path);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().expect("spawn");
        let mut agent = Self { directory, process, address: String::new(), http: http() };
        agent.find().await;
        agent
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id().expect("running")).expect("a pid")).expect("a pid")
    }

    /// Waits until this process says where it listens.
    async fn find(&mut self) {
        let pid = self.process.id().expect("running");
        let path = self.directory.path().join(LOCK_FILE);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lock = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<AgentLock>(&bytes).ok());
            if let Some(lock) = lock.filter(|lock| lock.pid == pid) {
                self.address = lock.address;
                return;
            }
            assert!(self.process.try_wait().expect("wait").is_none(), "the agent ended at start");
            assert!(Instant::now() < deadline, "the agent does not listen");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.expect("kill");
    }

    pub async fn restart(&mut self) {
        self.process = spawn(&self.directory);
        self.find().await;
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("http://{}{path}", self.address)).bearer_auth(SECRET)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("http://{}{path}", self.address)).bearer_auth(SECRET)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.http.delete(format!("http://{}{path}", self.address)).bearer_auth(SECRET)
    }

    /// Posts a turn; the answer is a stream of events.
    pub async fn chat(&self, body: Value) -> Events {
        let response = self.post("/chat").json(&body).send().await.expect("answer");
        assert_eq!(response.status(), StatusCode::OK);
        Events::of(response)
    }

    /// Says something and waits for the whole answer.
    pub async fn say(&self, chat_id: &str, message: &str) -> String {
        let events = self.chat(json!({"chat_id": chat_id, "message": message})).await.rest().await;
        text(&events)
    }

    pub async fn events_after(&self, turn: Uuid, after: i64) -> Events {
        let response = self.get(&format!("/turns/{turn}/events?after={after}")).send().await.expect("answer");
        assert_eq!(response.status(), StatusCode::OK);
        Events::of(response)
    }

    pub async fn status(&self, turn: Uuid) -> TurnStatus {
        self.get(&format!("/turns/{turn}")).send().await.expect("answer").json().await.expect("a status")
    }

    pub async fn cancel(&self, turn: Uuid) -> TurnStatus {
        let response = self.post(&format!("/turns/{turn}/cancel")).send().await.expect("answer");
        response.json().await.expect("a status")
    }
}

fn spawn(directory: &TempDir) -> Child {
    command(&directory.path().join("agent.json")).stderr(Stdio::null()).spawn().expect("spawn")
}

/// A stream of events.
pub struct Events {
    stream: Pin<Box<dyn futures_util::Stream<Item = Option<Event>> + Send>>,
}

impl Events {
    fn of(response: Response) -> Self {
        let events = SseStream::from_bytes_stream(response.bytes_stream()).map(|event| {
            let data = event.ok()?.data?;
            Some(serde_json::from_str(&data).expect("an event"))
        });
        Self { stream: Box::pin(events) }
    }

    /// The next event; `None` when the stream has ended or broken.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("an event in time").flatten()
    }

    pub async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

pub fn text(events: &[Event]) -> String {
    let texts = events.iter().filter_map(|event| match &event.kind {
        EventKind::Text { content } => Some(content.as_str()),
        _ => None,
    });
    texts.collect()
}

pub fn deltas(events: &[Event]) -> String {
    let deltas = events.iter().filter_map(|event| match &event.kind {
        EventKind::Delta { content } => Some(content.as_str()),
        _ => None,
    });
    deltas.collect()
}

pub fn errors(events: &[Event]) -> Vec<&str> {
    let errors = events.iter().filter_map(|event| match &event.kind {
        EventKind::Error { content } => Some(content.as_str()),
        _ => None,
    });
    errors.collect()
}

pub fn assert_well_formed(events: &[Event]) {
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq), "{events:?}");
    let ends = events.iter().filter(|event| event.kind.is_last()).count();
    assert!(ends == 1 && events.last().is_some_and(|event| event.kind.is_last()), "{events:?}");
}

pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
