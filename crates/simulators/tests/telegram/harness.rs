//! A Telegram on a free port, and a webhook that answers what it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use baal_simulators::telegram::Telegram;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const TOKEN: &str = "123456:test-token";

pub struct Sim {
    pub url: String,
    pub http: reqwest::Client,
    pub telegram: Telegram,
}

impl Sim {
    pub async fn start() -> Self {
        Self::of(Telegram::new(TOKEN, "baal_bot").unwrap()).await
    }

    pub async fn of(telegram: Telegram) -> Self {
        telegram.resume();
        let url = serve(telegram.router()).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, http, telegram }
    }

    /// A call of the Bot API: HTTP status and body.
    pub async fn bot(&self, method: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/bot{TOKEN}/{method}", self.url);
        let response = self.http.post(url).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The result of a call that must succeed.
    pub async fn ok(&self, method: &str, body: Value) -> Value {
        let (status, answer) = self.bot(method, body).await;
        assert_eq!((status, &answer["ok"]), (200, &Value::Bool(true)), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The description of a call that must be refused.
    pub async fn refused(&self, method: &str, body: Value) -> String {
        let (status, answer) = self.bot(method, body).await;
        assert_eq!(
            (answer["ok"].as_bool(), answer["error_code"].as_u64()),
            (Some(false), Some(status.into())),
            "{answer}"
        );
        answer["description"].as_str().unwrap().to_owned()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.http.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {} {}", response.status(), response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap().json().await.unwrap()
    }

    pub async fn says(&self, user: i64, text: &str) -> Value {
        self.post(&format!("/sim/users/{user}/messages"), json!({ "text": text })).await
    }

    pub async fn violations(&self) -> usize {
        self.get("/sim/violations").await.as_array().unwrap().len()
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// An update and the secret it came with.
type Received = (Value, Option<String>);

/// A bot's webhook: keeps what comes, answers with the statuses it was given, then with 200.
#[derive(Clone, Default)]
pub struct Hook {
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<u16>>>,
    /// A chat whose updates get no answer before the test says so.
    pub stuck_chat: Arc<Mutex<Option<i64>>>,
}

impl Hook {
    pub async fn start(&self) -> String {
        serve(Router::new().route("/", post(receive)).with_state(self.clone())).await
    }

    pub fn answer(&self, statuses: impl IntoIterator<Item = u16>) {
        self.answers.lock().unwrap().extend(statuses);
    }

    pub fn updates(&self) -> Vec<Value> {
        self.received.lock().unwrap().iter().map(|(update, _)| update.clone()).collect()
    }

    pub fn texts(&self) -> Vec<String> {
        self.updates().iter().filter_map(|update| update["message"]["text"].as_str().map(str::to_owned)).collect()
    }

    pub fn secrets(&self) -> Vec<Option<String>> {
        self.received.lock().unwrap().iter().map(|(_, secret)| secret.clone()).collect()
    }

    /// Waits until `count` requests have come.
    pub async fn wait_for(&self, count: usize) {
        eventually(|| self.updates().len() >= count).await;
    }
}

async fn receive(State(hook): State<Hook>, headers: HeaderMap, Json(update): Json<Value>) -> impl IntoResponse {
    let secret = headers.get("X-Telegram-Bot-Api-Secret-Token").map(|value| value.to_str().unwrap().to_owned());
    let chat = update["message"]["chat"]["id"].as_i64();
    hook.received.lock().unwrap().push((update, secret));
    while chat.is_some() && *hook.stuck_chat.lock().unwrap() == chat {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = hook.answers.lock().unwrap().pop_front().unwrap_or(200);
    StatusCode::from_u16(status).unwrap()
}

pub async fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen within ten seconds");
}
