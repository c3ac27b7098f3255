//! How an answer appears in its chat: typing, a first piece, edits in place, the final text.
//!
//! The first piece and the final text are outbox rows; what lies between are edits that nobody misses. Invariant: **the
//! final text's row is committed only after the last edit has returned** ([`Relay::settle`]); and should this process
//! die instead, its edits are over before its lease is ([`Replica::may_send`], [`Replica::call_timeout`]). So no edit
//! ever overwrites the final text.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::store::{self, Claimed, Outcome};
use crate::app::App;
use crate::replica::Replica;
use crate::slots::bounded;
use crate::telegram::api;
use crate::telegram::markdown::{self, Formatted};
use crate::telegram::outbox::{self, Call, method_name};
use crate::telegram::text::{Buttons, edit_message, send_message};
use crate::telegram::texts;
use crate::telegram::verdict::{Verdict, judge};
use crate::wake::Queue;

/// An answer that is whole by then goes out whole.
pub const FIRST_PIECE: Duration = Duration::from_millis(300);

/// The pace of edits; a longer text is edited less often ([`pace`]).
const EDIT_PACE: Duration = Duration::from_secs(1);

/// The claim of the turn was lost: whoever has it goes on.
#[derive(Debug)]
pub struct ClaimLost;

/// A turn's answer on its way into the chat.
pub struct Relay {
    app: App,
    replica: Replica,
    turn: Claimed,
    /// The outbox row of the first piece.
    first_piece: Option<i64>,
    receipt: Option<oneshot::Receiver<Option<i64>>>,
    /// Telegram's id of the growing message.
    message_id: Option<i64>,
    /// What the growing message shows.
    shown: Formatted,
    edit: Option<JoinHandle<Verdict>>,
    next_edit: Instant,
    /// The growing message is full; what comes now is shown with the final text.
    full: bool,
    /// The message cannot be edited any more.
    gone: bool,
    /// Whether a commit's outcome is not known, so that only the database knows `first_piece`.
    unsure: bool,
}

impl Relay {
    /// Goes on where a dead replica left off, if the turn has a first piece.
    pub fn new(app: App, replica: Replica, turn: Claimed) -> Self {
        Self {
            first_piece: turn.first_piece,
            app,
            replica,
            turn,
            receipt: None,
            message_id: None,
            shown: Formatted::default(),
            edit: None,
            next_edit: Instant::now() + FIRST_PIECE,
            full: false,
            gone: false,
            unsure: false,
        }
    }

    /// When [`Relay::show`] has something to do next.
    pub fn next_show(&self) -> Instant {
        self.next_edit
    }

    /// The turn's id.
    pub fn turn_id(&self) -> uuid::Uuid {
        self.turn.id
    }

    /// Whether the chat shows nothing of what the agent is saying: nothing is there yet, or the message is full.
    pub fn is_silent(&self) -> bool {
        self.first_piece.is_none() || self.full
    }

    /// Shows "typing…", which lasts 5 s in the client. Nobody misses a lost one.
    pub fn type_now(&self) {
        if !self.replica.may_send() || !self.app.holds.has_room(self.turn.place.chat_id) {
            return;
        }
        let (app, place) = (self.app.clone(), self.turn.place);
        tokio::spawn(async move {
            let mut payload = serde_json::json!({"chat_id": place.chat_id, "action": "typing"});
            if let Some(thread) = place.thread_id {
                payload["message_thread_id"] = thread.into();
            }
            let answer = app.telegram.call_raw("sendChatAction", payload.to_string(), Duration::from_secs(5)).await;
            match judge("sendChatAction", &answer) {
                Verdict::Done(_) => {}
                Verdict::Wait(wait) => app.holds.flood(place.chat_id, wait),
                verdict => debug!(?verdict, "typing was not shown"),
            }
        });
    }

    /// Brings the answer so far into the chat: the first piece, or an edit if the last one has returned.
    pub async fn show(&mut self, markdown: &str) -> Result<(), ClaimLost> {
        self.next_edit = Instant::now() + pace(markdown.len());
        if self.unsure {
            match store::first_piece(&self.app.db, &self.turn).await {
                Ok(row) => (self.first_piece, self.unsure) = (row, false),
                Err(error) => {
                    debug!(%error, "it is not known yet whether there is a first piece");
                    return Ok(());
                }
            }
        }
        let mut parts = markdown::messages(markdown).into_iter();
        let Some(part) = parts.next() else { return Ok(()) };
        self.full = parts.next().is_some();
        if part == self.shown {
            return Ok(());
        }
        match self.first_piece {
            None => self.send_first_piece(part).await,
            Some(row) => {
                self.learn_message_id(row).await;
                self.edit_to(part).await;
                Ok(())
            }
        }
    }

    async fn send_first_piece(&mut self, part: Formatted) -> Result<(), ClaimLost> {
        let place = self.turn.place;
        let call = Call::reply(place.bot_id, place.chat_id, &send_message(place, &part, vec![]));
        match self.commit_first_piece(&call).await {
            Ok(Some(row)) => {
                self.first_piece = Some(row);
                self.shown = part;
                self.app.wake.wake(Queue::Outbox);
                Ok(())
            }
            Ok(None) => Err(ClaimLost),
            Err(error) => {
                // The final text needs no first piece; but it must know of one that is there after all.
                warn!(%error, "a first piece could not be queued");
                self.unsure = true;
                Ok(())
            }
        }
    }

    async fn commit_first_piece(&mut self, call: &Call) -> sqlx::Result<Option<i64>> {
        let mut tx = self.app.db.begin().await?;
        let row = outbox::enqueue(&mut tx, call).await?;
        if !store::set_first_piece(&mut tx, self.replica.id(), &self.turn, row).await? {
            return Ok(None);
        }
        self.receipt = Some(self.app.receipts.expect(row));
        let committed = tx.commit().await;
        if committed.is_err() {
            self.app.receipts.forget(row);
        }
        committed.map(|()| Some(row))
    }

    async fn learn_message_id(&mut self, row: i64) {
        if self.message_id.is_some() {
            return;
        }
        if let Some(receipt) = &mut self.receipt
            && let Ok(told) = receipt.try_recv()
        {
            self.message_id = told;
            return;
        }
        // Another replica sent it, or a dead one had the receipt.
        match outbox::outcome(&self.app.db, row).await {
            Ok((done, message_id)) => {
                self.message_id = message_id;
                self.gone |= done && message_id.is_none();
            }
            Err(error) => debug!(%error, "the first piece's message is not known yet"),
        }
    }

    async fn edit_to(&mut self, part: Formatted) {
        if self.edit.as_ref().is_some_and(|edit| !edit.is_finished()) {
            return;
        }
        self.settle().await;
        let Some(message_id) = self.message_id else { return };
        if self.gone || !self.app.holds.has_room(self.turn.place.chat_id) || !self.replica.may_send() {
            return;
        }
        let payload = edit_message(self.turn.place, message_id, &part, vec![]);
        let Ok(body) = serde_json::to_string(&payload) else { return };
        let (app, timeout) = (self.app.clone(), self.replica.call_timeout().min(api::TIMEOUT));
        self.edit = Some(tokio::spawn(async move {
            let method = method_name::<teloxide_core::payloads::EditMessageText>();
            judge(&method, &app.telegram.call_raw(&method, body, timeout).await)
        }));
        self.shown = part;
    }

    /// Waits for the edit under way, if any, and heeds what Telegram said to it.
    pub async fn settle(&mut self) {
        let Some(edit) = self.edit.take() else { return };
        let verdict = edit.await;
        if matches!(verdict, Ok(Verdict::Done(_))) {
            return;
        }
        // The message does not show what it was to show: the final text must not be taken for shown.
        self.shown = Formatted::default();
        match verdict {
            Ok(Verdict::Wait(wait)) => self.app.holds.flood(self.turn.place.chat_id, wait),
            Ok(Verdict::SendAnew | Verdict::Unreachable(_) | Verdict::Refused(_) | Verdict::Moved(_)) => {
                self.gone = true
            }
            verdict => debug!(?verdict, "an edit was lost; the next one or the final text makes up for it"),
        }
    }

    /// Ends the turn: its outcome, and the final text as outbox rows, in one transaction.
    pub async fn finish(&mut self, outcome: &Outcome, markdown: &str, buttons: Buttons) -> Result<(), ClaimLost> {
        self.settle().await;
        let mut parts = markdown::messages(markdown);
        if parts.is_empty() {
            // Markdown of which nothing is to be seen.
            parts = markdown::messages(texts::NOTHING_TO_SAY);
        }
        let mut wait = Duration::from_millis(200);
        // Until the outcome is stored the turn is claimed and its chat waits.
        loop {
            match bounded(self.try_finish(outcome, &parts, &buttons)).await {
                Ok(true) => break,
                Ok(false) => return Err(ClaimLost),
                Err(error) if self.replica.lost().is_cancelled() => {
                    warn!(%error, "an answer could not be stored, and the claim is lost anyway");
                    return Err(ClaimLost);
                }
                Err(error) => warn!(%error, "an answer could not be stored; trying again"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
        self.app.wake.wake(Queue::Outbox);
        Ok(())
    }

    async fn try_finish(&self, outcome: &Outcome, parts: &[Formatted], buttons: &Buttons) -> sqlx::Result<bool> {
        let (replica, turn) = (self.replica.id(), &self.turn);
        let messages: Vec<Call> = (0..parts.len()).map(|index| self.message(parts, index, buttons)).collect();
        if self.first_piece.is_none() && !self.unsure {
            let mut conn = self.app.db.acquire().await?;
            return Ok(store::finish(&mut conn, replica, turn, outcome, &messages).await?.is_some());
        }
        let mut tx = self.app.db.begin().await?;
        let Some(finished) = store::finish(&mut tx, replica, turn, outcome, &[]).await? else { return Ok(false) };
        for (index, message) in messages.iter().enumerate() {
            match finished.first_piece.filter(|_| index == 0) {
                Some(row) => self.finish_first(&mut tx, row, message, parts, buttons).await?,
                None => drop(outbox::enqueue(&mut tx, message).await?),
            }
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Makes the first piece the first part of the final text.
    async fn finish_first(
        &self,
        conn: &mut PgConnection,
        row: i64,
        message: &Call,
        parts: &[Formatted],
        buttons: &Buttons,
    ) -> sqlx::Result<()> {
        // One that has not left yet becomes the final text.
        if outbox::replace(conn, row, message).await? {
            return Ok(());
        }
        let buttons = if parts.len() == 1 { buttons.clone() } else { vec![] };
        if parts[0] == self.shown && buttons.is_empty() {
            return Ok(());
        }
        let place = self.turn.place;
        let edit = edit_message(place, 0, &parts[0], buttons);
        outbox::enqueue(conn, &Call::reply(place.bot_id, place.chat_id, &edit).editing(row)).await.map(drop)
    }

    /// The `index`th part as a new message; the last one has the buttons.
    fn message(&self, parts: &[Formatted], index: usize, buttons: &Buttons) -> Call {
        let place = self.turn.place;
        let buttons = if index + 1 == parts.len() { buttons.clone() } else { vec![] };
        Call::reply(place.bot_id, place.chat_id, &send_message(place, &parts[index], buttons))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(row) = self.first_piece {
            self.app.receipts.forget(row);
        }
    }
}

/// Seconds between edits: one, and one more per 2,000 bytes, as a long text is long to read anyway.
fn pace(length: usize) -> Duration {
    EDIT_PACE + Duration::from_millis((length / 2) as u64).min(Duration::from_secs(4))
}
