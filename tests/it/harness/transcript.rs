//! What a chat looks like, step by step, for snapshots: what a user did, and all that Telegram was told because of it.
//!
//! The objects are whole, but written compactly, and alike at every run: messages are named in order of appearance (`m1`),
//! what is random or of the moment is replaced (`[time]`, `[uuid-1]`), calls without a trace (typing) are left out, and a
//! message that grows within a step is shown as it is at its end.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use regex_lite::{Captures, Regex};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{DEADLINE, POLL, Stack, User};

/// A chat that is watched. Every step waits until nothing is left to be done.
pub struct Transcript<'a> {
    stack: &'a Stack,
    user: User<'a>,
    /// The newest request that was seen; none before the first step.
    seen: Option<u64>,
    names: Names,
    steps: Vec<Value>,
    /// Presses of this step.
    queries: Vec<String>,
}

impl<'a> Transcript<'a> {
    pub(super) fn new(stack: &'a Stack, user: User<'a>) -> Self {
        let (names, steps, queries) = Default::default();
        Self { stack, user, seen: None, names, steps, queries }
    }

    /// Shows this number as a name, wherever it stands alone: an agent's number is another one in every database.
    pub fn call(&mut self, number: i64, name: &str) {
        self.names.numbers.insert(number.to_string(), format!("[{name}]"));
    }

    /// What the user whose chat this is does; others act by [`Self::does`].
    pub fn user(&self) -> User<'a> {
        self.user
    }

    /// Sends a text.
    pub async fn says(&mut self, text: &str) -> &mut Self {
        let said = self.user.says(text);
        self.does(&format!("says {text}"), said).await
    }

    /// Presses the button with this label in the newest message that has one.
    pub async fn presses(&mut self, label: &str) -> &mut Self {
        let (message, data) = self.button(label).await;
        self.press(&format!("presses [{label}]"), message, &data).await
    }

    /// Presses the button with this label twice before anything is answered.
    pub async fn presses_twice(&mut self, label: &str) -> &mut Self {
        let (message, data) = self.button(label).await;
        self.mark().await;
        let query = self.user.press(message, &data).await;
        self.queries.push(query);
        // The first press may have taken the button away already, which a second finger does not wait for.
        let second = self.user.forges(message, &data).await;
        self.queries.push(second);
        self.does(&format!("presses [{label}] twice"), async {}).await
    }

    /// Where the button with this label is, and what it says: to press it later, when it is old.
    pub async fn button(&self, label: &str) -> (i64, String) {
        let messages = self.user.messages().await;
        let buttons = messages
            .iter()
            .rev()
            .filter(|message| message.is_reply())
            .flat_map(|message| message.buttons().into_iter().map(|button| (message.message_id, button)));
        let found = buttons.into_iter().find(|(_, button)| button.label.contains(label));
        let (message, button) = found.unwrap_or_else(|| panic!("no button {label:?} in {messages:#?}"));
        (message, button.data)
    }

    /// Presses what may not be there any more, or never was: an old button, or a forged one.
    pub async fn press(&mut self, what: &str, message: i64, data: &str) -> &mut Self {
        self.mark().await;
        let query = self.user.forges(message, data).await;
        self.queries.push(query);
        self.does(what, async {}).await
    }

    /// Does something, waits until nothing is left to be done, and writes down what Telegram was told.
    pub async fn does<T>(&mut self, what: &str, act: impl Future<Output = T>) -> &mut Self {
        self.mark().await;
        act.await;
        self.stack.settles().await;
        let step = self.step(what).await;
        self.steps.push(step);
        self
    }

    /// Everything so far.
    pub fn story(&self) -> Value {
        Value::Array(self.steps.clone())
    }

    /// The first step begins here.
    async fn mark(&mut self) {
        if self.seen.is_none() {
            let requests = self.requests().await;
            self.seen = Some(requests.last().map_or(0, |request| request["seq"].as_u64().unwrap()));
        }
    }

    async fn requests(&self) -> Vec<Value> {
        let path = format!("/sim/requests?after={}", self.seen.unwrap_or(0));
        let Value::Array(requests) = self.stack.simulator.get(&path).await else { panic!("no list of requests") };
        requests
    }

    async fn step(&mut self, what: &str) -> Value {
        // Messages of the user have their names before those that answer them.
        for message in self.user.messages().await {
            self.names.message(message.message_id);
        }
        let requests = self.requests().await;
        if let Some(last) = requests.last() {
            self.seen = last["seq"].as_u64();
        }
        let queries = std::mem::take(&mut self.queries);
        let mut answers = Vec::new();
        let mut sent: Vec<(i64, Value)> = Vec::new();
        let mut edited: BTreeMap<i64, Value> = BTreeMap::new();
        let mut deleted = Vec::new();
        let mut other = Vec::new();
        for mut request in requests.into_iter().filter(|request| request["status"] == 200) {
            let method = request["method"].as_str().unwrap().to_owned();
            let mut params = parsed(request["params"].take());
            if method == "answerCallbackQuery" {
                if queries.iter().any(|query| params["callback_query_id"] == **query) {
                    params.remove("callback_query_id");
                    answers.push(Value::Object(params));
                }
                continue;
            }
            if request["chat_id"] != self.user.chat {
                continue;
            }
            params.remove("chat_id");
            let id = params.get("message_id").and_then(Value::as_i64);
            match method.as_str() {
                // They leave nothing in the chat.
                "sendChatAction" | "sendMessageDraft" | "getFile" => {}
                "deleteMessage" => deleted.push(self.names.message(id.unwrap())),
                "editMessageText" | "editMessageReplyMarkup" | "editMessageCaption" => {
                    let id = id.unwrap();
                    params.remove("message_id");
                    // One without a keyboard takes it away.
                    params.entry("reply_markup").or_insert(Value::Null);
                    let known = sent.iter_mut().find(|(of, _)| *of == id).map(|(_, params)| params);
                    let known = known.or_else(|| edited.get_mut(&id));
                    match known {
                        Some(Value::Object(known)) => known.extend(params),
                        _ => drop(edited.insert(id, Value::Object(params))),
                    }
                }
                _ if !request["sent"].is_null() => {
                    params.extend(request.get_mut("files").map(|files| ("files".to_owned(), files.take())));
                    params.insert("method".into(), method.into());
                    sent.push((request["sent"][0].as_i64().unwrap(), Value::Object(params)));
                }
                _ => {
                    params.insert("method".into(), method.into());
                    other.push(Value::Object(params));
                }
            }
        }
        let named = |names: &mut Names, (id, params): (i64, Value)| {
            let Value::Object(params) = params else { unreachable!("made of a map above") };
            let mut shown = Map::from_iter([("message".to_owned(), Value::from(names.message(id)))]);
            // What most of them are need not be said of each.
            shown.extend(
                compact(params)
                    .into_iter()
                    .filter(|(name, value)| !(value.is_null() || name == "method" && value == "sendMessage")),
            );
            Value::Object(shown)
        };
        let mut step = Map::from_iter([("act".to_owned(), Value::from(what))]);
        let sent: Vec<Value> = sent.into_iter().map(|message| named(&mut self.names, message)).collect();
        let edited: Vec<Value> = edited.into_iter().map(|message| named(&mut self.names, message)).collect();
        // Answers to presses don't queue: which of two comes first means nothing.
        answers.sort_by_key(|answer| answer["text"].as_str().map(str::to_owned));
        let parts = [("answers", answers), ("sent", sent), ("edited", edited), ("other", other)];
        step.extend(
            parts.into_iter().filter(|(_, part)| !part.is_empty()).map(|(name, part)| (name.into(), part.into())),
        );
        if !deleted.is_empty() {
            step.insert("deleted".into(), json!(deleted));
        }
        let mut step = Value::Object(step);
        self.names.redact(&mut step);
        lines(&mut step);
        step
    }
}

impl Stack {
    /// Waits until nothing is on its way any more: updates, turns, calls to Telegram, and jobs and errands that are due.
    #[track_caller]
    pub fn settles(&self) -> impl Future<Output = ()> {
        const OPEN: &str = "select concat_ws(', ',
              (select 'updates ' || count(*) from updates where not done having count(*) > 0),
              (select 'turns ' || count(*) from turns where not done having count(*) > 0),
              (select 'jobs ' || string_agg(kind || ' ' || step, ' ') from jobs
                where not done and run_at < now() + interval '1 minute' having count(*) > 0),
              (select 'errands ' || string_agg(kind, ' ') from errands
                where not done and run_at < now() + interval '1 minute' having count(*) > 0),
              (select 'calls ' || string_agg(method, ' ') from outbox where not done having count(*) > 0))";
        // Making an agent may be part of it.
        self.quietens(OPEN, DEADLINE * 2)
    }

    /// Waits until all that users have sent is handled; turns may go on.
    #[track_caller]
    pub fn handles_all(&self) -> impl Future<Output = ()> {
        self.quietens(
            "select concat_ws(', ', (select 'updates ' || count(*) from updates where not done having count(*) > 0))",
            DEADLINE,
        )
    }

    /// Waits until Telegram has handed everything over and `open` names nothing any more.
    #[track_caller]
    fn quietens(&self, open: &'static str, patience: Duration) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + patience;
            loop {
                // In this order: what Telegram has handed over is in the database.
                let arriving = self.simulator.get("/sim/updates").await;
                let open: String = self.sql(open).await;
                if arriving == json!([]) && open.is_empty() {
                    return;
                }
                assert!(Instant::now() < deadline, "{caller}: it doesn't settle: {open}; on their way: {arriving}");
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

/// Parameters that came as strings in a form, as the JSON that they are.
fn parsed(params: Value) -> Map<String, Value> {
    let Value::Object(params) = params else { return Map::new() };
    let read = |(name, value): (String, Value)| {
        let json = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        // A text may well look like JSON, and ids of presses are digits.
        let value = if matches!(name.as_str(), "text" | "caption" | "callback_query_id") {
            value
        } else {
            json.unwrap_or(value)
        };
        (name, value)
    };
    params.into_iter().map(read).collect()
}

/// A text of several lines as a list of them, which a diff shows better.
fn lines(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\n') => *value = text.split('\n').collect(),
        Value::Array(values) => values.iter_mut().for_each(lines),
        Value::Object(fields) => fields.values_mut().for_each(lines),
        _ => {}
    }
}

/// Entities and buttons as a line each.
fn compact(mut params: Map<String, Value>) -> Map<String, Value> {
    for (text, entities) in [("text", "entities"), ("caption", "caption_entities")] {
        let units: Vec<u16> = params.get(text).and_then(Value::as_str).unwrap_or("").encode_utf16().collect();
        if let Some(Value::Array(list)) = params.get_mut(entities) {
            list.iter_mut().for_each(|entity| *entity = marked(&units, entity));
            if list.is_empty() {
                params.remove(entities);
            }
        }
    }
    let markup = params.get_mut("reply_markup").and_then(Value::as_object_mut);
    if let Some(Value::Array(rows)) = markup.and_then(|markup| markup.remove("inline_keyboard")) {
        params.remove("reply_markup");
        let rows = rows.into_iter().map(|row| {
            let Value::Array(row) = row else { return row };
            row.into_iter().map(button).collect()
        });
        params.insert("buttons".into(), rows.collect());
    }
    // None of our messages shows a preview unless it says so.
    match params.remove("link_preview_options") {
        Some(options) if options == json!({ "is_disabled": true }) => {}
        options if params.contains_key("text") => {
            drop(params.insert("link_preview_options".into(), options.unwrap_or(Value::Null)))
        }
        _ => {}
    }
    params
}

/// `bold: what is bold`, and what else the entity says.
fn marked(units: &[u16], entity: &Value) -> Value {
    let at = |field: &str| entity[field].as_u64().unwrap() as usize;
    let part = String::from_utf16(&units[at("offset")..at("offset") + at("length")]).unwrap();
    let more: Vec<String> = entity
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| !["type", "offset", "length"].contains(&name.as_str()))
        .map(|(name, value)| format!(" ({name} {value})"))
        .collect();
    format!("{}: {part}{}", entity["type"].as_str().unwrap(), more.concat()).into()
}

/// `label → what it does`, if it is one of the two usual kinds and nothing more.
fn button(button: Value) -> Value {
    let text = button["text"].as_str().unwrap_or_default();
    let fields = button.as_object().map_or(0, Map::len);
    match (button["callback_data"].as_str(), button["url"].as_str()) {
        (Some(data), None) if fields == 2 => format!("{text} → {data}").into(),
        (None, Some(url)) if fields == 2 => format!("{text} → {url}").into(),
        _ => button,
    }
}

/// What stands for what is another one at every run.
#[derive(Default)]
struct Names {
    messages: HashMap<i64, String>,
    numbers: BTreeMap<String, String>,
    uuids: Vec<String>,
}

/// What is random or of the moment.
static REDACTED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"http://127\.0\.0\.1:\d+", "http://[host]"),
        (r"(\b|%3D)a_[A-Za-z0-9_-]{22}", "${1}a_[token]"),
        // First, for a code may have in it what the next is looking for.
        (r"(code alone: )[A-Za-z0-9_-]+", "${1}[code]"),
        (r"\bi_[A-Za-z0-9_-]{8,}", "i_[code]"),
        (r"\bd:\d+:", "d:[dialogue]:"),
        (r"\b\d{4}-\d{2}-\d{2}\b", "[date]"),
        (r"\b\d{1,2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*( \d{4})?\b", "[date]"),
        (r"\b\d+ ?(hours?|minutes?|seconds?|h|min|ms|s)\b", "[time]"),
        (r"\[time\](( and |, | )\[time\])+", "[time]"),
        (r"just now|less than a minute ago|\[time\] ago", "[ago]"),
    ]
    .into_iter()
    .map(|(pattern, name)| (Regex::new(pattern).unwrap(), name))
    .collect()
});
static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\b").unwrap());
/// Of a text; in what a button says, numbers stand between colons as well.
static CLOCK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(^|[^\d:])\d{1,2}:\d{2}(:\d{2})?\b").unwrap());
static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d+").unwrap());

impl Names {
    fn message(&mut self, id: i64) -> String {
        let next = format!("m{}", self.messages.len() + 1);
        self.messages.entry(id).or_insert(next).clone()
    }

    fn redact(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.redacted(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.redact(value)),
            Value::Object(fields) => {
                // A picture of something random.
                if fields.get("name").is_some_and(|name| name == "qr.png") {
                    fields.insert("size".into(), "[size]".into());
                }
                for (name, value) in fields {
                    match value.as_i64().filter(|_| name == "message_id") {
                        Some(id) => *value = self.message(id).into(),
                        None => self.redact(value),
                    }
                }
            }
            _ => {}
        }
    }

    fn redacted(&mut self, text: &str) -> String {
        let uuids = &mut self.uuids;
        let text = UUID.replace_all(text, |found: &Captures<'_>| {
            let uuid = found[0].replace('-', "");
            let at = uuids.iter().position(|known| *known == uuid).unwrap_or_else(|| {
                uuids.push(uuid);
                uuids.len() - 1
            });
            format!("[uuid-{}]", at + 1)
        });
        let text = REDACTED
            .iter()
            .fold(text.into_owned(), |text, (pattern, name)| pattern.replace_all(&text, *name).into_owned());
        // When the day ends is a fact, any other time is of the moment.
        let text = CLOCK.replace_all(&text, |found: &Captures<'_>| match found[0].strip_prefix(&found[1]) {
            Some("00:00") => found[0].to_owned(),
            _ => format!("{}[clock]", &found[1]),
        });
        NUMBER
            .replace_all(&text, |found: &Captures<'_>| {
                self.numbers.get(&found[0]).unwrap_or(&found[0].to_owned()).clone()
            })
            .into_owned()
    }
}
