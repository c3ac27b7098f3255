//! `/dashboard` and `/pool`.

use std::time::Duration;

use super::agents::{database_error, owned};
use super::{Handled, Handler, Pressed, Speaker};
use crate::agents::{overview as agents, service};
use crate::clock;
use crate::cloud::overview as machines;
use crate::telegram::callback::OverviewPress;
use crate::telegram::texts;

/// How old the account's credits may be that are shown: nobody is asked for them here.
const FUNDS_AGE: Duration = Duration::from_secs(86_400);

/// `/dashboard`.
pub(super) async fn dashboard(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let message = all_agents(handler, speaker).await?;
    handler.say(speaker.place, message).await
}

/// `/pool`, which others than operators do not know.
pub(super) async fn pool(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let message = match handler.is_operator(speaker) {
        true => all_machines(handler).await?,
        false => texts::unknown_command(),
    };
    handler.say(speaker.place, message).await
}

/// A pressed button. Returns what to show the presser for a moment.
pub(super) async fn on_press(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    press: OverviewPress,
) -> sqlx::Result<Option<&'static str>> {
    let message = match press {
        OverviewPress::Dashboard => all_agents(handler, speaker).await?,
        OverviewPress::Pool if handler.is_operator(speaker) => all_machines(handler).await?,
        OverviewPress::Pool => return Ok(Some(texts::NOT_FOR_YOU)),
    };
    handler.turn_into(pressed, message).await?;
    Ok(None)
}

async fn all_agents(handler: &mut Handler<'_>, speaker: &Speaker) -> sqlx::Result<texts::Message> {
    let mine = owned(handler, speaker).await?;
    let standings = service::standings(handler.conn, &mine).await.or_else(database_error)?;
    let ids: Vec<i64> = mine.iter().map(|agent| agent.id).collect();
    let figures = agents::of(handler.conn, &ids).await?;
    let current = speaker.conversation.agent.as_ref().map(|agent| agent.id);
    let now = clock::now(handler.conn).await?;
    Ok(texts::dashboard(&mine, &standings, &figures, current, now))
}

async fn all_machines(handler: &mut Handler<'_>) -> sqlx::Result<texts::Message> {
    let overview = machines::now(handler.conn).await?;
    let funds = handler.app.aleph.as_ref().and_then(|aleph| aleph.known_funds(FUNDS_AGE));
    let now = clock::now(handler.conn).await?;
    Ok(texts::pool(&overview, funds.as_ref(), &handler.app.config, now))
}
