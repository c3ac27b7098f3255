//! What Telegram is, and what we say to it, judged by code that is not ours: PyPI's aiogram.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Simulator, python};

/// Runs a script of `tests/aiogram` and gives what it found.
fn judge(script: &str, arguments: &[&str]) -> Result<Value, String> {
    let output = Command::new(python("tests/aiogram/requirements.txt"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aiogram").join(script))
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    assert!(errors.contains("refused: "), "the judge itself is broken: {errors}");
    Err(errors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_made_with_aiogram_finds_nothing_wrong_with_the_simulated_telegram() {
    // silent-ok: the provider is installed already, by another test of this process
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let simulator = Simulator::alone(dir.path()).await;
    let url = simulator.telegram.clone();
    let seen = tokio::task::spawn_blocking(move || judge("drive.py", &[&url, simulator.bot_token()])).await.unwrap();
    let seen = seen.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(seen["polling"], seen["webhook"], "both ways bring the same updates");
    assert_eq!(seen["polling"]["file"], 7, "{seen}");
}

#[test]
fn requests_that_aiogram_could_not_make_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("requests.jsonl");
    let judged = |requests: &[Value]| {
        let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
        std::fs::write(&file, lines).unwrap();
        judge("requests.py", &[file.to_str().unwrap()])
    };
    let ask = |method: &str, params: Value, files: Value| json!({"method": method, "params": params, "files": files});
    let none = Value::Null;
    let upload = json!({"photo": {"name": "qr.png", "mime": "image/png", "size": 5}});
    let form = json!({"chat_id": "1", "caption": "7", "caption_entities": "[]"});
    let bold = json!({"chat_id": 1, "text": "x", "entities": [{"type": "bold", "offset": 0, "length": 1}]});
    let fine = [ask("sendMessage", bold, none.clone()), ask("sendPhoto", form.clone(), upload.clone())];
    assert_eq!(judged(&fine).unwrap()["methods"], json!({"sendMessage": 1, "sendPhoto": 1}));

    let keys = json!({"inline_keyboard": [[{"text": "b", "data": "d"}]]});
    let wrong = [
        (ask("sendMessages", json!({}), none.clone()), "knows no method sendMessages"),
        (ask("sendMessage", json!({"chat_id": 1}), none.clone()), "Field required"),
        (ask("sendMessage", json!({"chat_id": 1, "text": 5}), none.clone()), "should be a valid string"),
        (ask("sendMessage", json!({"chat_id": 1, "text": "x", "txet": "y"}), none.clone()), "unknown: txet"),
        (
            ask("sendMessage", json!({"chat_id": 1, "text": "x", "reply_markup": keys}), none.clone()),
            "unknown: reply_markup.inline_keyboard.0.0.data",
        ),
        (
            ask("sendMessage", json!({"chat_id": 1, "text": "x", "message_thread_id": "7"}), none.clone()),
            "aiogram says it otherwise: [('message_thread_id', '7', 7)]",
        ),
        (ask("sendPhoto", json!({"chat_id": "1"}), none), "sendPhoto: 1 validation error"),
        (ask("sendPhoto", form, json!({"picture": upload["photo"]})), "'picture' belongs to no parameter"),
    ];
    let requests: Vec<Value> = wrong.iter().map(|(request, _)| request.clone()).collect();
    let refused = judged(&requests).unwrap_err();
    for (request, part) in wrong {
        assert!(refused.contains(part), "{request} is not refused with {part:?}: {refused}");
    }
}
