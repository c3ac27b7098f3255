//! Errands: what users ask for that needs a far side but no agent's answer, as rows. A handler writes one down with the
//! message that shows how it goes, and [`worker`] does it: checking a key, reading a balance, moving agents to another key,
//! forgetting somebody.

mod balance;
mod forget;
mod login;
mod rekey;
pub mod store;
pub mod worker;

use std::time::Duration;

use sqlx::PgConnection;

use crate::telegram::outbox::{self, Call};
use crate::telegram::text::edit_message;
use crate::telegram::texts;
use store::Claimed;

/// What a try at an errand came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tried {
    /// It is done, and its row says so.
    Done,
    /// What it waits for is not there yet.
    Later(Duration),
    /// It did not work this time, for this reason, in words for operators.
    Failed(String),
    /// Somebody else has it, or it is not wanted any more.
    Lost,
}

/// Puts these words in place of the errand's message, in the chat's order.
async fn tell(conn: &mut PgConnection, errand: &Claimed, (text, buttons): texts::Message) -> sqlx::Result<()> {
    let Some(progress) = errand.progress else { return Ok(()) };
    let edit = edit_message(errand.place, 0, &text, buttons);
    let call = Call::reply(errand.place.bot_id, errand.place.chat_id, &edit).editing(progress);
    outbox::enqueue(conn, &call).await.map(drop)
}

/// The same for words that newer ones soon replace: at most one change a second goes out.
async fn show(conn: &mut PgConnection, errand: &Claimed, (text, buttons): texts::Message) -> sqlx::Result<()> {
    let Some(progress) = errand.progress else { return Ok(()) };
    let edit = edit_message(errand.place, 0, &text, buttons);
    let call = Call::reply(errand.place.bot_id, errand.place.chat_id, &edit).editing(progress);
    outbox::enqueue_progress(conn, &call).await
}
