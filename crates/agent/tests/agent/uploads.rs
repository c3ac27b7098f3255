//! Files that come with a message, before the message.

use super::support::*;
use baal_protocol::Uploaded;
use reqwest::{Body, Response, StatusCode};
use serde_json::{Value, json};
use std::path::PathBuf;
use uuid::Uuid;

pub async fn upload(agent: &Agent, turn: Uuid, name: &str, bytes: impl Into<Body>) -> Response {
    let mut url = reqwest::Url::parse(&format!("http://{}", agent.address)).expect("a URL");
    url.path_segments_mut().expect("a base").extend(["uploads", &turn.to_string(), name]);
    http().put(url).bearer_auth(SECRET).body(bytes).send().await.expect("answer")
}

pub async fn uploaded(agent: &Agent, turn: Uuid, name: &str, bytes: &'static [u8]) -> Uploaded {
    let response = upload(agent, turn, name, bytes).await;
    assert_eq!(response.status(), StatusCode::OK, "{name}");
    response.json().await.expect("where it is")
}

/// Everything below the directory of uploads, by path and content.
fn stored(agent: &Agent) -> Vec<(PathBuf, Vec<u8>)> {
    let uploads = agent.directory.path().join("uploads");
    let mut files = Vec::new();
    for turn in std::fs::read_dir(&uploads).expect("uploads").flatten() {
        for file in std::fs::read_dir(turn.path()).expect("a turn's").flatten() {
            let path = file.path().strip_prefix(&uploads).expect("below").to_owned();
            match std::fs::read(file.path()) {
                Ok(bytes) => files.push((path, bytes)),
                // What broke off is removed at this very moment.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{path:?}"),
            }
        }
    }
    files
}

#[tokio::test]
async fn an_upload_sent_again_takes_the_place_of_the_former() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let turn = Uuid::new_v4();
    let first = uploaded(&agent, turn, "Résumé 1.pdf", b"one").await;
    assert_eq!(first, Uploaded { path: format!("uploads/{turn}/Résumé 1.pdf"), size: 3 });
    let again = uploaded(&agent, turn, "Résumé 1.pdf", b"other").await;
    assert_eq!((again.path, again.size), (first.path, 5));
    assert_eq!(stored(&agent), [(PathBuf::from(format!("{turn}/Résumé 1.pdf")), b"other".to_vec())]);
}

#[tokio::test]
async fn hostile_names_stay_in_their_turns_directory() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let turn = Uuid::new_v4();
    let names = ["../../escape", "/etc/passwd", "..%2f..%2fescape", ".env", "a\nb", "\u{202e}gpj.exe", "x\\..\\y"];
    for (at, name) in names.iter().enumerate() {
        let path = uploaded(&agent, turn, name, b"x").await.path;
        assert!(path.starts_with(&format!("uploads/{turn}/")) && path.matches('/').count() == 2, "{path}");
        assert_eq!(stored(&agent).len(), at + 1);
    }
    assert!(!agent.directory.path().join("escape").exists());
    for (turn, name) in [("x", "a"), ("..", "a")] {
        let url = format!("http://{}/uploads/{turn}/{name}", agent.address);
        let response = http().put(url).bearer_auth(SECRET).body("x").send().await.expect("answer");
        assert!(response.status().is_client_error());
    }
    let url = format!("http://{}/uploads/{turn}/a", agent.address);
    let response = http().put(url).body("x").send().await.expect("answer");
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_is_too_large_or_too_many_or_broken_off_leaves_nothing() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let turn = Uuid::new_v4();
    let piece = axum::body::Bytes::from(vec![0; 1024 * 1024]);
    let pieces = |count: usize| {
        futures_util::stream::iter((0..count).map({
            let piece = piece.clone();
            move |_| Ok::<_, std::io::Error>(piece.clone())
        }))
    };
    let response = upload(&agent, turn, "largest", Body::wrap_stream(pieces(50))).await;
    assert_eq!(response.status(), StatusCode::OK);
    // Without a length, so it is found out on the way; the answer may be lost in what is still being sent.
    let mut url = reqwest::Url::parse(&format!("http://{}", agent.address)).expect("a URL");
    url.path_segments_mut().expect("a base").extend(["uploads", &turn.to_string(), "larger"]);
    let sent = http().put(url.clone()).bearer_auth(SECRET).body(Body::wrap_stream(pieces(51))).send().await;
    assert!(sent.map_or(true, |response| response.status() == StatusCode::PAYLOAD_TOO_LARGE));
    let broken = futures_util::stream::iter([Ok(piece.clone()), Err(std::io::Error::other("broken"))]);
    assert!(http().put(url).bearer_auth(SECRET).body(Body::wrap_stream(broken)).send().await.is_err());
    wait_until("only the whole one is left", async || stored(&agent).len() == 1).await;
    for n in 1..20 {
        uploaded(&agent, turn, &n.to_string(), b"x").await;
    }
    assert_eq!(upload(&agent, turn, "one more", "x").await.status(), StatusCode::BAD_REQUEST);
    uploaded(&agent, turn, "7", b"a known one").await;
    assert_eq!(stored(&agent).len(), 20);
}

#[tokio::test]
async fn a_message_with_a_file_that_never_came_is_refused_in_words() {
    let model = Model::start().await;
    let agent = Agent::start(&model).await;
    let [turn, other] = [Uuid::new_v4(), Uuid::new_v4()];
    let there = uploaded(&agent, other, "a.txt", b"x").await.path;
    for path in [format!("uploads/{turn}/a.txt"), there, "uploads/x/a.txt".to_owned(), "/etc/passwd".to_owned()] {
        let attachments = json!([{"path": path, "name": "a.txt"}]);
        let body = json!({"message": "hi", "chat_id": "1", "turn_id": turn, "attachments": attachments});
        let response = agent.post("/chat").json(&body).send().await.expect("answer");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        let answer: Value = response.json().await.expect("json");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains("a.txt")), "{answer}");
    }
}
