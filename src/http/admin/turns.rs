//! `/agents/{id}/turns`: what agents were asked and what came of it, without what was said.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::super::Server;
use super::agents::find;
use super::extract::{List, Page, Path, Query};
use super::problem::ApiError;
use crate::admin::usage;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Something that an agent was asked. What was said is between the two.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Turn {
    /// The id under which the agent ran it.
    id: Uuid,
    /// What it is: `message` (words of a person), `hello` (a new agent introduces itself), `reset` and `forget` (the agent
    /// forgets a chat).
    #[schema(example = "message")]
    kind: String,
    /// `waiting`, `running`, or how it ended: `completed`, `failed`, `cancelled` (its user stopped it), `unknown` (nobody knows
    /// whether the agent ran it).
    #[schema(example = "completed")]
    status: String,
    /// Who asked.
    #[schema(example = 7)]
    user_id: i64,
    /// `owner` or `visitor`.
    #[schema(example = "owner")]
    role: String,
    /// The link by which a visitor came.
    link_id: Option<i64>,
    /// Messages in it: those that come while another turn runs are one turn.
    #[schema(example = 1)]
    messages: i32,
    /// How often a replica took it up.
    #[schema(example = 1)]
    attempts: i32,
    created_at: DateTime<Utc>,
    /// When it was first taken up.
    started_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    /// As the agent tells.
    #[schema(example = 1200)]
    prompt_tokens: Option<i64>,
    /// As the agent tells.
    #[schema(example = 80)]
    completion_tokens: Option<i64>,
    /// US dollars, as the agent tells.
    #[schema(example = 0.0012)]
    cost: Option<f64>,
    /// Why there is no answer, for operators.
    error: Option<String>,
}

impl From<usage::Turn> for Turn {
    fn from(turn: usage::Turn) -> Self {
        let usage::Turn { id, kind, status, user_id, role, link_id, messages, attempts, .. } = turn;
        let usage::Turn { created_at, started_at, ended_at, prompt_tokens, completion_tokens, cost, error, .. } = turn;
        Self {
            id,
            kind,
            status,
            user_id,
            role,
            link_id,
            messages,
            attempts,
            created_at,
            started_at,
            ended_at,
            prompt_tokens,
            completion_tokens,
            cost,
            error,
        }
    }
}

/// How a turn stands.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TurnStatus {
    /// It has not been taken up, or is to be tried again.
    Waiting,
    /// A replica is at work on it.
    Running,
    /// Answered.
    Completed,
    /// Its user was told why not.
    Failed,
    /// Its user stopped it.
    Cancelled,
    /// Nobody knows whether the agent ran it.
    Unknown,
}

impl TurnStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// Which turns.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    before: Option<i64>,
    /// How they stand.
    #[param(inline)]
    status: Option<TurnStatus>,
    /// Who asked.
    #[param(example = 7)]
    user_id: Option<i64>,
}

/// List an agent's turns
///
/// What it was asked and what came of it, newest first: times, tokens and errors, never what was said.
#[utoipa::path(get, path = "/agents/{id}/turns", tag = "agents", operation_id = "list_turns",
    params(("id" = i64, Path, minimum = 1, example = 42), Filter), security(("bearer" = ["read"])),
    responses((status = 200, body = List<Turn>)))]
async fn list(
    State(server): State<Server>,
    Path(id): Path<i64>,
    Query(filter): Query<Filter>,
) -> Result<axum::Json<List<Turn>>, ApiError> {
    let fetch = Page::fetch(filter.limit)?;
    let mut conn = server.app.db.acquire().await?;
    find(&mut conn, id).await?;
    let which = (filter.user_id, filter.status.map(TurnStatus::as_str));
    let turns = usage::turns(&mut conn, id, which, filter.before, fetch).await?;
    Ok(axum::Json(List::new(turns, fetch, |turn| turn.position.to_string(), Turn::from)))
}
