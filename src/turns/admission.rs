//! Whether a turn may still go to its agent: it may have waited while its owner changed who may talk to it, or its key.
//!
//! Invariant: **no question leaves whose sender's rights nobody has looked at.** Every attempt looks. Where that finds another
//! answer than the row has, and this is not the first attempt, the agent is asked whether it has the question: then an earlier
//! attempt had looked, and the agent goes on. So nothing needs to be written where all is as it was, which is nearly always, and
//! a replica that dies between its claim and its look leaves no turn behind that is past it.

use std::time::Duration;

use baal_protocol::{REMEMBERS, Role, WITHHOLDS_TOOLS};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::agent_client::{AgentClient, AgentError};
use super::feed::PATIENCE;
use super::outage::outlast;
use super::queue;
use super::refusal::Refusal;
use super::store::{self, Claimed, Kind};
use crate::agents::access::{Access, Refusal as Shut};
use crate::agents::model::speaks;
use crate::agents::visitors;
use crate::app::App;
use crate::replica::Replica;

/// Whether the turn has tools, or why it does not go to its agent. What was found is written down, for a repeated question must
/// be the same.
pub async fn admit(app: &App, replica: &Replica, turn: &Claimed, agent: &AgentClient) -> Result<bool, Refusal> {
    if turn.kind != Kind::Message {
        return Ok(turn.tools);
    }
    let away = |error: sqlx::Error| Refusal::internal(&error.to_string());
    let found = outlast(replica, "looking whether a turn may go to its agent", |_| look(app, turn)).await;
    let found = found.map_err(away)?;
    let as_it_was = found == Ok(turn.tools) && !turn.uncounted;
    let tools = if !as_it_was && turn.attempt > 1 && is_known(turn, agent).await? {
        turn.tools
    } else {
        let tools = found?;
        let change = |again| write_down(app, replica.id(), turn, tools, again);
        outlast(replica, "writing down how a turn goes to its agent", change).await.map_err(away)??;
        tools
    };
    let withholds = speaks(turn.agent_protocol, WITHHOLDS_TOOLS);
    if turn.role == Role::Visitor && !tools && !withholds {
        return Err(Refusal::cannot_withhold_tools(turn));
    }
    Ok(tools)
}

/// Whether the turn would have tools if it were asked now, or why it would not be. Changes nothing.
async fn look(app: &App, turn: &Claimed) -> sqlx::Result<Result<bool, Refusal>> {
    if turn.user_blocked {
        return Ok(Err(Refusal::blocked()));
    }
    if turn.role == Role::Owner {
        return Ok(Ok(turn.tools));
    }
    let mut conn = app.db.acquire().await?;
    let access = visitors::access(&mut conn, turn.agent_id, turn.user_id).await?.map(|(_, access)| access);
    Ok(match access {
        Some(Access::Visitor(visit)) => Ok(turn.tools && visit.tools),
        Some(Access::Owner) => Ok(turn.tools),
        Some(Access::Refused(shut)) => Err(Refusal::shut_out(turn, shut)),
        None => Err(Refusal::shut_out(turn, Shut::Unknown)),
    })
}

/// Whether the agent has the question, from an earlier attempt. One that does not come back to say so will not be asked either.
async fn is_known(turn: &Claimed, agent: &AgentClient) -> Result<bool, Refusal> {
    if !speaks(turn.agent_protocol, REMEMBERS) {
        return Ok(turn.asked);
    }
    let (began, mut wait) = (Instant::now(), Duration::from_millis(250));
    loop {
        match agent.knows(turn.id).await {
            Ok(known) => return Ok(known),
            Err(error @ (AgentError::Unreachable(_) | AgentError::Broken(_) | AgentError::Unwell(_)))
                if began.elapsed() < PATIENCE =>
            {
                info!(%error, ?wait, "the agent does not say whether it has the question; asking again");
            }
            Err(error) => return Err(Refusal::of(&error, turn)),
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// Takes the tools away that the turn is not to have, and counts its messages if they are to count. `again`: an earlier try
/// failed, perhaps after it had counted.
async fn write_down(
    app: &App,
    replica: i64,
    turn: &Claimed,
    tools: bool,
    again: bool,
) -> sqlx::Result<Result<(), Refusal>> {
    if tools != turn.tools {
        store::take_tools(&mut *app.db.acquire().await?, replica, turn).await?;
    }
    let limit = turn.daily_messages.unwrap_or(app.config.free_tier_daily_messages);
    let uncounted = turn.uncounted && !(again && counted(app, turn).await?);
    if uncounted
        && !queue::count_late(&mut *app.db.acquire().await?, replica, turn, limit).await?
        && !(again && counted(app, turn).await?)
    {
        return Ok(Err(Refusal::free_used_up(turn, limit)));
    }
    Ok(Ok(()))
}

async fn counted(app: &App, turn: &Claimed) -> sqlx::Result<bool> {
    sqlx::query_scalar("select counted > 0 from turns where id = $1").bind(turn.id).fetch_one(&app.db).await
}
