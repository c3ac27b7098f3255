//! The sender: makes the outbox's calls.
//!
//! Replies go out at once; `retry_after` is obeyed to the letter; each chat's order is kept by the claim. "Sent" means
//! that Telegram said so and the row records its `message_id`. A claimed row is in flight: should this process die, the
//! row is found claimed by nobody alive and marked `uncertain` ([`outbox::take_back`]). Calls with an agent's file have a
//! lane of their own, few at once: they wait for agents and take long, and nobody else's words wait for them.

mod making;

pub(super) use making::in_chat;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::outbox::{self, Claimed, Ended, Kind, Lane};
use super::pace::Pace;
use crate::app::App;
use crate::floor::{self, Floor};
use crate::replica::Replica;
use crate::slots::{GATHER, Held, Slots, bounded, ids};
use crate::wake::Queue;

/// Calls under way at once.
const PARALLEL: usize = 128;
/// Calls with a file under way at once: each may be 50 MB that come and go.
const PARALLEL_FILES: usize = 4;
/// How often calls with a file are looked for at most.
const FILES_EVERY: Duration = Duration::from_millis(100);
/// Ends recorded in one statement at most.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);

/// What a call's task needs.
#[derive(Clone)]
struct Sending {
    app: App,
    replica: Replica,
    ends: mpsc::Sender<Ended>,
    held: Held<(i64, i32)>,
}

/// What the lanes share.
#[derive(Default)]
struct Lanes {
    /// Tells the lane of files that there may be something for it.
    files: Notify,
    /// Where the calls begin that nobody has claimed, of both.
    floor: Floor,
}

/// Makes calls until `stop`, then until those under way have ended.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let (pace, lanes) = (Arc::new(Mutex::new(Pace::new(Instant::now()))), Lanes::default());
    let lane = |lane| run_lane(app, replica, stop, lane, pace.clone(), &lanes);
    tokio::select! {
        _ = async { tokio::join!(lane(Lane::Words), lane(Lane::Files)) } => {}
        () = lanes.floor.keep(|from| floor::lowest_free(&app.db, floor::OUTBOX, app.bot_id, from)) => {}
    }
}

async fn run_lane(
    app: &App,
    replica: &Replica,
    stop: &CancellationToken,
    lane: Lane,
    pace: Arc<Mutex<Pace>>,
    lanes: &Lanes,
) {
    let what = match lane {
        Lane::Words => "calls to Telegram",
        Lane::Files => "files for Telegram",
    };
    let mut slots = Slots::new(if lane == Lane::Files { PARALLEL_FILES } else { PARALLEL });
    let (ends, to_record) = mpsc::channel(2 * PARALLEL);
    let recorder = tokio::spawn(record(app.clone(), replica.clone(), slots.held(), to_record));
    let sending = Sending { app: app.clone(), replica: replica.clone(), ends, held: slots.held() };
    while !stop.is_cancelled() {
        if lane == Lane::Words {
            heed_telegram(app, replica, &mut *pace.lock().await).await;
            lanes.files.notify_one();
        }
        if let Some(held) = slots.due() {
            let held = ids(held);
            slots.looked(what, bounded(outbox::release_strays(&app.db, replica.id(), lane, &held)).await);
        }
        let now = Instant::now();
        let free = slots.free();
        let allowed = pace.lock().await.allowance(now, free, replica.workers());
        if allowed.calls > 0 && replica.may_send() {
            let claim = {
                let most = (allowed.calls as i64, lanes.floor.get());
                outbox::claim(&app.db, replica.id(), app.bot_id, lane, most, allowed.notices)
            };
            let calls = slots.claim(what, claim).await.unwrap_or_default();
            lanes.floor.claimed(calls.iter().map(|call| call.id));
            let notices = calls.iter().filter(|c| c.kind == Kind::Notice).count();
            pace.lock().await.took(now, calls.len(), notices);
            // Files are claimed one by one.
            let more = !calls.is_empty() && (lane == Lane::Files || calls.len() == allowed.calls);
            for call in calls {
                slots.spawn_holding((call.id, call.attempt), making::make_or_hand_back(sending.clone(), call));
            }
            if more {
                continue;
            }
        }
        let woken = async {
            match lane {
                Lane::Words => app.wake.wait(Queue::Outbox, POLL).await,
                Lane::Files => {
                    // silent-ok: the time-out is the poll
                    let _ = tokio::time::timeout(POLL, lanes.files.notified()).await;
                    tokio::time::sleep(FILES_EVERY).await;
                }
            }
        };
        tokio::select! {
            () = woken, if free > 0 => {}
            () = slots.one_ends(), if free == 0 => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
    drop(sending);
    if recorder.await.is_err() {
        error!("the recorder of {what} panicked");
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
        // Nobody waits for it, so the next statement finds more.
        tokio::time::sleep(GATHER).await;
    }
}
