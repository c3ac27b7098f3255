//! Brave Search: web search with canned results, and the errors it is told to give.
//!
//! Tests prescribe by `POST /sim/answer` (`{"status": 429}` or `{"body": …}`, each for one search) and read what was
//! asked by `GET /sim/searches`.

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest query in characters, and most results of one search, as the service documents them.
const MAX_QUERY: usize = 400;
const MAX_COUNT: u8 = 20;
/// Pages that exist for any query.
const PAGES: u8 = 30;

/// What one search is answered with instead of results.
#[derive(Debug, Clone, Deserialize)]
pub struct Prescribed {
    /// HTTP status; 200 unless said.
    #[serde(default = "ok")]
    pub status: u16,
    /// The answer's JSON.
    #[serde(default)]
    pub body: Value,
}

fn ok() -> u16 {
    200
}

/// One search that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// The query.
    pub q: String,
    /// How many results.
    #[serde(default = "default_count")]
    pub count: u8,
}

fn default_count() -> u8 {
    20
}

#[derive(Default)]
struct World {
    prescribed: VecDeque<Prescribed>,
    searches: Vec<Search>,
}

/// The service's state.
#[derive(Clone, Default)]
pub struct Brave(Arc<Mutex<World>>);

impl Brave {
    /// Answers the next search that has no other answer yet with this.
    pub fn prescribe(&self, answer: Prescribed) {
        self.with(|world| world.prescribed.push_back(answer));
    }

    /// All searches so far.
    pub fn searches(&self) -> Vec<Search> {
        self.with(|world| world.searches.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A service with a state of its own.
pub fn router() -> Router {
    router_with(Brave::default())
}

/// A service whose state the caller keeps hold of.
pub fn router_with(state: Brave) -> Router {
    Router::new()
        .route("/res/v1/web/search", get(search))
        .route("/sim/answer", post(prescribe))
        .route("/sim/searches", get(searches))
        .with_state(state)
}

async fn prescribe(State(sim): State<Brave>, Json(answer): Json<Prescribed>) -> StatusCode {
    sim.prescribe(answer);
    StatusCode::NO_CONTENT
}

async fn searches(State(sim): State<Brave>) -> Json<Vec<Search>> {
    Json(sim.searches())
}

/// An error in the service's form.
fn refuse(status: StatusCode, code: &str, detail: &str) -> Response {
    let error = json!({"id": "0", "status": status.as_u16(), "code": code, "detail": detail});
    (status, Json(json!({"type": "ErrorResponse", "error": error}))).into_response()
}

async fn search(State(sim): State<Brave>, headers: HeaderMap, Query(search): Query<Search>) -> Response {
    let token = headers.get("x-subscription-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if token.is_empty() || token.starts_with("bad") {
        let detail = "The provided subscription token is invalid.";
        return refuse(StatusCode::UNAUTHORIZED, "SUBSCRIPTION_TOKEN_INVALID", detail);
    }
    let length = search.q.chars().count();
    if length == 0 || length > MAX_QUERY || !(1..=MAX_COUNT).contains(&search.count) {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION", "Unable to validate request parameter(s)");
    }
    let prescribed = sim.with(|world| {
        world.searches.push(search.clone());
        world.prescribed.pop_front()
    });
    match prescribed {
        Some(answer) => {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Json(answer.body)).into_response()
        }
        None => Json(results(&search)).into_response(),
    }
}

fn results(search: &Search) -> Value {
    let results: Vec<Value> = (1..=search.count.min(PAGES))
        .map(|n| {
            json!({"type": "search_result", "title": format!("Result {n} for {}", search.q),
                "url": format!("https://www.example.com/{n}"), "is_source_local": false, "language": "en",
                "description": format!("What &quot;page {n}&quot; says about <strong>it</strong>.")})
        })
        .collect();
    json!({"type": "search", "query": {"original": search.q, "more_results_available": true},
        "web": {"type": "search", "results": results, "family_friendly": true}})
}
