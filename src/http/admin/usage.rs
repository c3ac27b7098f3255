//! `/usage`: messages, tokens, cost and failures.

use axum::extract::State;
use chrono::{Datelike as _, NaiveDate, TimeDelta};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::{Page, Query};
use super::problem::ApiError;
use crate::admin::usage::{self, Range, Sum};
use crate::clock;
use crate::database;

/// The longest time that is summed up at once, in days.
const MOST_DAYS: i64 = 92;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(read))
}

/// By what sums are made.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = UsageBy)]
pub(super) enum By {
    /// UTC days, newest first, none left out.
    #[default]
    Day,
    /// Who asked; those with most messages first.
    User,
    /// Who was asked; those with most messages first.
    Agent,
}

/// Which turns, and by what they are summed up.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// The first UTC day; where it is left out, the last day is today.
    #[param(example = "2026-11-01")]
    from: Option<NaiveDate>,
    /// How many days.
    #[param(default = 30, minimum = 1, maximum = 92)]
    days: Option<i64>,
    /// By what.
    #[param(inline)]
    by: Option<By>,
    /// Of this user only.
    #[param(example = 7)]
    user_id: Option<i64>,
    /// With this agent only.
    #[param(example = 42)]
    agent_id: Option<i64>,
    /// How many users or agents at most; of days none is left out.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// What was asked and answered, and what that cost.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Usage {
    /// The first UTC day.
    from: NaiveDate,
    /// The last UTC day.
    to: NaiveDate,
    /// By what the items are.
    by: By,
    /// Of all, whether it is among the items or not.
    total: Figures,
    /// One by one; by user and agent at most `limit`.
    items: Vec<Item>,
}

/// A sum over turns. Tokens and cost are what the agents tell.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageFigures)]
pub(super) struct Figures {
    /// Messages of people.
    #[schema(example = 120)]
    messages: i64,
    /// Turns: messages that come while another turn runs are one.
    #[schema(example = 100)]
    turns: i64,
    /// Turns that ended without the answer that they were to have.
    #[schema(example = 2)]
    failures: i64,
    /// Turns that their user stopped.
    #[schema(example = 3)]
    cancelled: i64,
    /// What the models read, in tokens.
    #[schema(example = 340_000)]
    prompt_tokens: i64,
    /// What the models wrote, in tokens.
    #[schema(example = 21_000)]
    completion_tokens: i64,
    /// US dollars.
    #[schema(example = 0.42)]
    cost: f64,
}

/// A day, user or agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageItem)]
pub(super) struct Item {
    /// The UTC day; null unless it is by day.
    day: Option<NaiveDate>,
    /// Telegram's number of the user; null unless it is by user.
    user_id: Option<i64>,
    /// The agent's number; null unless it is by agent.
    agent_id: Option<i64>,
    /// What the user or agent is called, as far as that is known.
    name: Option<String>,
    #[serde(flatten)]
    figures: Figures,
}

impl From<&Sum> for Figures {
    fn from(sum: &Sum) -> Self {
        let Sum { messages, turns, failures, cancelled, prompt_tokens, completion_tokens, cost, .. } = *sum;
        Self { messages, turns, failures, cancelled, prompt_tokens, completion_tokens, cost }
    }
}

/// Sum usage up
///
/// Messages, turns, tokens, cost and failures of up to 92 days, by day, user or agent. What users of whom nothing is known
/// any more have asked is gone from it.
#[utoipa::path(get, path = "/usage", tag = "usage", operation_id = "read_usage", params(Filter),
    security(("bearer" = ["read"])), responses((status = 200, body = Usage)))]
async fn read(State(server): State<Server>, Query(filter): Query<Filter>) -> Result<axum::Json<Usage>, ApiError> {
    let days = filter.days.unwrap_or(30);
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(ApiError::invalid("days", "1 to 92 days are summed up at once."));
    }
    // As RFC 3339 writes days, and as far as Postgres knows them.
    if filter.from.is_some_and(|from| !(0..=9999).contains(&from.year())) {
        return Err(ApiError::invalid("from", "A day is written YYYY-MM-DD, with a year of four digits."));
    }
    let by = filter.by.unwrap_or_default();
    let most = Page::fetch(filter.limit)? - 1;
    let limit = if matches!(by, By::Day) { days } else { most };
    let mut tx = database::begin(&server.app.db).await?;
    let from = match filter.from {
        Some(from) => from,
        None => clock::now(&mut tx).await?.date_naive() - TimeDelta::days(days - 1),
    };
    let range = Range { from, days, user_id: filter.user_id, agent_id: filter.agent_id };
    let total = usage::total(&mut tx, &range).await?;
    let grouped = match by {
        By::Day => usage::By::Day,
        By::User => usage::By::User,
        By::Agent => usage::By::Agent,
    };
    let sums = usage::sums(&mut tx, &range, grouped, limit).await?;
    let items = sums.iter().map(|sum| Item {
        day: sum.day,
        user_id: sum.id.filter(|_| matches!(by, By::User)),
        agent_id: sum.id.filter(|_| matches!(by, By::Agent)),
        name: sum.name.clone(),
        figures: sum.into(),
    });
    let usage = Usage { from, to: range.to(), by, total: (&total).into(), items: items.collect() };
    Ok(axum::Json(usage))
}
