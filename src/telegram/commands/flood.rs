//! Who sends more than `FLOOD_PER_MINUTE` is told once and not looked at until the minute is over.

use chrono::Timelike as _;

use super::{Handled, Handler, Speaker};
use crate::app::App;
use crate::clock;
use crate::telegram::texts;

/// Whether this message or press is over the limit.
pub(super) fn is_over(app: &App, speaker: &Speaker) -> bool {
    speaker.conversation.account.flood_count > app.config.flood_per_minute
}

/// Whether an earlier message or press was the first over the limit, and had an answer.
pub(super) fn is_told(handler: &Handler<'_>, speaker: &Speaker) -> bool {
    speaker.conversation.account.flood_count > handler.app.config.flood_per_minute.saturating_add(1)
}

/// A press over the limit. Returns what to show the presser for a moment.
pub(super) async fn on_press(handler: &mut Handler<'_>, speaker: &Speaker) -> sqlx::Result<&'static str> {
    tell(handler, speaker).await?;
    Ok(texts::TOO_FAST)
}

/// Over the limit only the first message or press is answered.
pub(super) async fn tell(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let limit = handler.app.config.flood_per_minute;
    if speaker.conversation.account.flood_count != limit.saturating_add(1) {
        return Ok(());
    }
    tracing::info!(user.id = speaker.user.id, limit, "a user sends more than the limit allows");
    // The count starts anew with each minute of the clock.
    let now = clock::now(handler.conn).await?;
    handler.say(speaker.place, texts::too_fast(limit, 60 - now.second().min(59))).await
}
