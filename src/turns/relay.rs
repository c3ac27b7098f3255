//! How an answer appears in its chat: typing, a first piece, edits in place, the final text.
//!
//! The first piece and the final text are outbox rows; what lies between are edits that nobody misses. Invariant: **the
//! final text's row is committed only after the last edit has returned** ([`Relay::settle`]); and should this process
//! die instead, its edits are over before its lease is ([`Replica::may_send`], [`Replica::call_timeout`]). So no edit
//! ever overwrites the final text.

use std::time::Duration;

use serde::Serialize;
use teloxide_core::requests::Payload;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument as _, debug, warn};

use super::drafts::Drafts;
use super::outcome::{End, Finished};
use super::status::put_below;
use super::store::{self, Claimed};
use crate::app::App;
use crate::database;
use crate::replica::Replica;
use crate::telegram::callback::Press;
use crate::telegram::markdown::{self, Formatted};
use crate::telegram::outbox::{self, Call, method_name};
use crate::telegram::text::{Buttons, edit_message, send_message};
use crate::telegram::verdict::{Verdict, judge};
use crate::telegram::{api, texts};
use crate::together::Together;
use crate::wake::Queue;

/// An answer that is whole by then goes out whole.
pub const FIRST_PIECE: Duration = Duration::from_millis(300);

/// The pace of edits; a longer text is edited less often ([`pace`]).
const EDIT_PACE: Duration = Duration::from_secs(1);

/// The same in a group, where Telegram takes 20 messages a minute, edits among them.
const GROUP_PACE: Duration = Duration::from_secs(3);

/// The claim of the turn was lost: whoever has it goes on.
#[derive(Debug)]
pub struct ClaimLost;

/// A growing message as its chat sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// The answer so far.
    pub text: Formatted,
    /// Whether there is a button to stop the turn.
    pub stoppable: bool,
}

/// What there is to show of an answer.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The text so far.
    pub markdown: &'a str,
    /// What the agent is doing, in one line.
    pub status: Option<&'a str>,
    /// Whether to offer a button that stops the turn.
    pub stoppable: bool,
}

/// The way to end turns that say all they have to say at once: together with others.
pub type Ends = Together<End, Option<Finished>>;

/// A turn's answer on its way into the chat.
pub struct Relay {
    pub(super) app: App,
    pub(super) replica: Replica,
    pub(super) turn: Claimed,
    /// When this replica took the turn up.
    pub(super) began: Instant,
    /// The outbox row of the first piece.
    pub(super) first_piece: Option<i64>,
    receipt: Option<oneshot::Receiver<Option<i64>>>,
    /// Telegram's id of the growing message.
    message_id: Option<i64>,
    /// What the growing message shows.
    pub(super) shown: Shown,
    /// The edit or draft under way.
    edit: Option<JoinHandle<Verdict>>,
    /// Where the answer grows as a draft instead of a message.
    drafts: Option<Drafts>,
    next_edit: Instant,
    /// The growing message is full; what comes now is shown with the final text.
    full: bool,
    /// The message cannot be edited any more.
    gone: bool,
    /// Nothing can be sent to the chat any more.
    unreachable: bool,
    /// Whether a commit's outcome is not known, so that only the database knows `first_piece`.
    pub(super) unsure: bool,
    pub(super) ends: Ends,
}

impl Relay {
    /// Goes on where a dead replica left off, if the turn has a first piece.
    pub fn new(app: App, replica: Replica, turn: Claimed, ends: Ends) -> Self {
        let drafts = Drafts::wanted(app.config.stream_mode, turn.place, turn.id);
        Self {
            first_piece: turn.first_piece,
            // What began as a message goes on as one.
            drafts: drafts.filter(|_| turn.first_piece.is_none()),
            app,
            replica,
            turn,
            began: Instant::now(),
            receipt: None,
            message_id: None,
            shown: Shown::default(),
            edit: None,
            next_edit: Instant::now() + FIRST_PIECE,
            full: false,
            gone: false,
            unreachable: false,
            unsure: false,
            ends,
        }
    }

    /// When [`Relay::show`] has something to do next.
    pub fn next_show(&self) -> Instant {
        self.next_edit
    }

    /// Whether the chat shows nothing of what the agent is saying: nothing is there yet, or the message is full.
    pub fn is_silent(&self) -> bool {
        match self.drafts {
            Some(_) => self.shown.text.text.is_empty(),
            None => self.first_piece.is_none() || self.full,
        }
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

    /// Brings the answer so far into the chat: a draft, the first piece, or an edit if the last one has returned.
    pub async fn show(&mut self, view: &View<'_>) -> Result<(), ClaimLost> {
        self.next_edit = Instant::now() + pace(self.turn.place.chat_id, view.markdown.len());
        if self.unsure {
            match store::first_piece(&self.app.db, &self.turn).await {
                Ok(row) => (self.first_piece, self.unsure) = (row, false),
                Err(error) => {
                    debug!(%error, "it is not known yet whether there is a first piece");
                    return Ok(());
                }
            }
        }
        if self.drafts.is_some() {
            self.show_draft(view).await;
            return Ok(());
        }
        let mut parts = markdown::growing(view.markdown).into_iter();
        let mut text = parts.next().unwrap_or_default();
        self.full = parts.next().is_some();
        if let Some(line) = view.status.filter(|_| !self.full) {
            put_below(&mut text, line);
        }
        let shown = Shown { text, stoppable: view.stoppable };
        if shown.text.text.is_empty() || shown == self.shown {
            return Ok(());
        }
        match self.first_piece {
            None => self.send_first_piece(shown).await,
            Some(row) => {
                self.learn_message_id(row).await;
                self.edit_to(shown).await;
                Ok(())
            }
        }
    }

    /// Shows the newest part of the answer as a draft.
    async fn show_draft(&mut self, view: &View<'_>) {
        if self.edit.as_ref().is_some_and(|edit| !edit.is_finished()) {
            return;
        }
        self.settle().await;
        let place = self.turn.place;
        let Some(drafts) = &mut self.drafts else { return };
        let mut text = markdown::growing(view.markdown).pop().unwrap_or_default();
        if let Some(line) = view.status {
            put_below(&mut text, line);
        }
        let may_go = self.app.holds.has_room(place.chat_id) && self.replica.may_send();
        if text.text.is_empty() || !may_go || (text == self.shown.text && !drafts.fades()) {
            return;
        }
        self.edit = Some(call(&self.app, &self.replica, &drafts.show(place, &text)));
        self.shown = Shown { text, stoppable: false };
    }

    async fn send_first_piece(&mut self, shown: Shown) -> Result<(), ClaimLost> {
        let place = self.turn.place;
        let buttons = self.stop_button(&shown);
        let call = Call::reply(place.bot_id, place.chat_id, &send_message(place, &shown.text, buttons));
        match self.commit_first_piece(&call).await {
            Ok(Some(row)) => {
                self.first_piece = Some(row);
                self.shown = shown;
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

    fn stop_button(&self, shown: &Shown) -> Buttons {
        match shown.stoppable {
            true => vec![vec![Press::StopTurn(self.turn.id).button(texts::STOP)]],
            false => vec![],
        }
    }

    async fn commit_first_piece(&mut self, call: &Call) -> sqlx::Result<Option<i64>> {
        let mut tx = database::begin(&self.app.db).await?;
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
                if done && message_id.is_none() && !self.gone {
                    self.gone = true;
                    self.ask_if_reachable().await;
                }
            }
            Err(error) => debug!(%error, "the first piece's message is not known yet"),
        }
    }

    /// The first piece was refused: perhaps the chat is gone.
    async fn ask_if_reachable(&mut self) {
        match store::is_unreachable(&self.app.db, self.turn.place).await {
            Ok(unreachable) => self.unreachable |= unreachable,
            Err(error) => debug!(%error, "it is not known whether the chat is gone"),
        }
    }

    async fn edit_to(&mut self, shown: Shown) {
        if self.edit.as_ref().is_some_and(|edit| !edit.is_finished()) {
            return;
        }
        self.settle().await;
        let place = self.turn.place;
        let Some(message_id) = self.message_id else { return };
        if self.gone || !self.app.holds.has_room(place.chat_id) || !self.replica.may_send() {
            return;
        }
        let payload = edit_message(place, message_id, &shown.text, self.stop_button(&shown));
        self.edit = Some(call(&self.app, &self.replica, &payload));
        self.shown = shown;
    }

    /// Waits for the edit or draft under way, if any, and heeds what Telegram said to it.
    pub async fn settle(&mut self) {
        let Some(edit) = self.edit.take() else { return };
        let verdict = edit.await;
        if matches!(verdict, Ok(Verdict::Done(_))) {
            self.drafts.iter_mut().for_each(Drafts::went_well);
            return;
        }
        // The message does not show what it was to show: the final text must not be taken for shown.
        self.shown = Shown::default();
        match verdict {
            Ok(Verdict::Wait(wait)) => return self.app.holds.flood(self.turn.place.chat_id, wait),
            Ok(Verdict::Unreachable(_)) => (self.gone, self.unreachable) = (true, true),
            verdict if self.drafts.is_some() => debug!(?verdict, "a draft was lost"),
            Ok(Verdict::SendAnew | Verdict::Refused(_) | Verdict::Moved(_)) => self.gone = true,
            verdict => debug!(?verdict, "an edit was lost; the next one or the final text makes up for it"),
        }
        if !self.drafts.as_mut().is_none_or(Drafts::went_wrong) {
            debug!("drafts do not work in this chat; the answer grows as a message");
            self.drafts = None;
        }
    }

    /// Whether nothing can be sent to the chat any more.
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }
}

/// Calls Telegram beside the rows, within the time that this replica's claims are good for.
fn call<P: Payload + Serialize>(app: &App, replica: &Replica, payload: &P) -> JoinHandle<Verdict> {
    // Payloads are plain structs with string keys, which always serialise.
    let (method, body) = (method_name::<P>(), serde_json::to_string(payload).unwrap_or_default());
    let (app, timeout) = (app.clone(), replica.call_timeout().min(api::TIMEOUT));
    let calling = async move { judge(&method, &app.telegram.call_raw(&method, body, timeout).await) };
    tokio::spawn(calling.in_current_span())
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(row) = self.first_piece {
            self.app.receipts.forget(row);
        }
    }
}

/// The time between edits: that of the chat's kind, and a second more per 2,000 bytes up to 4, as a long text is long to read
/// anyway.
fn pace(chat_id: i64, length: usize) -> Duration {
    let base = if chat_id < 0 { GROUP_PACE } else { EDIT_PACE };
    base + Duration::from_millis((length / 2) as u64).min(Duration::from_secs(4))
}
