//! What operators are told by the bot.

use sqlx::PgConnection;
use tracing::error;

use crate::app::App;
use crate::cloud::aleph::Shortage;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Place, send_message};
use crate::telegram::texts;

/// Tells the operators that machines cannot be paid for, at most once an hour. Locks the installation's row. Wake
/// [`Queue::Outbox`](crate::wake::Queue) after the commit.
pub async fn tell_of_shortage(conn: &mut PgConnection, app: &App, shortage: &Shortage) -> sqlx::Result<()> {
    let due = sqlx::query(
        "update installation set credits_told_at = now()
          where credits_told_at is null or credits_told_at < now() - interval '1 hour'",
    )
    .execute(&mut *conn)
    .await?;
    if due.rows_affected() == 0 {
        return Ok(());
    }
    error!(
        account = shortage.address,
        credits.have = shortage.have,
        credits.need = shortage.need,
        "no machine can be paid for"
    );
    let (text, buttons) = texts::credits_low(shortage);
    for chat_id in &app.config.operator_ids {
        let place = Place { bot_id: app.bot_id, chat_id: *chat_id, thread_id: None };
        let call = Call::reply(app.bot_id, *chat_id, &send_message(place, &text, buttons.clone())).notice();
        outbox::enqueue(conn, &call).await?;
    }
    Ok(())
}
