//! An agent's machine as the control plane sees it from afar: files and pending messages, with whatever misbehaviour a test
//! wants. No agent of ours runs there, so that a test says when it answers and what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use baal::vault::Vault;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::harness::{POLL, Stack};

const SECRET: &str = "the-secret-of-a-far-agent";

/// What it does; tests change it at any time.
pub struct Behaviour {
    pub files: HashMap<String, Bytes>,
    /// The next answers of `/files` are this status.
    pub file_trouble: Vec<u16>,
    /// Files are held back for as long as this is so.
    pub holds_files: bool,
    /// Files that were asked for.
    pub fetched: Vec<String>,
    pub pending: Vec<Value>,
    next_id: i64,
    pub database: Uuid,
    /// Speaks the base protocol: no `after`, no acknowledgement.
    pub base: bool,
    /// Acknowledgements are taken and lost.
    pub deaf: bool,
    /// What was acknowledged.
    pub acknowledged: Vec<i64>,
    /// How often it was asked for pending messages.
    pub asked: usize,
}

#[derive(Clone)]
pub struct FarAgent {
    pub id: i64,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl FarAgent {
    /// Runs for the rest of the test as an agent of `owner`, public, of this protocol.
    pub async fn start(stack: &Stack, owner: i64, name: &str, protocol: i32) -> Self {
        let behaviour = Behaviour {
            files: HashMap::new(),
            file_trouble: vec![],
            holds_files: false,
            fetched: vec![],
            pending: vec![],
            next_id: 1,
            database: Uuid::new_v4(),
            base: protocol < 2,
            deaf: false,
            acknowledged: vec![],
            asked: 0,
        };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let app = Router::new()
            .route("/files/{*path}", get(file))
            .route("/chat", post(chat))
            .route("/pending", get(pending))
            .route("/pending/ack", post(acknowledge))
            .layer(middleware::from_fn(authenticate))
            .route("/health", get(async || Json(json!({"status": "ok", "agent_name": "far"}))))
            .with_state(behaviour.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let vault = Vault::new(&"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".to_owned().into()).unwrap();
        let id = sqlx::query_scalar(
            "with owner as (insert into users (id, name) values ($1, 'Owner') on conflict do nothing),
             agent as (
               insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, url, protocol)
               values ($1, 1000000001, $1, $2, 'You wait.', 'glm-4.7', 'public', 'running', $3, $4, $5) returning id),
             link as (insert into links (agent_id) select id from agent)
             select id from agent",
        )
        .bind(owner)
        .bind(name)
        .bind(vault.encrypt(SECRET.as_bytes()))
        .bind(url)
        .bind(protocol)
        .fetch_one(&stack.db)
        .await
        .unwrap();
        Self { id, behaviour }
    }

    pub fn now(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// It says something unasked.
    pub fn says(&self, chat: impl ToString, content: impl Into<String>) {
        self.says_as("heartbeat", chat, content);
    }

    pub fn says_as(&self, source: &str, chat: impl ToString, content: impl Into<String>) {
        let mut now = self.now();
        let (id, content) = (now.next_id, content.into());
        now.next_id += 1;
        now.pending.push(json!({"id": id, "chat_id": chat.to_string(), "content": content, "source": source,
            "created_at": "2026-11-23T09:00:00Z"}));
    }

    /// It has lost its database, and what waited in it.
    pub fn forgets_everything(&self) {
        let mut now = self.now();
        (now.database, now.next_id) = (Uuid::new_v4(), 1);
        now.pending.clear();
    }

    /// Waits until it is as the test wants it.
    pub async fn until(&self, what: &str, fits: impl Fn(&Behaviour) -> bool) {
        let deadline = tokio::time::Instant::now() + crate::harness::DEADLINE;
        while !fits(&self.now()) {
            assert!(tokio::time::Instant::now() < deadline, "never came: {what}");
            tokio::time::sleep(POLL).await;
        }
    }
}

type Shared = State<Arc<Mutex<Behaviour>>>;

async fn authenticate(request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given == Some(&format!("Bearer {SECRET}")) {
        true => next.run(request).await,
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn file(State(behaviour): Shared, Path(path): Path<String>) -> Response {
    behaviour.lock().unwrap().fetched.push(path.clone());
    while behaviour.lock().unwrap().holds_files {
        tokio::time::sleep(POLL).await;
    }
    let mut now = behaviour.lock().unwrap();
    if !now.file_trouble.is_empty() {
        let status = now.file_trouble.remove(0);
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    match now.files.get(&path) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A turn that leaves something to be said later.
async fn chat() -> Response {
    let events = [json!({"type": "text", "content": "On it."}), json!({"type": "done", "pending": 1})];
    let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], stream).into_response()
}

async fn pending(State(behaviour): Shared, Query(query): Query<HashMap<String, i64>>) -> Json<Value> {
    behaviour.lock().unwrap().asked += 1;
    let wait = Duration::from_secs(query.get("wait").copied().unwrap_or(0) as u64);
    let until = tokio::time::Instant::now() + wait;
    loop {
        {
            let mut now = behaviour.lock().unwrap();
            match query.get("after").filter(|_| !now.base) {
                None => {
                    let messages = std::mem::take(&mut now.pending);
                    return Json(json!({"messages": messages}));
                }
                Some(after) => {
                    let messages: Vec<&Value> =
                        now.pending.iter().filter(|m| m["id"].as_i64().unwrap() > *after).take(100).collect();
                    if !messages.is_empty() || tokio::time::Instant::now() >= until {
                        return Json(json!({"messages": messages, "database_id": now.database}));
                    }
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn acknowledge(State(behaviour): Shared, Json(body): Json<Value>) -> Response {
    let mut now = behaviour.lock().unwrap();
    if now.deaf {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if body["database_id"].as_str().is_some_and(|id| id != now.database.to_string()) {
        return StatusCode::CONFLICT.into_response();
    }
    let up_to = body["up_to"].as_i64().unwrap();
    now.acknowledged.push(up_to);
    let before = now.pending.len();
    now.pending.retain(|message| message["id"].as_i64().unwrap() > up_to);
    Json(json!({"status": "ok", "deleted": before - now.pending.len()})).into_response()
}
