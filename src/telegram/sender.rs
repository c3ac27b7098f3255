//! The sender: makes the outbox's calls.
//!
//! Replies go out at once; `retry_after` is obeyed to the letter; each chat's order is kept by the claim. "Sent" means
//! that Telegram said so and the row records its `message_id`. A claimed row is in flight: should this process die, the
//! row is found claimed by nobody alive and marked `uncertain` ([`outbox::take_back`]).

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::api;
use super::conversation;
use super::outbox::{self, Claimed, Ended, Kind};
use super::pace::Pace;
use super::verdict::{Verdict, judge, sends};
use crate::app::App;
use crate::replica::Replica;
use crate::slots::{Held, Slots, bounded, ids};
use crate::wake::Queue;

/// Calls under way at once.
const PARALLEL: usize = 128;
/// Ends recorded in one statement at most.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);
/// Lost answers after which a message is not sent again: each may be one more of the same in the chat.
const MAX_LOSSES: i32 = 5;

/// What a call's task needs.
#[derive(Clone)]
struct Sending {
    app: App,
    replica: Replica,
    ends: mpsc::Sender<Ended>,
    held: Held<(i64, i32)>,
}

/// Makes calls until `stop`, then until those under way have ended.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let mut slots = Slots::new(PARALLEL);
    let (ends, to_record) = mpsc::channel(2 * PARALLEL);
    let recorder = tokio::spawn(record(app.clone(), replica.clone(), slots.held(), to_record));
    let sending = Sending { app: app.clone(), replica: replica.clone(), ends, held: slots.held() };
    let mut pace = Pace::new(Instant::now());
    while !stop.is_cancelled() {
        heed_telegram(app, replica, &mut pace).await;
        if let Some(held) = slots.due() {
            slots.looked("calls to Telegram", bounded(outbox::release_strays(&app.db, replica.id(), &ids(held))).await);
        }
        let now = Instant::now();
        let free = slots.free();
        let allowed = pace.allowance(now, free, replica.workers());
        if allowed.calls > 0 && replica.may_send() {
            let claim = outbox::claim(&app.db, replica.id(), app.bot_id, allowed.calls as i64, allowed.notices);
            let calls = slots.claim("calls to Telegram", claim).await.unwrap_or_default();
            pace.took(now, calls.len(), calls.iter().filter(|c| c.kind == Kind::Notice).count());
            let more = calls.len() == allowed.calls;
            for call in calls {
                slots.spawn_holding((call.id, call.attempt), make_or_hand_back(sending.clone(), call));
            }
            if more {
                continue;
            }
        }
        tokio::select! {
            () = app.wake.wait(Queue::Outbox, POLL), if free > 0 => {}
            () = slots.one_ends(), if free == 0 => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
    drop(sending);
    if recorder.await.is_err() {
        error!("the recorder of calls to Telegram panicked");
    }
}

/// Tells the other replicas of floods that mean the whole bot, and learns of theirs.
async fn heed_telegram(app: &App, replica: &Replica, pace: &mut Pace) {
    for (chat_id, wait) in app.holds.take_floods() {
        if pace.flooded(Instant::now(), chat_id) {
            warn!(?wait, "Telegram limits the whole bot; every replica pauses and slows down");
            if let Err(error) = bounded(pace.slow_down(&app.db, app.bot_id, wait, replica.workers())).await {
                warn!(%error, "the other replicas could not be told to slow down");
            }
        }
    }
    match bounded(pace.refresh(&app.db, app.bot_id)).await {
        Ok(()) => app.holds.set_pace(pace.paused_until(), pace.is_limited()),
        Err(error) => warn!(%error, "the bot's pace could not be read"),
    }
}

/// Makes a call; should that panic, nobody knows how far it came.
async fn make_or_hand_back(sending: Sending, call: Claimed) {
    let making = AssertUnwindSafe(make(sending.clone(), call.clone())).catch_unwind();
    if making.await.is_err() {
        error!(outbox.id = call.id, call.method, "making a call to Telegram panicked");
        let again = Again {
            wait: Duration::from_secs(30),
            failed: true,
            uncertain: sends(&call.method) || call.edits.is_some(),
        };
        sending.hand_back(&call, "making the call panicked", again).await;
    }
}

/// Makes one call and sees to its row.
async fn make(sending: Sending, mut call: Claimed) {
    let Some(mut body) = sending.complete(&mut call).await else { return };
    let Sending { app, replica, .. } = &sending;
    // Telegram may ask for changes to a call (another chat, no topic, a new message); each is made once.
    for _ in 0..4 {
        if !replica.may_send() {
            return sending.hand_back(&call, "this replica could not beat", Again::later(Duration::ZERO)).await;
        }
        if let Some(wait) = app.holds.wait(call.chat_id) {
            return sending.hand_back(&call, "Telegram wanted us to wait", Again::later(wait)).await;
        }
        let timeout = replica.call_timeout().min(api::TIMEOUT);
        let answer = app.telegram.call_raw(&call.method, body.clone(), timeout).await;
        match judge(&call.method, &answer) {
            Verdict::Done(message_id) => {
                if let (Some(message_id), Some(row), "sendMessage") = (message_id, call.edits, call.method.as_str()) {
                    sending.message_moved(row, message_id).await;
                }
                let message_id = message_id.or(call.target);
                app.receipts.tell(call.id, message_id);
                return sending.end(&call, message_id, None, false).await;
            }
            Verdict::SendAnew => {
                debug!(outbox.id = call.id, "the message to edit is gone; sending a new one");
                body = change(&body, |fields| drop(fields.remove("message_id")));
                if !sending.becomes_send(&mut call, &body).await {
                    return;
                }
            }
            Verdict::WithoutThread => body = change(&body, |fields| drop(fields.remove("message_thread_id"))),
            Verdict::Moved(chat) => {
                info!(chat.id = call.chat_id, chat.new_id = chat, "the group has moved");
                body = change(&body, |fields| drop(fields.insert("chat_id".into(), chat.into())));
            }
            Verdict::Moot(why) => {
                debug!(outbox.id = call.id, why, "a call to Telegram came too late");
                return sending.end(&call, call.target, None, false).await;
            }
            Verdict::Unreachable(why) => {
                info!(chat.id = call.chat_id, why, "nothing can be sent to this chat any more");
                mark_unreachable(app, &call).await;
                return sending.end(&call, None, Some(why), false).await;
            }
            Verdict::Refused(why) => {
                error!(outbox.id = call.id, call.method, why, "Telegram refuses a call for good");
                return sending.end(&call, None, Some(why), false).await;
            }
            Verdict::Wait(wait) => {
                debug!(chat.id = call.chat_id, ?wait, "Telegram wants this chat to wait");
                app.holds.flood(call.chat_id, wait);
                return sending.hand_back(&call, "Telegram wanted us to wait", Again::later(wait)).await;
            }
            Verdict::Retry(why) | Verdict::Uncertain(why) if call.stale => {
                error!(outbox.id = call.id, why, "a call failed for a day and is given up");
                return sending.end(&call, None, Some(why), false).await;
            }
            Verdict::Uncertain(why) if call.kind == Kind::Notice || call.losses >= MAX_LOSSES => {
                warn!(outbox.id = call.id, why, "it is uncertain whether a message arrived; not sent again");
                return sending.end(&call, None, Some(why), true).await;
            }
            Verdict::Retry(why) => {
                let again = Again { wait: backoff(call.failures), failed: true, uncertain: false };
                warn!(outbox.id = call.id, why, wait = ?again.wait, "a call to Telegram failed; trying again");
                return sending.hand_back(&call, &why, again).await;
            }
            Verdict::Uncertain(why) => {
                let again = Again { wait: backoff(call.failures), failed: true, uncertain: true };
                warn!(outbox.id = call.id, why, wait = ?again.wait, "Telegram's answer was lost; sending again");
                return sending.hand_back(&call, &why, again).await;
            }
        }
    }
    sending.end(&call, None, Some("Telegram asked for one change after another".into()), false).await;
}

/// How a call that is handed back is made again.
#[derive(Debug, Clone, Copy)]
struct Again {
    wait: Duration,
    /// Whether this attempt counts as a failure.
    failed: bool,
    uncertain: bool,
}

impl Again {
    /// Not a failure: it was not, or not yet, to be sent.
    fn later(wait: Duration) -> Self {
        Self { wait, failed: false, uncertain: false }
    }
}

impl Sending {
    /// The call's parameters with what only the time of sending knows; `None` if there is nothing more to do about it.
    async fn complete(&self, call: &mut Claimed) -> Option<String> {
        match (call.method.as_str(), call.edits, call.target) {
            (_, None, _) | ("sendMessage", ..) => Some(std::mem::take(&mut call.payload)),
            (_, Some(_), Some(target)) => {
                Some(change(&call.payload, |fields| drop(fields.insert("message_id".into(), target.into()))))
            }
            ("editMessageText", Some(_), None) => {
                let body = change(&call.payload, |fields| drop(fields.remove("message_id")));
                self.becomes_send(call, &body).await.then_some(body)
            }
            _ => {
                self.end(call, None, Some("the message it was about was never sent".to_owned()), false).await;
                None
            }
        }
    }

    /// Makes an edit a new message, and notes that first: a send that a kill interrupts must be known as one.
    async fn becomes_send(&self, call: &mut Claimed, body: &str) -> bool {
        call.method = "sendMessage".into();
        match outbox::becomes_send(&self.app.db, self.replica.id(), call, body).await {
            Ok(true) => true,
            Ok(false) => {
                self.held.let_go(&(call.id, call.attempt));
                false
            }
            Err(error) => {
                self.hand_back(
                    call,
                    &error.to_string(),
                    Again { failed: true, ..Again::later(backoff(call.failures)) },
                )
                .await;
                false
            }
        }
    }

    async fn message_moved(&self, row: i64, message_id: i64) {
        if let Err(error) = outbox::moved(&self.app.db, row, message_id).await {
            warn!(%error, outbox.id = row, "a message's new id could not be saved; its next edit is sent anew");
        }
    }

    async fn end(&self, call: &Claimed, message_id: Option<i64>, error: Option<String>, uncertain: bool) {
        let ended = Ended { id: call.id, attempt: call.attempt, message_id, error, uncertain };
        if self.ends.send(ended).await.is_err() {
            error!(outbox.id = call.id, "the end of a call could not be recorded");
        }
    }

    async fn hand_back(&self, call: &Claimed, why: &str, again: Again) {
        let Again { wait, failed, uncertain } = again;
        // Until the row is free its chat waits, so this goes on until the database answers or the claim is gone anyway.
        while let Err(error) =
            bounded(outbox::postpone(&self.app.db, self.replica.id(), call, why, uncertain, failed, wait)).await
        {
            if self.replica.lost().is_cancelled() {
                break;
            }
            warn!(%error, outbox.id = call.id, "a call could not be handed back; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.held.let_go(&(call.id, call.attempt));
        // To the second, not to the next poll; should this process end before, a poll finds the row.
        let app = self.app.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait.min(Duration::from_secs(60))).await;
            app.wake.wake(Queue::Outbox);
        });
    }
}

fn change(body: &str, with: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> String {
    let mut fields = serde_json::from_str(body).unwrap_or_default();
    with(&mut fields);
    serde_json::Value::Object(fields).to_string()
}

/// 0.25 s, doubling to half a minute, with a random bit so that calls that failed together do not return together.
fn backoff(failures: i32) -> Duration {
    let seconds = 0.25 * 2f64.powi(failures.clamp(0, 7));
    Duration::from_secs_f64(seconds.min(30.0) * rand::random_range(0.8..1.2))
}

async fn mark_unreachable(app: &App, call: &Claimed) {
    let marked = match app.db.acquire().await {
        Ok(mut conn) => conversation::set_reachable(&mut conn, app.bot_id, call.chat_id, false).await,
        Err(error) => Err(error),
    };
    if let Err(error) = marked {
        warn!(%error, chat.id = call.chat_id, "the chat could not be marked unreachable");
    }
}

/// Records ends, all that wait at the same moment in one statement.
async fn record(app: App, replica: Replica, held: Held<(i64, i32)>, mut ends: mpsc::Receiver<Ended>) {
    let mut batch = Vec::with_capacity(BATCH);
    while ends.recv_many(&mut batch, BATCH).await > 0 {
        // What is not recorded is in flight for ever, so this too goes on until the database answers.
        while let Err(error) = bounded(outbox::finish(&app.db, replica.id(), &batch)).await {
            if replica.lost().is_cancelled() {
                break;
            }
            warn!(%error, calls = batch.len(), "ends of calls could not be recorded; trying again");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        for ended in batch.drain(..) {
            held.let_go(&(ended.id, ended.attempt));
        }
        // The chats' next calls may go out now.
        app.wake.wake_here(Queue::Outbox);
    }
}
