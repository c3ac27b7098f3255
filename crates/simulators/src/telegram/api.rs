//! `/bot{token}/{method}`: authentication, ordered faults, the envelope, the log.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::Telegram;
use super::faults::Kind;
use super::journal::{Call, Request as Recorded, Violation};
use super::params::Params;
use super::refusal::Refusal;
use super::world::now_ms;

/// A successful result, with the remark that a few methods add.
pub(crate) struct Answer {
    pub result: Value,
    pub description: Option<&'static str>,
}

impl From<Value> for Answer {
    fn from(result: Value) -> Self {
        Self { result, description: None }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut body = json!({ "ok": true, "result": self.result });
        if let Some(description) = self.description {
            body["description"] = description.into();
        }
        Json(body).into_response()
    }
}

fn authenticated(telegram: &Telegram, bot: &str) -> Option<Result<(), Refusal>> {
    let token = bot.strip_prefix("bot")?;
    let same = token.as_bytes().ct_eq(telegram.inner.token.as_bytes());
    Some(if bool::from(same) { Ok(()) } else { Err(Refusal::unauthorized()) })
}

/// One call of the Bot API.
pub(crate) async fn call(
    State(telegram): State<Telegram>,
    Path((bot, method)): Path<(String, String)>,
    request: Request,
) -> Response {
    let at_ms = now_ms();
    match authenticated(&telegram, &bot) {
        None => return StatusCode::NOT_FOUND.into_response(),
        Some(Err(refusal)) => {
            let (chat_id, description) = (None, refusal.description.clone());
            telegram.inner.journal.violation(Violation { method, chat_id, at_ms, description });
            return refusal.into_response();
        }
        Some(Ok(())) => {}
    }
    let (chat_id, message_id, said, outcome) = match Params::read(request).await {
        Ok(params) => {
            let (chat_id, message_id) = (params.chat_for_log(), params.message_for_log());
            let said = params.for_record();
            (chat_id, message_id, said, with_faults(&telegram, &method, chat_id, params).await)
        }
        // The connection was cut within the request: nothing was called.
        Err(refusal) if !refusal.violation => return refusal.into_response(),
        Err(refusal) => (None, None, Default::default(), Outcome::Answered(Err(refusal))),
    };
    let sent = match &outcome {
        Outcome::Answered(Ok(answer)) if method.len() > 4 && method[..4].eq_ignore_ascii_case("send") => made(answer),
        _ => Vec::new(),
    };
    let (status, description, response) = match outcome {
        Outcome::Answered(Ok(answer)) => (200, None, answer.into_response()),
        Outcome::Answered(Err(refusal)) => {
            if refusal.violation {
                let description = refusal.description.clone();
                telegram.inner.journal.violation(Violation { method: method.clone(), chat_id, at_ms, description });
            }
            (refusal.code, Some(refusal.description.clone()), refusal.into_response())
        }
        Outcome::Page(status, page) => {
            (status.as_u16(), None, (status, [(header::CONTENT_TYPE, "text/html")], page).into_response())
        }
        Outcome::Cut => (0, Some("connection cut".into()), cut()),
    };
    let (params, files) = said;
    telegram.inner.journal.request(Recorded {
        seq: 0,
        method: method.clone(),
        chat_id,
        at_ms,
        status,
        params,
        files,
        sent,
    });
    let took_ms = now_ms() - at_ms;
    telegram.inner.journal.call(Call { method, chat_id, message_id, at_ms, took_ms, status, description });
    response
}

/// The messages in the answer to a call that sends.
fn made(answer: &Answer) -> Vec<i64> {
    let messages = answer.result.as_array().map_or(std::slice::from_ref(&answer.result), Vec::as_slice);
    messages.iter().filter_map(|message| message["message_id"].as_i64()).collect()
}

enum Outcome {
    Answered(Result<Answer, Refusal>),
    Page(StatusCode, &'static str),
    Cut,
}

async fn with_faults(telegram: &Telegram, method: &str, chat_id: Option<i64>, params: Params) -> Outcome {
    let Some(fault) = telegram.inner.faults.take(method, chat_id) else {
        return Outcome::Answered(telegram.perform(method, params).await);
    };
    match fault.kind {
        Kind::TooManyRequests => Outcome::Answered(Err(Refusal::too_many_requests(fault.retry_after.unwrap_or(1)))),
        Kind::InternalError => Outcome::Answered(Err(Refusal {
            code: 500,
            description: "Internal Server Error".into(),
            parameters: None,
            violation: false,
        })),
        Kind::BadGatewayPage => Outcome::Page(
            StatusCode::BAD_GATEWAY,
            "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n\
             <hr><center>nginx/1.18.0</center>\r\n</body>\r\n</html>\r\n",
        ),
        Kind::Delay => {
            tokio::time::sleep(Duration::from_millis(fault.ms.unwrap_or(1_000))).await;
            Outcome::Answered(telegram.perform(method, params).await)
        }
        Kind::DropAfter => {
            // silent-ok: the caller is not to learn how it went
            let _ = telegram.perform(method, params).await; // silent-ok: nobody is left to hear the answer
            Outcome::Cut
        }
        Kind::DropBefore => Outcome::Cut,
    }
}

/// An answer whose body fails before its first byte: hyper then closes the connection without having sent even the head.
fn cut() -> Response {
    let broken = stream::once(async { Err::<Vec<u8>, _>(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)) });
    Body::from_stream(broken).into_response()
}

/// `/file/bot{token}/{path}`: the bytes of a file that `getFile` named.
pub(crate) async fn file(State(telegram): State<Telegram>, Path((bot, path)): Path<(String, String)>) -> Response {
    match authenticated(&telegram, &bot) {
        Some(Ok(())) => {}
        Some(Err(refusal)) => return refusal.into_response(),
        None => return StatusCode::NOT_FOUND.into_response(),
    }
    let file = telegram.world().files.by_path(&path).cloned();
    match file {
        Some(file) => ([(header::CONTENT_TYPE, "application/octet-stream")], file.bytes).into_response(),
        None => {
            Refusal { code: 404, description: "Not Found".into(), parameters: None, violation: false }.into_response()
        }
    }
}
