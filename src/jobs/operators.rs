//! What operators are told by the bot.

use sqlx::PgConnection;
use tracing::error;

use crate::app::App;
use crate::cloud::aleph::Shortage;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Place, Text, send_message};

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
    let text = words(shortage);
    for chat_id in &app.config.operator_ids {
        let place = Place { bot_id: app.bot_id, chat_id: *chat_id, thread_id: None };
        let call = Call::reply(app.bot_id, *chat_id, &send_message(place, &Text::plain(&text).done(), vec![])).notice();
        outbox::enqueue(conn, &call).await?;
    }
    Ok(())
}

fn words(shortage: &Shortage) -> String {
    format!(
        "⚠️ No agent can be set up: the Aleph account {} has {} credits (${:.2}), but {} (${:.2}) are needed to run {} \
         machine{} for a day. Add credits to it, or lower MAX_VMS.\n\nYou are told of this at most once an hour.",
        shortage.address,
        shortage.have,
        dollars(shortage.have),
        shortage.need,
        dollars(shortage.need),
        shortage.machines,
        if shortage.machines == 1 { "" } else { "s" },
    )
}

/// 1,000,000 credits are one US dollar.
fn dollars(credits: u64) -> f64 {
    credits as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_the_account_and_the_sums() {
        let text = words(&Shortage { address: "0xAbC".into(), have: 342_000, need: 684_000, machines: 2 });
        assert!(text.contains("0xAbC") && text.contains("342000 credits ($0.34)"), "{text}");
        assert!(text.contains("684000 ($0.68)") && text.contains("2 machines for a day"), "{text}");
    }
}
