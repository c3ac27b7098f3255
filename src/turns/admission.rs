//! Whether a turn may still go to its agent: it may have waited while its owner changed who may talk to it, or its key.

use std::time::Duration;

use baal_protocol::{Role, WITHHOLDS_TOOLS};
use tokio::time::sleep;
use tracing::warn;

use super::queue;
use super::refusal::Refusal;
use super::store::{self, Claimed, Kind};
use crate::agents::access::{Access, Refusal as Shut};
use crate::agents::model::speaks;
use crate::agents::visitors;
use crate::app::App;
use crate::database;
use crate::replica::Replica;
use crate::slots::bounded;

/// Whether the turn has tools, or why it does not go to its agent.
///
/// Who has run it before may have asked the agent, which then goes on: so only the first attempt is looked at, and what it
/// found is written down, for a repeated question must be the same.
pub async fn admit(app: &App, replica: &Replica, turn: &Claimed) -> Result<bool, Refusal> {
    if turn.kind != Kind::Message {
        return Ok(turn.tools);
    }
    let tools = match turn.attempt {
        1 => look_until_seen(app, replica, turn).await?,
        _ => turn.tools,
    };
    let withholds = speaks(turn.agent_protocol, WITHHOLDS_TOOLS);
    if turn.role == Role::Visitor && !tools && !withholds {
        return Err(Refusal::cannot_withhold_tools(turn));
    }
    Ok(tools)
}

/// Looks, however long the database is away: that is no answer to anybody's message.
async fn look_until_seen(app: &App, replica: &Replica, turn: &Claimed) -> Result<bool, Refusal> {
    let (mut wait, mut again) = (Duration::from_millis(200), false);
    loop {
        match bounded(look(app, replica.id(), turn, again)).await {
            Ok(seen) => return seen,
            Err(error) if database::may_pass(&error) && !replica.lost().is_cancelled() => {
                warn!(%error, "whether a turn may go to its agent could not be looked up; trying again");
            }
            Err(error) => return Err(Refusal::internal(&error.to_string())),
        }
        again = true;
        tokio::select! {
            () = sleep(wait) => {}
            () = replica.lost().cancelled() => {}
        }
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// `again`: an earlier look failed, perhaps after it had counted.
async fn look(app: &App, replica: i64, turn: &Claimed, again: bool) -> sqlx::Result<Result<bool, Refusal>> {
    if turn.user_blocked {
        return Ok(Err(Refusal::blocked()));
    }
    let tools = match turn.role {
        Role::Owner => turn.tools,
        Role::Visitor => match still_open(app, replica, turn).await? {
            Ok(tools) => tools,
            Err(refusal) => return Ok(Err(refusal)),
        },
    };
    let limit = turn.daily_messages.unwrap_or(app.config.free_tier_daily_messages);
    let uncounted = turn.uncounted && !(again && counted(app, turn).await?);
    if uncounted
        && !queue::count_late(&mut *app.db.acquire().await?, replica, turn, limit).await?
        && !(again && counted(app, turn).await?)
    {
        return Ok(Err(Refusal::free_used_up(turn, limit)));
    }
    Ok(Ok(tools))
}

async fn counted(app: &App, turn: &Claimed) -> sqlx::Result<bool> {
    sqlx::query_scalar("select counted > 0 from turns where id = $1").bind(turn.id).fetch_one(&app.db).await
}

async fn still_open(app: &App, replica: i64, turn: &Claimed) -> sqlx::Result<Result<bool, Refusal>> {
    let mut conn = app.db.acquire().await?;
    let access = visitors::access(&mut conn, turn.agent_id, turn.user_id).await?.map(|(_, access)| access);
    let visit = match access {
        Some(Access::Visitor(visit)) => visit,
        Some(Access::Owner) => return Ok(Ok(turn.tools)),
        Some(Access::Refused(shut)) => return Ok(Err(Refusal::shut_out(turn, shut))),
        None => return Ok(Err(Refusal::shut_out(turn, Shut::Unknown))),
    };
    if turn.tools && !visit.tools {
        store::take_tools(&mut conn, replica, turn).await?;
    }
    Ok(Ok(turn.tools && visit.tools))
}
