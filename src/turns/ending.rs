//! The end of a turn in its chat: the final text, the files, and the outcome, in one transaction.

use std::time::Duration;

use sqlx::PgConnection;
use teloxide_core::payloads::DeleteMessage;
use teloxide_core::types::{ChatId, MessageId};
use tracing::{Span, warn};

use super::outcome::{self, End, Finished, Outcome, Status};
use super::relay::{ClaimLost, Relay};
use crate::database;
use crate::eyes::metrics;
use crate::slots::bounded;
use crate::telegram::markdown::Formatted;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Buttons, edit_message, send_message};
use crate::trace;
use crate::wake::Queue;

/// How a turn ends, and what its chat is left with.
#[derive(Debug, Default)]
pub struct Ending {
    /// What becomes of the row.
    pub outcome: Outcome,
    /// The final text, one message each. None: whatever was shown of an answer is taken back.
    pub parts: Vec<Formatted>,
    /// Under the last part.
    pub buttons: Buttons,
    /// What follows the text, in order.
    pub files: Vec<Call>,
    /// Whether the text is only for a chat that has seen the answer's beginning.
    pub only_if_begun: bool,
}

impl Ending {
    /// Words of the bot's own.
    pub fn says(text: Formatted) -> Self {
        Self { parts: vec![text], ..Self::default() }
    }
}

/// Tells the turn's trace how it ended.
fn note(outcome: &Outcome) {
    let span = Span::current();
    trace::note(&span, "turn.status", outcome.status.as_str());
    for (key, tokens) in [
        ("gen_ai.usage.input_tokens", outcome.prompt_tokens),
        ("gen_ai.usage.output_tokens", outcome.completion_tokens),
    ] {
        if let Some(tokens) = tokens {
            trace::note(&span, key, tokens);
        }
    }
    if matches!(outcome.status, Status::Failed | Status::Unknown) {
        trace::failed(&span, outcome.status.as_str());
    }
}

impl Relay {
    /// Ends the turn: its outcome, and what is left to say as outbox rows, in one transaction.
    pub async fn finish(&mut self, ending: &Ending) -> Result<(), ClaimLost> {
        self.settle().await;
        let mut wait = Duration::from_millis(200);
        let rung = self.app.wake.rung(Queue::Turns);
        // Until the outcome is stored the turn is claimed and its chat waits.
        let finished = loop {
            match bounded(self.try_finish(ending)).await {
                Ok(Some(finished)) => break finished,
                Ok(None) => return Err(ClaimLost),
                Err(error) if self.replica.lost().is_cancelled() => {
                    warn!(%error, "an answer could not be stored, and the claim is lost anyway");
                    return Err(ClaimLost);
                }
                Err(error) => warn!(%error, "an answer could not be stored; trying again"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        };
        metrics::turn_ended(self.turn.kind, ending.outcome.status, self.turn.age + self.began.elapsed());
        note(&ending.outcome);
        // What follows a message that is taken waits for it.
        if !finished.taken {
            self.app.wake.wake(Queue::Outbox);
        }
        if finished.awaited || self.app.wake.rung(Queue::Turns) != rung {
            self.app.wake.wake_here(Queue::Turns);
        }
        if ending.outcome.pending {
            self.app.wake.wake(Queue::Pending);
        }
        Ok(())
    }

    async fn try_finish(&self, ending: &Ending) -> sqlx::Result<Option<Finished>> {
        let (replica, turn) = (self.replica.id(), &self.turn);
        let text: Vec<Call> = (0..ending.parts.len()).map(|index| self.message(ending, index)).collect();
        let without_beginning = || {
            let text = text.iter().filter(|_| !ending.only_if_begun);
            text.chain(&ending.files).cloned().collect::<Vec<Call>>()
        };
        if self.first_piece.is_none() && !self.unsure {
            let end = End::of(turn, &ending.outcome, without_beginning());
            return self.ends.run(end).await;
        }
        let mut tx = database::begin(&self.app.db).await?;
        let end = End::of(turn, &ending.outcome, Vec::new());
        let Some(Some(finished)) = outcome::finish(&mut tx, replica, &[end], 0).await?.0.pop() else { return Ok(None) };
        let rest = match (finished.first_piece, text.split_first()) {
            (None, _) => without_beginning(),
            (Some(row), None) => {
                self.withdraw(&mut tx, row).await?;
                ending.files.clone()
            }
            (Some(row), Some((first, others))) => {
                self.finish_first(&mut tx, row, first, ending).await?;
                others.iter().chain(&ending.files).cloned().collect()
            }
        };
        for call in &rest {
            outbox::enqueue(&mut tx, call).await?;
        }
        tx.commit().await?;
        // More may wait by now than did when the transaction began.
        Ok(Some(Finished { awaited: true, ..finished }))
    }

    /// Makes the first piece the first part of the final text.
    async fn finish_first(
        &self,
        conn: &mut PgConnection,
        row: i64,
        first: &Call,
        Ending { parts, buttons, .. }: &Ending,
    ) -> sqlx::Result<()> {
        // One that has not left yet becomes the final text.
        if outbox::replace(conn, row, first).await? {
            return Ok(());
        }
        let buttons = if parts.len() == 1 { buttons.clone() } else { vec![] };
        if parts[0] == self.shown.text && buttons.is_empty() && !self.shown.stoppable {
            return Ok(());
        }
        let place = self.turn.place;
        let edit = edit_message(place, 0, &parts[0], buttons);
        outbox::enqueue(conn, &Call::reply(place.bot_id, place.chat_id, &edit).editing(row)).await.map(drop)
    }

    /// Takes the first piece back: it told of work and no words came of it.
    async fn withdraw(&self, conn: &mut PgConnection, row: i64) -> sqlx::Result<()> {
        let place = self.turn.place;
        let delete = DeleteMessage::new(ChatId(place.chat_id), MessageId(0));
        outbox::enqueue(conn, &Call::reply(place.bot_id, place.chat_id, &delete).editing(row)).await.map(drop)
    }

    /// The `index`th part as a new message; the last one has the buttons.
    fn message(&self, Ending { parts, buttons, .. }: &Ending, index: usize) -> Call {
        let place = self.turn.place;
        let buttons = if index + 1 == parts.len() { buttons.clone() } else { vec![] };
        Call::reply(place.bot_id, place.chat_id, &send_message(place, &parts[index], buttons))
    }
}
