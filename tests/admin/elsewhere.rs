//! An agent that somebody else runs, as far as its wire goes: it answers what it is told and notes what it was asked.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const SECRET: &str = "the-secret-of-an-agent-elsewhere";

/// What it does; tests change it at any time.
pub struct Behaviour {
    /// What `/health` says it is.
    pub status: &'static str,
    /// Where `/health` leads on to.
    pub redirect: Option<String>,
    /// Speaks the base protocol, whose agents have no `/version`.
    pub base: bool,
    /// Its answers break off before they end.
    pub breaks: bool,
    /// Every request, as method and path.
    pub requests: Vec<String>,
    /// Bodies of `POST /chat`.
    pub chats: Vec<Value>,
}

#[derive(Clone)]
pub struct Elsewhere {
    pub port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Elsewhere {
    /// Runs for the rest of the test.
    pub async fn start() -> Self {
        let behaviour =
            Behaviour { status: "ok", redirect: None, base: false, breaks: false, requests: vec![], chats: vec![] };
        let behaviour = Arc::new(Mutex::new(behaviour));
        let app = Router::new()
            .route("/version", get(version))
            .route("/chat", post(chat))
            .route("/chat/{chat_id}", delete(async || Json(json!({"status": "ok", "deleted": 1}))))
            .route("/pending", get(pending))
            .route("/files/{*path}", get(async || StatusCode::NOT_FOUND))
            .route("/turns/{id}/events", get(rest))
            .layer(middleware::from_fn(authenticate))
            .route("/health", get(health))
            .layer(middleware::from_fn_with_state(behaviour.clone(), note))
            .with_state(behaviour.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, behaviour }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn now(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }
}

type Shared = State<Arc<Mutex<Behaviour>>>;

async fn note(State(behaviour): Shared, request: Request, next: Next) -> Response {
    behaviour.lock().unwrap().requests.push(format!("{} {}", request.method(), request.uri().path()));
    next.run(request).await
}

async fn authenticate(request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given == Some(&format!("Bearer {SECRET}")) {
        true => next.run(request).await,
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn health(State(behaviour): Shared) -> Response {
    let now = behaviour.lock().unwrap();
    match &now.redirect {
        Some(url) => Redirect::temporary(url).into_response(),
        None => Json(json!({"status": now.status, "agent_name": "whoever"})).into_response(),
    }
}

async fn version(State(behaviour): Shared) -> Response {
    match behaviour.lock().unwrap().base {
        true => StatusCode::NOT_FOUND.into_response(),
        false => Json(json!({"version": "9.9.9", "protocol": 3, "features": []})).into_response(),
    }
}

async fn chat(State(behaviour): Shared, Json(asked): Json<Value>) -> Response {
    let mut now = behaviour.lock().unwrap();
    let said = asked["message"].as_str().unwrap().to_owned();
    now.chats.push(asked);
    let mut events = vec![json!({"seq": 1, "type": "text", "content": format!("From afar: {said}")})];
    if !now.breaks {
        events.push(json!({"seq": 2, "type": "done"}));
    }
    stream(&events)
}

/// The rest of any turn.
async fn rest(Path(_): Path<String>) -> Response {
    stream(&[json!({"seq": 2, "type": "done"})])
}

fn stream(events: &[Value]) -> Response {
    let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from(stream)).into_response()
}

/// It has nothing to say by itself.
async fn pending() -> Json<Value> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    Json(json!({"messages": [], "database_id": "67e55044-10b1-426f-9247-bb680e5fe0c8"}))
}
