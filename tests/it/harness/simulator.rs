//! The simulators of Telegram and LibertAI.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use baal::demo::supervised::{Spec, Supervised, tail};
use reqwest::Method;
use serde_json::{Value, json};

use super::program::built;
use super::{DEADLINE, POLL, User};

const BOT_TOKEN: &str = "1000000001:test-token-test-token-test-token-1";

/// The far sides, with their control interface.
pub struct Simulator {
    /// Base URL of the Bot API, of `/sim/…` and of the chat page.
    pub telegram: String,
    /// Base URL of LibertAI, without `/v1`.
    pub libertai: String,
    http: reqwest::Client,
    /// The query ids of all presses of this test.
    pub(super) presses: Mutex<Vec<String>>,
    /// How long users wait for something.
    pub(super) patience: Duration,
    bot_token: &'static str,
    _process: Supervised,
}

impl Simulator {
    /// A process of its own, without a Baal: nothing of its journal is Baal's.
    pub async fn alone(dir: &Path) -> Self {
        let nowhere = dir.join("requests.jsonl").display().to_string();
        Self::start(dir, &["--telegram-requests".into(), nowhere], DEADLINE).await
    }

    /// A process of its own in which another bot is known.
    pub async fn of_bot(dir: &Path, bot_token: &'static str) -> Self {
        Self::start_with(dir, &[], DEADLINE, bot_token).await
    }

    /// Starts a process with its log in `dir` and these arguments; users wait so long for something.
    pub async fn start(dir: &Path, options: &[String], patience: Duration) -> Self {
        Self::start_with(dir, options, patience, BOT_TOKEN).await
    }

    async fn start_with(dir: &Path, options: &[String], patience: Duration, bot_token: &'static str) -> Self {
        let program = built("baal-simulators");
        let log = dir.join("simulators.log");
        let mut arguments: Vec<String> = options.to_vec();
        // All that Baal says to Telegram in the tests is judged by other people's code in the end: tests/aiogram.
        if !options.iter().any(|given| given == "--telegram-requests") {
            let requests = Path::new(env!("CARGO_TARGET_TMPDIR")).join("requests");
            std::fs::create_dir_all(&requests).unwrap();
            let requests = requests.join(format!("{}.jsonl", uuid::Uuid::new_v4().simple()));
            arguments.extend(["--telegram-requests".into(), requests.display().to_string()]);
        }
        for option in ["--telegram-listen", "--libertai-listen"] {
            if !options.iter().any(|given| given == option) {
                arguments.extend([option.into(), "127.0.0.1:0".into()]);
            }
        }
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let mut process = Supervised::spawn(&Spec {
            name: "the simulators",
            program: program.as_os_str(),
            args: &arguments,
            env: &[("SIM_BOT_TOKEN", OsStr::new(bot_token))],
            log: &log,
            speaks: true,
            signal: "TERM",
            grace: Duration::from_secs(2),
        })
        .unwrap();
        let line = process.first_line().await.unwrap();
        let Some(line) = line else { panic!("the simulators didn't start:\n{}", tail(&log, 30)) };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let url = |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            telegram: url("telegram"),
            libertai: url("libertai"),
            http,
            presses: Mutex::default(),
            patience,
            bot_token,
            _process: process,
        }
    }

    /// A Telegram user, who has a private chat with the bot.
    pub fn user(&self, id: i64) -> User<'_> {
        User::new(self, id)
    }

    pub fn bot_token(&self) -> &'static str {
        self.bot_token
    }

    /// `GET` of Telegram's control interface, such as `/sim/calls`.
    #[track_caller]
    pub fn get(&self, path: &str) -> impl Future<Output = Value> + use<> {
        self.ask(Method::GET, path, None)
    }

    /// `POST` to Telegram's control interface, such as `/sim/faults`.
    #[track_caller]
    pub fn post(&self, path: &str, body: Value) -> impl Future<Output = Value> + use<> {
        self.ask(Method::POST, path, Some(body))
    }

    /// `GET` of the model's control interface, such as `/sim/requests`.
    #[track_caller]
    pub fn ask_model(&self, path: &str) -> impl Future<Output = Value> + use<> {
        self.call(Method::GET, format!("{}{path}", self.libertai), None)
    }

    /// `POST` to the model's control interface, such as `/sim/pace`.
    #[track_caller]
    pub fn tell_model(&self, path: &str, body: Value) -> impl Future<Output = Value> + use<> {
        self.call(Method::POST, format!("{}{path}", self.libertai), Some(body))
    }

    /// Any call of Telegram's control interface, which must succeed.
    #[track_caller]
    pub fn ask(&self, method: Method, path: &str, body: Option<Value>) -> impl Future<Output = Value> + use<> {
        self.call(method, format!("{}{path}", self.telegram), body)
    }

    /// What the bot answered to a press, given its `query_id`: a notice, or an empty text. Waits for it.
    #[track_caller]
    pub fn notice(&self, query: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        let path = format!("/sim/callbacks/{query}");
        async move {
            let deadline = tokio::time::Instant::now() + DEADLINE;
            loop {
                let answer = self.get(&path).await;
                if answer["answered"] == true {
                    return answer["text"].as_str().unwrap_or_default().to_owned();
                }
                assert!(tokio::time::Instant::now() < deadline, "{caller}: the press {path} was not answered");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Every press of the test was answered, and the bot did nothing that Telegram forbids.
    #[track_caller]
    pub fn assert_good_manners(&self) -> impl Future<Output = ()> {
        let presses = self.presses.lock().unwrap().clone();
        async move {
            for query in &presses {
                self.notice(query).await;
            }
            assert_eq!(self.get("/sim/violations").await, json!([]));
            assert_eq!(self.ask_model("/sim/violations").await["violations"], json!([]));
        }
    }

    #[track_caller]
    fn call(&self, method: Method, url: String, body: Option<Value>) -> impl Future<Output = Value> + use<> {
        let caller = std::panic::Location::caller();
        let what = format!("{method} {url}");
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        async move {
            let answer = request.send().await.unwrap_or_else(|error| panic!("{caller}: {what}: {error}"));
            let status = answer.status();
            let text = answer.text().await.unwrap();
            assert!(status.is_success(), "{caller}: {what}: {status} {text}");
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) }
        }
    }
}
