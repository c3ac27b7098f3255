//! Whom operators have shut out: they are told once a day, and nothing of theirs is taken. But anybody may be forgotten.

use super::{Command, Handled, Handler, Speaker};
use crate::telegram::callback::{AccountPress, Press};
use crate::telegram::conversation::Dialogue;
use crate::telegram::texts;

/// Whether this message is not taken.
pub(super) fn shuts_out(speaker: &Speaker, command: Option<&Command<'_>>) -> bool {
    let forgetting = match command {
        Some(command) => matches!(command.name.as_str(), "forgetme" | "privacy"),
        None => matches!(speaker.conversation.dialogue, Some(Dialogue::Forget)),
    };
    is_blocked(speaker) && !forgetting
}

/// Whether this press is not taken.
pub(super) fn shuts_out_press(speaker: &Speaker, press: &Press) -> bool {
    let forgetting =
        matches!(press, Press::Account(AccountPress::AskForget | AccountPress::Forget | AccountPress::Cancel));
    is_blocked(speaker) && !forgetting
}

/// Who is being forgotten is told that instead.
fn is_blocked(speaker: &Speaker) -> bool {
    let account = &speaker.conversation.account;
    account.blocked && !account.being_forgotten
}

/// Says so, unless it was said within a day.
pub(super) async fn tell(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let told = sqlx::query(
        "update users set blocked_told_at = now()
          where id = $1 and coalesce(blocked_told_at < now() - interval '1 day', true)",
    )
    .bind(speaker.user.id)
    .execute(&mut *handler.conn)
    .await?;
    if told.rows_affected() == 0 {
        return Ok(());
    }
    handler.say(speaker.place, texts::blocked()).await
}
