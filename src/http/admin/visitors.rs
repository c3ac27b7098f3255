//! `/agents/{id}/visitors`: who has opened an agent that is not theirs, and whether they may.

use std::fmt;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::agents::{find, locked};
use super::extract::{List, Page, Path, Query};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::agents::access::{Access, Refusal};
use crate::agents::service::ServiceError;
use crate::agents::visitors::{self, Guest};
use crate::agents::{Agent, sharing};
use crate::database;
use crate::wake::Queue;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(decide))
}

/// Somebody who has opened an agent that is not theirs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Visitor {
    /// Telegram's id.
    #[schema(example = 123_456_789)]
    user_id: i64,
    /// What they call themselves.
    #[schema(example = "Bob")]
    name: String,
    /// Their user name without `@`.
    username: Option<String>,
    /// Why they may not talk to it; null: they may.
    shut_out: Option<ShutOut>,
    /// Whether they wait to be let in.
    waits: bool,
    /// Whether they were let in in person.
    admitted: bool,
    /// Whether they are shut out in person.
    blocked: bool,
    /// The link by which they came.
    #[schema(example = 7)]
    link_id: Option<i64>,
    /// Messages that they ever sent.
    #[schema(example = 12)]
    messages: i64,
    /// Those of this UTC day.
    #[schema(example = 2)]
    messages_today: i32,
    last_seen_at: DateTime<Utc>,
}

/// Why somebody may not talk to an agent.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ShutOut {
    /// It is not open to those who came as they did.
    Closed,
    /// Their link was revoked.
    Revoked,
    /// Their link has expired.
    Expired,
    /// They are blocked.
    Blocked,
    /// They have asked to be let in.
    Asked,
}

/// What is decided about a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// They may come in, whatever was before. They are told.
    Admit,
    /// They have asked and may not. They are told, and may ask again the next day.
    Refuse,
    /// They may not come in by any link.
    Block,
    /// They may come in by whatever way is open to them.
    Unblock,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admit => "admit",
            Self::Refuse => "refuse",
            Self::Block => "block",
            Self::Unblock => "unblock",
        })
    }
}

impl From<Guest> for Visitor {
    fn from(guest: Guest) -> Self {
        let shut_out = match guest.access {
            Access::Owner | Access::Visitor(_) => None,
            Access::Refused(refusal) => Some(match refusal {
                Refusal::Unknown | Refusal::Closed => ShutOut::Closed,
                Refusal::Revoked => ShutOut::Revoked,
                Refusal::Expired => ShutOut::Expired,
                Refusal::Blocked => ShutOut::Blocked,
                Refusal::Asked => ShutOut::Asked,
            }),
        };
        Self {
            waits: guest.waits(),
            shut_out,
            user_id: guest.user_id,
            name: guest.name,
            username: guest.username,
            admitted: guest.visitor.admitted,
            blocked: guest.visitor.blocked,
            link_id: guest.visitor.link.map(|link| link.id),
            messages: guest.messages,
            messages_today: guest.messages_today,
            last_seen_at: guest.last_seen_at,
        }
    }
}

fn missing(agent: &Agent, user_id: i64) -> ApiError {
    ApiError::NotFound(format!("User {user_id} has never opened agent {}.", agent.id))
}

/// List an agent's visitors
///
/// Who has opened it and is not its owner, by descending Telegram id.
#[utoipa::path(get, path = "/agents/{id}/visitors", tag = "agents", operation_id = "list_visitors",
    params(("id" = i64, Path, description = "The agent", example = 42), Page), security(("bearer" = ["read"])),
    responses((status = 200, description = "Part of the list", body = List<Visitor>)))]
async fn list(
    State(server): State<Server>,
    Path(id): Path<i64>,
    Query(page): Query<Page>,
) -> Result<axum::Json<List<Visitor>>, ApiError> {
    let fetch = Page::fetch(page.limit)?;
    let mut conn = server.app.db.acquire().await?;
    let agent = find(&mut conn, id).await?;
    let guests = visitors::below(&mut conn, &agent, page.before, fetch).await?;
    Ok(axum::Json(List::new(guests, fetch, |guest| guest.user_id.to_string(), Visitor::from)))
}

/// Read a visitor
///
/// How they came and what they may do.
#[utoipa::path(get, path = "/agents/{id}/visitors/{user_id}", tag = "agents", operation_id = "read_visitor",
    params(("id" = i64, Path, description = "The agent", example = 42),
        ("user_id" = i64, Path, description = "The visitor", example = 123_456_789)),
    security(("bearer" = ["read"])), responses((status = 200, description = "The visitor", body = Visitor)))]
async fn read(
    State(server): State<Server>,
    Path((id, user_id)): Path<(i64, i64)>,
) -> Result<axum::Json<Visitor>, ApiError> {
    let mut conn = server.app.db.acquire().await?;
    let agent = find(&mut conn, id).await?;
    let guest = visitors::get(&mut conn, &agent, user_id).await?.ok_or_else(|| missing(&agent, user_id))?;
    Ok(axum::Json(guest.into()))
}

/// Decide about a visitor
///
/// Lets them in or shuts them out, in the owner's place. It holds at once.
#[utoipa::path(post, path = "/agents/{id}/visitors/{user_id}/{verdict}", tag = "agents", operation_id = "decide_visitor",
    params(("id" = i64, Path, description = "The agent", example = 42),
        ("user_id" = i64, Path, description = "The visitor", example = 123_456_789),
        ("verdict" = inline(Verdict), Path, description = "`admit`, `refuse`, `block` or `unblock`", example = "admit")),
    security(("bearer" = ["write"])), responses((status = 200, description = "As it is now", body = Visitor)))]
async fn decide(
    State(server): State<Server>,
    caller: Caller,
    Path((id, user_id, verdict)): Path<(i64, i64, Verdict)>,
) -> Result<axum::Json<Visitor>, ApiError> {
    let app = &server.app;
    let mut tx = database::begin(&app.db).await?;
    let agent = locked(&mut tx, id).await?;
    let before = match sharing::visitor(&mut tx, agent.owner_id, id, user_id).await {
        Err(ServiceError::NoSuchVisitor) => return Err(missing(&agent, user_id)),
        found => found?.1,
    };
    let owner = agent.owner_id;
    let (agent, after) = match verdict {
        Verdict::Admit => sharing::admit(&mut tx, owner, id, user_id).await,
        Verdict::Refuse => sharing::refuse(&mut tx, owner, id, user_id).await,
        Verdict::Block => sharing::block(&mut tx, owner, id, user_id).await,
        Verdict::Unblock => sharing::unblock(&mut tx, owner, id, user_id).await,
    }?;
    if after.visitor != before.visitor {
        let is = |guest: &Guest| json!({"admitted": guest.visitor.admitted, "waits": guest.waits(), "blocked": guest.visitor.blocked});
        let (action, subject) = (format!("visitor.{verdict}"), format!("{}/{user_id}", agent.id));
        let (before, after) = (is(&before), is(&after));
        let change = Change { action: &action, kind: "visitor", id: subject, user_id: Some(user_id), before, after };
        audit::record(&mut tx, &caller, change).await?;
    }
    tx.commit().await?;
    app.wake.wake(Queue::Outbox);
    Ok(axum::Json(after.into()))
}
