//! An agent that speaks the base protocol and nothing else, as the Python system's do: `/health`, `/chat` as a stream of events
//! without ids, and `/pending`, which forgets what it has given.

use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// One that runs for the rest of the test.
#[derive(Clone)]
pub struct BaseAgent {
    pub url: String,
    secret: String,
    pending: Arc<Mutex<Vec<Value>>>,
    /// What it was asked: chat and words.
    pub asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl BaseAgent {
    pub async fn start(secret: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let agent = Self { url, secret: secret.to_owned(), pending: Arc::default(), asked: Arc::default() };
        let app = Router::new()
            .route("/chat", post(chat))
            .route("/pending", get(pending))
            .layer(middleware::from_fn_with_state(agent.clone(), authenticate))
            .route("/health", get(async || Json(json!({"status": "ok", "agent_name": "Ada"}))))
            .with_state(agent.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        agent
    }

    /// It says something unasked.
    pub fn says(&self, chat: i64, words: &str) {
        let message = json!({"id": 1, "chat_id": chat.to_string(), "content": words, "source": "heartbeat",
            "created_at": "2026-11-23 09:00:00"});
        self.pending.lock().unwrap().push(message);
    }
}

async fn authenticate(State(agent): State<BaseAgent>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match given == Some(&format!("Bearer {}", agent.secret)) {
        true => next.run(request).await,
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn chat(State(agent): State<BaseAgent>, Json(asked): Json<Value>) -> Response {
    let (chat, words) = (asked["chat_id"].as_str().unwrap(), asked["message"].as_str().unwrap());
    agent.asked.lock().unwrap().push((chat.to_owned(), words.to_owned()));
    let events = [
        json!({"type": "keepalive"}),
        json!({"type": "text", "content": format!("You said: {words}")}),
        json!({"type": "done"}),
    ];
    let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    ([(header::CONTENT_TYPE, "text/event-stream")], stream).into_response()
}

async fn pending(State(agent): State<BaseAgent>) -> Json<Value> {
    Json(json!({"messages": std::mem::take(&mut *agent.pending.lock().unwrap())}))
}
