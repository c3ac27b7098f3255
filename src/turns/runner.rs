//! Runs turns: in order per (chat, agent), as many at once as there are.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};
use uuid::Uuid;

use super::answering::{self, Work};
use super::forgetting;
use super::outcome::{self, End};
use super::relay::{ClaimLost, Ends, Relay};
use super::stopping::Stops;
use super::store::{self, Claimed, Kind};
use crate::app::App;
use crate::floor::{self, Floor};
use crate::handover::{Hand, Taking};
use crate::replica::Replica;
use crate::slots::{Slots, bounded};
use crate::telegram::sender::Sender;
use crate::together::{Sharing, Together};
use crate::trace;
use crate::wake::Queue;

/// Turns under way at once; each waits for its agent nearly all the time.
pub const PARALLEL: usize = 5_000;
/// How long to wait for one of that many to end.
const FULL_WAIT: Duration = Duration::from_millis(20);
/// Turns claimed at once.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);

/// What the turns of one runner share.
#[derive(Clone)]
struct Runner {
    app: App,
    replica: Replica,
    stop: CancellationToken,
    stops: Stops,
    ends: Ends,
}

/// Runs turns until `stop`, then hands back those under way: an agent goes on by itself, and whoever claims the turn next
/// attaches to it.
pub async fn run(
    app: &App,
    replica: &Replica,
    (taking, sender): (Taking<(Uuid, i32), Claimed>, Sender),
    stop: &CancellationToken,
) {
    let (db, id) = (app.db.clone(), replica.id());
    let ends = Together::start(Sharing::Gathering, move |ends: Arc<[End]>| {
        let (db, sender) = (db.clone(), sender.clone());
        async move { bounded(outcome::finish_and_hand_over(&db, id, &ends, &sender)).await }
    });
    let runner =
        Runner { app: app.clone(), replica: replica.clone(), stop: stop.clone(), stops: Stops::default(), ends };
    let floor = Floor::default();
    let hand = taking.hand.clone();
    let taken = taking.work(stop, |hold, turn: Claimed| {
        floor.claimed([turn.position]);
        let runner = runner.clone();
        async move {
            if runner.stop.is_cancelled() {
                hand_back(&runner.app, &runner.replica, &turn, Duration::ZERO, false).await;
            } else {
                run_one(runner, turn).await;
            }
            drop(hold);
        }
    });
    tokio::select! {
        _ = async { tokio::join!(claim_and_run(&runner, &hand, &floor), taken) } => {}
        () = floor.keep(|from| floor::lowest_free(&app.db, floor::TURNS, app.bot_id, from)) => {}
        // Until the last turn has ended: one that is to be stopped need not wait for another replica.
        () = runner.stops.watch(app, replica) => {}
    }
}

async fn claim_and_run(runner: &Runner, hand: &Hand<(Uuid, i32)>, floor: &Floor) {
    let Runner { app, replica, stop, .. } = runner;
    let mut slots = Slots::holding(PARALLEL, hand.held.clone());
    while !stop.is_cancelled() {
        if slots.due().is_some() {
            let claimed = store::claimed_by(&app.db, replica.id());
            let release = |strays| store::release(&app.db, replica.id(), strays);
            slots.looked("turns", bounded(hand.release_strays(claimed, release)).await);
        }
        let free = slots.room().min(BATCH);
        if free == 0 {
            tokio::time::sleep(FULL_WAIT).await;
            continue;
        }
        let claim = store::claim(&app.db, replica.id(), app.bot_id, free as i64, floor.get());
        let turns = slots.claim("turns", claim).await.unwrap_or_default();
        floor.claimed(turns.iter().map(|turn| turn.position));
        let more = turns.len() == free;
        for turn in turns {
            slots.spawn((turn.id, turn.attempt), run_one(runner.clone(), turn));
        }
        if more {
            continue;
        }
        tokio::select! {
            () = app.wake.wait(Queue::Turns, POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
}

async fn run_one(runner: Runner, turn: Claimed) {
    let Runner { app, replica, stop, stops, ends } = runner;
    let under_way = stops.enter(turn.id, turn.attempt, turn.cancel_requested);
    let span = info_span!("turn", turn.id = %turn.id, agent.id = turn.agent_id, chat.id = turn.place.chat_id);
    trace::follow(&span, turn.trace_context.as_deref());
    async {
        let work = Work { app: &app, replica: &replica, turn: &turn, stop: &stop, stopped: under_way.stopped() };
        match AssertUnwindSafe(drive(&work, ends)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(ClaimLost)) => {
                warn!("the turn's claim was lost; letting go");
                // It may have ended all the same, and another one wait for that.
                app.wake.wake_here(Queue::Turns);
            }
            Err(_) => {
                error!("running the turn panicked; trying again");
                // Not before an edit that may be under way is over.
                hand_back(&app, &replica, &turn, replica.call_timeout(), true).await;
            }
        }
    }
    .instrument(span)
    .await;
}

async fn drive(work: &Work<'_>, ends: Ends) -> Result<(), ClaimLost> {
    let mut relay = Relay::new(work.app.clone(), work.replica.clone(), work.turn.clone(), ends);
    match work.turn.kind {
        Kind::Message | Kind::Hello => answering::drive(work, &mut relay).await,
        Kind::Reset | Kind::Forget => forgetting::drive(work, &mut relay).await,
    }
}

/// Lets any replica go on with a turn after `wait`. `crashed`: see [`store::hand_back`].
pub(super) async fn hand_back(app: &App, replica: &Replica, turn: &Claimed, wait: Duration, crashed: bool) {
    while let Err(error) = bounded(store::hand_back(&app.db, replica.id(), turn, wait, crashed)).await {
        // Once this replica has left, the claim is worth nothing and the turn is taken back.
        if !crashed || replica.lost().is_cancelled() {
            warn!(%error, "a turn could not be handed back");
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    app.wake.wake(Queue::Turns);
}
