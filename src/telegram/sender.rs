//! The sender: makes the outbox's calls.
//!
//! Replies go out at once; `retry_after` is obeyed to the letter; each chat's order is kept by the claim. "Sent" means
//! that Telegram said so and the row records its `message_id`. A claimed row is in flight: should this process die, the
//! row is found claimed by nobody alive and marked `uncertain` ([`outbox::take_back`]). Calls with an agent's file have a
//! lane of their own, few at once: they wait for agents and take long, and nobody else's words wait for them.

mod making;

pub(super) use making::in_chat;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::outbox::{self, Claimed, Ended, Kind, Lane};
use super::pace::Pace;
use crate::app::App;
use crate::floor::{self, Floor};
use crate::handover::{Giving, Hand, Prepared, Taking, handover};
use crate::replica::Replica;
use crate::slots::{GATHER, Held, Hold, Slots, bounded};
use crate::wake::Queue;

/// Calls in hand at once.
const PARALLEL: usize = 192;
/// Calls with a file under way at once: each may be 50 MB that come and go.
const PARALLEL_FILES: usize = 4;
/// How often calls with a file are looked for at most.
const FILES_EVERY: Duration = Duration::from_millis(100);
/// Ends recorded in one statement at most.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);
/// How long to wait for a place.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// A call's row and the attempt.
type Key = (i64, i32);

/// The way to the sender of this process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    replica: Replica,
    giving: Giving<Key, Claimed>,
    pace: Arc<Mutex<Pace>>,
}

/// The sender's end of it.
#[derive(Debug)]
pub struct Inlet {
    taking: Taking<Key, Claimed>,
    pace: Arc<Mutex<Pace>>,
}

/// The two ends.
pub fn inlet(replica: &Replica) -> (Sender, Inlet) {
    let (giving, taking) = handover(PARALLEL);
    let pace = Arc::new(Mutex::new(Pace::new(Instant::now())));
    (Sender { replica: replica.clone(), giving, pace: pace.clone() }, Inlet { taking, pace })
}

impl Sender {
    /// Prepares for up to `wanted` replies that may come into being claimed. None, while Telegram limits the whole bot: then claims share
    /// out what may be sent.
    pub fn prepare(&self, wanted: usize) -> Prepared<Key, Claimed> {
        let free = |pace: &Pace| !pace.is_limited() && pace.paused_until() <= Instant::now() && self.replica.may_send();
        // silent-ok: at the moment it is being changed
        let may = self.pace.try_lock().is_ok_and(|pace| free(&pace));
        self.giving.prepare(if may { wanted } else { 0 })
    }
}

/// What a call's task needs.
#[derive(Clone)]
struct Sending {
    app: App,
    replica: Replica,
    ends: mpsc::Sender<Ended>,
    held: Held<Key>,
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
pub async fn run(app: &App, replica: &Replica, Inlet { taking, pace }: Inlet, stop: &CancellationToken) {
    let lanes = Lanes::default();
    let (_, files) = handover(0);
    let lane = |lane, taking| run_lane(app, replica, stop, lane, taking, &pace, &lanes);
    tokio::select! {
        _ = async { tokio::join!(lane(Lane::Words, taking), lane(Lane::Files, files)) } => {}
        () = lanes.floor.keep(|from| floor::lowest_free(&app.db, floor::OUTBOX, app.bot_id, from)) => {}
    }
}

/// Makes the calls of a lane: those that come into being claimed, and those that are claimed.
async fn run_lane(
    app: &App,
    replica: &Replica,
    stop: &CancellationToken,
    lane: Lane,
    taking: Taking<Key, Claimed>,
    pace: &Mutex<Pace>,
    lanes: &Lanes,
) {
    let hand = taking.hand.clone();
    let (ends, to_record) = mpsc::channel(2 * PARALLEL);
    let recorder = tokio::spawn(record(app.clone(), replica.clone(), hand.held.clone(), to_record));
    let sending = Sending { app: app.clone(), replica: replica.clone(), ends, held: hand.held.clone() };
    let came = AtomicUsize::new(0);
    let taken = taking.work(stop, |hold: Hold<Key>, call: Claimed| {
        came.fetch_add(1, Ordering::Relaxed);
        lanes.floor.claimed([call.id]);
        hold.keep();
        making::make_or_hand_back(sending.clone(), call)
    });
    tokio::join!(claim_and_make(&sending, stop, lane, (&hand, &came), (pace, lanes)), taken);
    drop(sending);
    if recorder.await.is_err() {
        error!("the recorder of {} panicked", what(lane));
    }
}

/// What a lane's rows are called.
fn what(lane: Lane) -> &'static str {
    match lane {
        Lane::Words => "calls to Telegram",
        Lane::Files => "files for Telegram",
    }
}

/// Claims calls and makes them. How many `came` unclaimed is noted for the pace.
async fn claim_and_make(
    sending: &Sending,
    stop: &CancellationToken,
    lane: Lane,
    (hand, came): (&Hand<Key>, &AtomicUsize),
    (pace, lanes): (&Mutex<Pace>, &Lanes),
) {
    let Sending { app, replica, .. } = sending;
    let (what, most) = (what(lane), if lane == Lane::Files { PARALLEL_FILES } else { PARALLEL });
    let mut slots = Slots::holding(most, hand.held.clone());
    while !stop.is_cancelled() {
        if lane == Lane::Words {
            let mut pace = pace.lock().await;
            pace.took(Instant::now(), came.swap(0, Ordering::Relaxed), 0);
            heed_telegram(app, replica, &mut pace).await;
            lanes.files.notify_one();
        }
        if slots.due().is_some() {
            let claimed = outbox::claimed_by(&app.db, replica.id(), lane);
            let release = |strays| outbox::release(&app.db, replica.id(), strays);
            slots.looked(what, bounded(hand.release_strays(claimed, release)).await);
        }
        let now = Instant::now();
        let free = slots.room();
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
            () = tokio::time::sleep(FULL_WAIT), if free == 0 => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
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
async fn record(app: App, replica: Replica, held: Held<Key>, mut ends: mpsc::Receiver<Ended>) {
    let mut batch = Vec::with_capacity(BATCH);
    while ends.recv_many(&mut batch, BATCH).await > 0 {
        // What is not recorded is in flight for ever, so this too goes on until the database answers.
        let rung = app.wake.rung(Queue::Outbox);
        let awaited = loop {
            match bounded(outbox::finish(&app.db, replica.id(), &batch)).await {
                Ok(awaited) => break awaited,
                Err(_) if replica.lost().is_cancelled() => break true,
                Err(error) => {
                    warn!(%error, calls = batch.len(), "ends of calls could not be recorded; trying again");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        for ended in batch.drain(..) {
            held.let_go(&(ended.id, ended.attempt));
        }
        // The chats' next calls may go out now.
        if awaited || app.wake.rung(Queue::Outbox) != rung {
            app.wake.wake_here(Queue::Outbox);
        }
        // Nobody waits for it, so the next statement finds more.
        tokio::time::sleep(GATHER).await;
    }
}
