//! The sender: makes the outbox's calls.
//!
//! Replies go out at once; `retry_after` is obeyed to the letter; each chat's order is kept by the claim. "Sent" means
//! that Telegram said so and the row records its `message_id`. A claimed row is in flight: should this process die, the
//! row is found claimed by nobody alive and marked `uncertain` ([`outbox::take_back`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::api;
use super::conversation;
use super::outbox::{self, Claimed, Ended, Kind};
use super::pace::Pace;
use super::verdict::{Verdict, judge};
use crate::app::App;
use crate::replica::Replica;
use crate::wake::Queue;

/// Calls under way at once.
const PARALLEL: usize = 128;
/// Ends recorded in one statement at most.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);

/// Those in this process who wait to learn a message's id; a mere shortcut, for the row says it too.
#[derive(Debug, Clone, Default)]
pub struct Receipts(Arc<Mutex<HashMap<i64, oneshot::Sender<Option<i64>>>>>);

impl Receipts {
    /// To be called before the row is committed.
    pub fn expect(&self, outbox_id: i64) -> oneshot::Receiver<Option<i64>> {
        let (tell, told) = oneshot::channel();
        self.lock().insert(outbox_id, tell);
        told
    }

    /// Nobody waits for this row any more.
    pub fn forget(&self, outbox_id: i64) {
        self.lock().remove(&outbox_id);
    }

    fn tell(&self, outbox_id: i64, message_id: Option<i64>) {
        if let Some(waiter) = self.lock().remove(&outbox_id) {
            let _ = waiter.send(message_id); // silent-ok: the waiter has gone
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, oneshot::Sender<Option<i64>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call's task needs.
#[derive(Clone)]
struct Sending {
    app: App,
    replica: Replica,
    ends: mpsc::Sender<Ended>,
    floods: mpsc::Sender<(i64, Duration)>,
}

/// Makes calls until `stop`, then until those under way have ended.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let (ends, to_record) = mpsc::channel(2 * PARALLEL);
    let (floods, mut flooded) = mpsc::channel(PARALLEL);
    let recorder = tokio::spawn(record(app.clone(), replica.clone(), to_record));
    let sending = Sending { app: app.clone(), replica: replica.clone(), ends, floods };
    let mut pace = Pace::new(Instant::now());
    let mut under_way = JoinSet::new();
    while !stop.is_cancelled() {
        while under_way.try_join_next().is_some() {}
        while let Ok((chat_id, wait)) = flooded.try_recv() {
            if pace.flooded(Instant::now(), chat_id) {
                warn!(?wait, "Telegram limits the whole bot; every replica pauses and slows down");
                if let Err(error) = pace.slow_down(&app.db, app.bot_id, wait, replica.workers()).await {
                    warn!(%error, "the other replicas could not be told to slow down");
                }
            }
        }
        if let Err(error) = pace.refresh(&app.db, app.bot_id).await {
            warn!(%error, "the bot's pace could not be read");
        }
        let now = Instant::now();
        let free = PARALLEL - under_way.len();
        let allowed = pace.allowance(now, free, replica.workers());
        if allowed.calls > 0 && replica.may_send() {
            match outbox::claim(&app.db, replica.id(), app.bot_id, allowed.calls as i64, allowed.notices).await {
                Ok(calls) => {
                    pace.took(now, calls.len(), calls.iter().filter(|c| c.kind == Kind::Notice).count());
                    let more = calls.len() == allowed.calls;
                    for call in calls {
                        under_way.spawn(make(sending.clone(), call));
                    }
                    if more {
                        continue;
                    }
                }
                Err(error) => {
                    warn!(%error, "calls to Telegram could not be claimed; trying again");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
        if free == 0 {
            under_way.join_next().await;
            continue;
        }
        tokio::select! {
            () = app.wake.wait(Queue::Outbox, POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    while under_way.join_next().await.is_some() {}
    drop(sending);
    if recorder.await.is_err() {
        error!("the recorder of calls to Telegram panicked");
    }
}

/// Makes one call and sees to its row.
async fn make(sending: Sending, mut call: Claimed) {
    let Sending { app, replica, ends, floods } = sending;
    let Some(mut body) = complete(&mut call) else {
        let error = Some("the message it was about was never sent".to_owned());
        record_end(&ends, &call, None, error, false).await;
        return;
    };
    // Telegram may ask for changes to a call (another chat, no topic, a new message); each is made once.
    for _ in 0..4 {
        if !replica.may_send() {
            hand_back(&app, &replica, &call, "this replica could not beat", false, false, Duration::ZERO).await;
            return;
        }
        let timeout = replica.call_timeout().min(api::TIMEOUT);
        let answer = app.telegram.call_raw(&call.method, body.clone(), timeout).await;
        match judge(&call.method, &answer) {
            Verdict::Done(message_id) => {
                let message_id = message_id.or(call.target);
                app.receipts.tell(call.id, message_id);
                record_end(&ends, &call, message_id, None, false).await;
                return;
            }
            Verdict::SendAnew => {
                debug!(outbox.id = call.id, "the message to edit is gone; sending a new one");
                call.method = "sendMessage".into();
                call.target = None;
                body = change(&body, |fields| drop(fields.remove("message_id")));
            }
            Verdict::WithoutThread => body = change(&body, |fields| drop(fields.remove("message_thread_id"))),
            Verdict::Moved(chat) => {
                info!(chat.id = call.chat_id, chat.new_id = chat, "the group has moved");
                body = change(&body, |fields| drop(fields.insert("chat_id".into(), chat.into())));
            }
            Verdict::Moot(why) => {
                debug!(outbox.id = call.id, why, "a call to Telegram came too late");
                record_end(&ends, &call, call.target, None, false).await;
                return;
            }
            Verdict::Unreachable(why) => {
                info!(chat.id = call.chat_id, why, "nothing can be sent to this chat any more");
                mark_unreachable(&app, &call).await;
                record_end(&ends, &call, None, Some(why), false).await;
                return;
            }
            Verdict::Refused(why) => {
                error!(outbox.id = call.id, call.method, why, "Telegram refuses a call for good");
                record_end(&ends, &call, None, Some(why), false).await;
                return;
            }
            Verdict::Wait(wait) => {
                debug!(chat.id = call.chat_id, ?wait, "Telegram wants this chat to wait");
                // silent-ok: the channel is as long as there are calls; a full one loses a mere hint.
                let _ = floods.try_send((call.chat_id, wait));
                hand_back(&app, &replica, &call, "Telegram wanted us to wait", false, false, wait).await;
                return;
            }
            Verdict::Retry(why) | Verdict::Uncertain(why) if call.stale => {
                error!(outbox.id = call.id, why, "a call failed for a day and is given up");
                record_end(&ends, &call, None, Some(why), false).await;
                return;
            }
            Verdict::Uncertain(why) if call.kind == Kind::Notice => {
                warn!(outbox.id = call.id, why, "it is uncertain whether a notice arrived; not sent again");
                record_end(&ends, &call, None, Some(why), true).await;
                return;
            }
            verdict @ (Verdict::Retry(_) | Verdict::Uncertain(_)) => {
                let uncertain = matches!(verdict, Verdict::Uncertain(_));
                let (Verdict::Retry(why) | Verdict::Uncertain(why)) = verdict else { return };
                let wait = backoff(call.failures);
                warn!(outbox.id = call.id, why, uncertain, ?wait, "a call to Telegram failed; trying again");
                hand_back(&app, &replica, &call, &why, uncertain, true, wait).await;
                return;
            }
        }
    }
    record_end(&ends, &call, None, Some("Telegram asked for one change after another".into()), false).await;
}

/// The call's parameters with what only the time of sending knows; `None` if there is nothing to act on.
fn complete(call: &mut Claimed) -> Option<String> {
    match (call.edits, call.target) {
        (None, _) => Some(std::mem::take(&mut call.payload)),
        (Some(_), Some(target)) => {
            Some(change(&call.payload, |fields| drop(fields.insert("message_id".into(), target.into()))))
        }
        (Some(_), None) if call.method == "editMessageText" => {
            call.method = "sendMessage".into();
            Some(change(&call.payload, |fields| drop(fields.remove("message_id"))))
        }
        (Some(_), None) => None,
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

async fn record_end(
    ends: &mpsc::Sender<Ended>,
    call: &Claimed,
    message_id: Option<i64>,
    error: Option<String>,
    uncertain: bool,
) {
    let ended = Ended { id: call.id, attempt: call.attempt, message_id, error, uncertain };
    if ends.send(ended).await.is_err() {
        error!(outbox.id = call.id, "the end of a call could not be recorded");
    }
}

async fn hand_back(
    app: &App,
    replica: &Replica,
    call: &Claimed,
    error: &str,
    uncertain: bool,
    counts: bool,
    wait: Duration,
) {
    // Until the row is free its chat waits, so this goes on until the database answers or the claim is gone anyway.
    while let Err(error) = outbox::postpone(&app.db, replica.id(), call, error, uncertain, counts, wait).await {
        if replica.lost().is_cancelled() {
            return;
        }
        warn!(%error, outbox.id = call.id, "a call could not be handed back; trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // To the second, not to the next poll; should this process end before, a poll finds the row.
    let app = app.clone();
    tokio::spawn(async move {
        tokio::time::sleep(wait.min(Duration::from_secs(60))).await;
        app.wake.wake(Queue::Outbox);
    });
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
async fn record(app: App, replica: Replica, mut ends: mpsc::Receiver<Ended>) {
    let mut batch = Vec::with_capacity(BATCH);
    while ends.recv_many(&mut batch, BATCH).await > 0 {
        // What is not recorded is in flight for ever, so this too goes on until the database answers.
        while let Err(error) = outbox::finish(&app.db, replica.id(), &batch).await {
            if replica.lost().is_cancelled() {
                break;
            }
            warn!(%error, calls = batch.len(), "ends of calls could not be recorded; trying again");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        batch.clear();
        // The chats' next calls may go out now.
        app.wake.wake_here(Queue::Outbox);
    }
}
