//! A client of the API.

use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::Value;

use crate::harness::Stack;

/// ADMIN_TOKEN of the tests' programs.
pub const ADMIN_TOKEN: &str = "test-admin-token-of-more-than-32-characters";

/// A caller with a token.
#[derive(Clone)]
pub struct Api {
    pub base: String,
    pub token: String,
    http: reqwest::Client,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Null where the body is empty.
    pub body: Value,
}

impl Api {
    /// With ADMIN_TOKEN.
    pub fn of(stack: &Stack) -> Self {
        Self { base: stack.baal(0).url(), token: ADMIN_TOKEN.into(), http: reqwest::Client::new() }
    }

    /// The same at another address.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.into(), ..self.clone() }
    }

    /// The same with another token.
    pub fn with(&self, token: &str) -> Self {
        Self { token: token.into(), ..self.clone() }
    }

    /// `path` goes on behind `/api/v1`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await
    }

    /// Changes whichever version there is.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).header("If-Match", "*").json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// A POST without a body.
    pub async fn act(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::POST, path)).await
    }

    /// What is in the record of changes, oldest first.
    pub async fn actions(&self) -> Vec<String> {
        let audit = self.get("/audit").await.is(200);
        let entries = audit["items"].as_array().unwrap().iter().rev();
        entries.map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
    }
}

impl Answer {
    /// Sends a request.
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Self { status, headers, body }
    }

    /// The body, which came with this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:#}", self.body);
        self.body
    }

    /// The detail of a problem of this status and type (`urn:baal:problem:` left out).
    #[track_caller]
    pub fn problem(self, status: u16, kind: &str) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.headers["x-request-id"], self.body["request_id"].as_str().unwrap());
        let body = self.is(status);
        assert_eq!(
            (body["status"].as_u64(), &body["type"]),
            (Some(status.into()), &format!("urn:baal:problem:{kind}").into())
        );
        body["detail"].as_str().unwrap().to_owned()
    }
}
