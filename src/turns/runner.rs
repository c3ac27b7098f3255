//! Runs turns: in order per (chat, agent), as many at once as there are.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};

use super::answering::{self, Work};
use super::forgetting;
use super::relay::{ClaimLost, Relay};
use super::stopping::{Stops, UnderWay};
use super::store::{self, Claimed, Kind};
use crate::app::App;
use crate::floor::{self, Floor};
use crate::replica::Replica;
use crate::slots::{Slots, bounded, ids};
use crate::trace;
use crate::wake::Queue;

/// Turns under way at once; each waits for its agent nearly all the time.
const PARALLEL: usize = 5_000;
/// Turns claimed at once.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);

/// Runs turns until `stop`, then hands back those under way: an agent goes on by itself, and whoever claims the turn next
/// attaches to it.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let (stops, floor) = (Stops::default(), Floor::default());
    tokio::select! {
        () = claim_and_run(app, replica, stop, &stops, &floor) => {}
        () = floor.keep(|from| floor::lowest_free(&app.db, floor::TURNS, app.bot_id, from)) => {}
        // Until the last turn has ended: one that is to be stopped need not wait for another replica.
        () = stops.watch(app, replica) => {}
    }
}

async fn claim_and_run(app: &App, replica: &Replica, stop: &CancellationToken, stops: &Stops, floor: &Floor) {
    let mut slots = Slots::new(PARALLEL);
    while !stop.is_cancelled() {
        if let Some(held) = slots.due() {
            slots.looked("turns", bounded(store::release_strays(&app.db, replica.id(), &ids(held))).await);
        }
        let free = slots.free().min(BATCH);
        if free == 0 {
            slots.one_ends().await;
            continue;
        }
        let claim = store::claim(&app.db, replica.id(), app.bot_id, free as i64, floor.get());
        let turns = slots.claim("turns", claim).await.unwrap_or_default();
        floor.claimed(turns.iter().map(|turn| turn.position));
        let more = turns.len() == free;
        for turn in turns {
            let (turn_id, attempt) = (turn.id, turn.attempt);
            let under_way = stops.enter(turn.id, turn.attempt, turn.cancel_requested);
            let run = run_one(app.clone(), replica.clone(), turn, stop.clone(), under_way);
            slots.spawn((turn_id, attempt), run);
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

async fn run_one(app: App, replica: Replica, turn: Claimed, stop: CancellationToken, under_way: UnderWay) {
    let span = info_span!("turn", turn.id = %turn.id, agent.id = turn.agent_id, chat.id = turn.place.chat_id);
    trace::follow(&span, turn.trace_context.as_deref());
    async {
        let work = Work { app: &app, replica: &replica, turn: &turn, stop: &stop, stopped: under_way.stopped() };
        match AssertUnwindSafe(drive(&work)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(ClaimLost)) => warn!("the turn's claim was lost; letting go"),
            Err(_) => {
                error!("running the turn panicked; trying again");
                // Not before an edit that may be under way is over.
                hand_back(&app, &replica, &turn, replica.call_timeout(), true).await;
            }
        }
        // The next turn of this chat and agent may be free now.
        app.wake.wake_here(Queue::Turns);
    }
    .instrument(span)
    .await;
}

async fn drive(work: &Work<'_>) -> Result<(), ClaimLost> {
    let mut relay = Relay::new(work.app.clone(), work.replica.clone(), work.turn.clone());
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
