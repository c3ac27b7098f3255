//! `/agents/{id}/chat`: talking to an agent as an administrator.
//!
//! An administrator is a visitor without tools, in a conversation of their token's own. What is said there is in no table of
//! ours and counts against nobody's messages; that something was said is in the record.

mod passing;

use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use baal_protocol::{ChatRequest, Mode, Role, Sender, WITHHOLDS_TOOLS};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tracing::info;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use self::passing::Permit;
use super::super::Server;
use super::agents::find;
use super::extract::{Json, Path};
use super::problem::{ApiError, Problem};
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::agents::model::speaks;
use crate::agents::{Agent, Status};
use crate::app::App;
use crate::turns::agent_client::{AgentClient, AgentError};

/// The longest message, in characters.
const LONGEST: usize = 16_384;
/// How long an agent may take to begin: less than a request may take.
const BEGINS_WITHIN: Duration = Duration::from_secs(20);
pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(say, forget))
}

/// Something to say to an agent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    /// 1 to 16,384 characters, of which some are visible.
    #[schema(
        example = "What can you do?",
        min_length = 1,
        max_length = 16384,
        pattern = r"^[^\x00]*[^\s\x00][^\x00]*$"
    )]
    message: String,
    /// An id of the caller's choice, good for one message to one agent: repeated with it, the message is not said again, and its
    /// answer comes once more.
    turn_id: Option<Uuid>,
}

/// One of the events of an answer, as the stream has it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is written by axum; this tells of it in the document")]
pub(super) struct Sent {
    /// For `Last-Event-ID`.
    #[schema(example = "7")]
    id: Option<String>,
    /// JSON, by its `type`.
    #[schema(example = r#"{"seq":7,"type":"delta","content":"Hello"}"#)]
    data: String,
}

impl Said {
    fn check(&self) -> Result<(), ApiError> {
        let message = &self.message;
        if message.trim().is_empty() || message.contains('\0') || message.chars().count() > LONGEST {
            let words = format!("A message has 1 to {LONGEST} characters, some of them visible, and no NUL.");
            return Err(ApiError::invalid("message", words));
        }
        Ok(())
    }
}

/// `Last-Event-ID`: what of an answer the caller has already.
pub(super) struct LastEventId(Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(given) = parts.headers.get("last-event-id") else { return Ok(Self(None)) };
        let given = given.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|id| *id >= 0);
        let id = given.ok_or_else(|| ApiError::Malformed("Last-Event-ID is the number of an event.".into()))?;
        Ok(Self(Some(id)))
    }
}

/// Say something to an agent
///
/// The answer comes as it is made: server-sent events with a JSON object each, by `type`: `delta` (a piece of text), `text` (the
/// text whole), `tool_use`, `file`, `keepalive` (every 15 s of silence), `usage`, `error`, and `done`, which is the last. A stream
/// that ends without `done` broke off: the same request again, with `Last-Event-ID`, goes on behind that event; that takes a
/// `turn_id`.
///
/// You are a visitor without tools, in a conversation of your token's own; the agent's owner does not see it, and it counts
/// against nobody's messages. A token may have eight streams open at once; one that is not read for a minute is closed.
#[utoipa::path(post, path = "/agents/{id}/chat", tag = "agents", operation_id = "chat_with_agent", request_body = Said,
    params(("id" = i64, Path, example = 42),
        ("Last-Event-ID" = Option<i64>, Header, description = "The last event of this answer that you have", minimum = 0, example = 7)),
    security(("bearer" = ["write"])),
    responses(
        (status = 200, content_type = "text/event-stream", body = Sent,
            description = "The answer, as server-sent events",
            example = "id: 1\ndata: {\"seq\":1,\"type\":\"text\",\"content\":\"Hello!\"}\n\nid: 2\ndata: {\"seq\":2,\"type\":\"done\"}\n\n"),
        (status = 502, content_type = "application/problem+json", body = Problem, description = "The agent does not answer")))]
async fn say(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
    LastEventId(after): LastEventId,
    Json(said): Json<Said>,
) -> Result<Response, ApiError> {
    said.check()?;
    let app = &server.app;
    let (agent, client) = running(app, id).await?;
    if !speaks(agent.protocol, WITHHOLDS_TOOLS) {
        let words =
            "runs an older version that can't keep its tools from visitors, so nothing was said. Update it first.";
        return Err(ApiError::Conflict(format!("{} {words}", agent.name)));
    }
    if after.is_some() && said.turn_id.is_none() {
        return Err(ApiError::Conflict("Last-Event-ID goes with the turn_id of the answer that broke off.".into()));
    }
    let permit = Permit::of(caller.token_id).ok_or(ApiError::TooManyRequests(5))?;
    let turn = turn_of(&agent, &caller, said.turn_id.unwrap_or_else(Uuid::new_v4));
    let begun = match after {
        Some(after) => timeout(BEGINS_WITHIN, client.resume(turn, after)).await,
        None => {
            // Its hash would tell a short one to whoever tries a few.
            let after = json!({"message": {"bytes": said.message.len()}});
            record(app, &caller, "agent.chat", &agent, after).await?;
            info!(agent.id, turn.id = %turn, "an administrator talks to an agent");
            let request = request(&caller, turn, said.message);
            timeout(BEGINS_WITHIN, client.chat(&request)).await
        }
    };
    let begun = begun.unwrap_or_else(|_| Err(AgentError::Broken("no answer in time".into())));
    let events = begun.map_err(|error| of_agent(&agent, error, after.is_some()))?;
    Ok(([("x-accel-buffering", "no")], Sse::new(passing::pass_on(events, permit))).into_response())
}

/// Have an agent forget
///
/// It forgets what was said with this token. Nothing to forget is as good.
#[utoipa::path(delete, path = "/agents/{id}/chat", tag = "agents", operation_id = "forget_chat_with_agent",
    params(("id" = i64, Path, example = 42)), security(("bearer" = ["write"])),
    responses((status = 204, description = "It is forgotten"),
        (status = 502, content_type = "application/problem+json", body = Problem, description = "The agent does not answer")))]
async fn forget(State(server): State<Server>, caller: Caller, Path(id): Path<i64>) -> Result<StatusCode, ApiError> {
    let app = &server.app;
    let (agent, client) = running(app, id).await?;
    // Before, as nobody may be there afterwards to write down what was done.
    record(app, &caller, "agent.forget_chat", &agent, Value::Null).await?;
    let forgotten = timeout(BEGINS_WITHIN, client.forget(&chat_of(&caller))).await;
    let forgotten = forgotten.unwrap_or_else(|_| Err(AgentError::Broken("no answer in time".into())));
    forgotten.map_err(|error| of_agent(&agent, error, false))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The agent, if it can be talked to.
async fn running(app: &App, id: i64) -> Result<(Agent, AgentClient), ApiError> {
    let agent = find(&mut *app.db.acquire().await?, id).await?;
    let url = match (&agent.url, &agent.paused, agent.status) {
        (Some(url), None, Status::Running) => url,
        (_, Some(why), Status::Running) => {
            return Err(ApiError::Conflict(format!("{} is paused: {why}", agent.name)));
        }
        (.., status) => {
            return Err(ApiError::Conflict(format!("{} is {status}, so it can't be talked to.", agent.name)));
        }
    };
    let secret = agent.secret(&app.config.vault).map_err(|error| ApiError::Internal(error.into()))?;
    let client = AgentClient::new(app.agents_http.of(agent.external), url, secret);
    Ok((agent, client))
}

/// The conversation of a token; that of ADMIN_TOKEN has number 0.
fn chat_of(caller: &Caller) -> String {
    format!("admin:{}", caller.token_id.unwrap_or_default())
}

/// The turn's id at the agent. Made of who asks, so that no id that a caller names is that of somebody else's turn: its events
/// would be theirs to read.
fn turn_of(agent: &Agent, caller: &Caller, named: Uuid) -> Uuid {
    let of = format!("{} {} {named}", agent.id, chat_of(caller));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(of)[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn request(caller: &Caller, turn: Uuid, message: String) -> ChatRequest {
    // Nobody of Telegram's has number 0.
    let sender = Sender { id: 0, name: "Administrator".into(), role: Role::Visitor, tools: Some(false) };
    ChatRequest {
        message,
        chat_id: chat_of(caller),
        turn_id: Some(turn),
        sender: Some(sender),
        language_code: None,
        stream: true,
        mode: Mode::Queue,
        edit_of: None,
        attachments: vec![],
    }
}

async fn record(app: &App, caller: &Caller, action: &str, agent: &Agent, after: Value) -> sqlx::Result<()> {
    let (id, user_id) = (agent.id.to_string(), Some(agent.owner_id));
    let change = Change { action, kind: "agent", id, user_id, before: Value::Null, after };
    audit::record(&mut *app.db.acquire().await?, caller, change).await
}

fn of_agent(agent: &Agent, error: AgentError, resumed: bool) -> ApiError {
    let name = &agent.name;
    match error {
        AgentError::UnknownTurn if resumed => {
            ApiError::NotFound(format!("{name} knows no such turn of yours. Say it again, without Last-Event-ID."))
        }
        AgentError::Refused(409) => {
            ApiError::Conflict("This turn_id was used for another message. Take a new one for each message.".into())
        }
        AgentError::Refused(401 | 403) => {
            ApiError::FarSide(format!("{name} takes another secret than the one it had."))
        }
        AgentError::Unreachable(_) | AgentError::Broken(_) | AgentError::Unwell(_) => ApiError::FarSide(format!(
            "{name} did not answer: {error}. With a turn_id it can be asked again without being told twice."
        )),
        error => ApiError::FarSide(format!("{name} was not told: {error}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::model::tests::agent;

    fn caller(token_id: Option<i64>) -> Caller {
        Caller { token_id, ..Caller::command_line() }
    }

    #[test]
    fn nobody_names_the_turn_of_somebody_else() {
        let (one, other) = (caller(Some(1)), caller(Some(2)));
        let named = Uuid::new_v4();
        let turn = turn_of(&agent("Ada"), &one, named);
        assert_eq!(turn, turn_of(&agent("Bea"), &one, named), "the name is not what counts");
        assert!(turn != named && turn != turn_of(&agent("Ada"), &other, named));
        let mut elsewhere = agent("Ada");
        elsewhere.id = 6;
        assert_ne!(turn, turn_of(&elsewhere, &one, named));
        assert_eq!((chat_of(&one), chat_of(&caller(None))), ("admin:1".into(), "admin:0".into()));
    }
}
