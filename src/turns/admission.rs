//! Whether a turn may still go to its agent: it may have waited while its owner changed who may talk to it, or its key.

use baal_protocol::{Role, WITHHOLDS_TOOLS};

use super::queue;
use super::refusal::Refusal;
use super::store::{self, Claimed, Kind};
use crate::agents::access::{Access, Refusal as Shut};
use crate::agents::model::speaks;
use crate::agents::visitors;
use crate::app::App;

/// Whether the turn has tools, or why it does not go to its agent.
///
/// Who has run it before may have asked the agent, which then goes on: so only the first attempt is looked at, and what it
/// found is written down, for a repeated question must be the same.
pub async fn admit(app: &App, replica: i64, turn: &Claimed) -> Result<bool, Refusal> {
    if turn.kind != Kind::Message {
        return Ok(turn.tools);
    }
    let tools = match turn.attempt {
        1 => look(app, replica, turn).await.unwrap_or_else(|error| Err(Refusal::internal(&error.to_string())))?,
        _ => turn.tools,
    };
    let withholds = speaks(turn.agent_protocol, WITHHOLDS_TOOLS);
    if turn.role == Role::Visitor && !tools && !withholds {
        return Err(Refusal::cannot_withhold_tools(turn));
    }
    Ok(tools)
}

async fn look(app: &App, replica: i64, turn: &Claimed) -> sqlx::Result<Result<bool, Refusal>> {
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
    if turn.uncounted && !queue::count_late(&mut *app.db.acquire().await?, replica, turn, limit).await? {
        return Ok(Err(Refusal::free_used_up(turn, limit)));
    }
    Ok(Ok(tools))
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
