//! What agents say unasked: heartbeats and subagents. It is pulled, put into the outbox in one statement with the mark up
//! to which that is done, and only then acknowledged, so that a kill between any two lines neither loses nor doubles it.
//!
//! An agent is pulled by one replica at a time (a claim like any other). A connection to it is held open, so that what it
//! says arrives at once; where there are more agents than that many connections, they take turns. Agents of the base protocol
//! forget what they tell: they are asked now and then, and a kill in between loses it.

mod pull;
mod say;
pub mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::pull::{Puller, Statements};
use crate::app::App;
use crate::replica::Replica;
use crate::slots::{Slots, bounded, ids};
use crate::wake::Queue;

/// Agents that are listened to at once by each replica.
const PARALLEL: usize = 256;
/// Agents claimed at once.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_secs(1);
/// How often it is asked how many agents there are.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// Whether there are more agents than can be listened to at once.
#[derive(Debug, Clone, Default)]
struct Crowd(Arc<AtomicBool>);

impl Crowd {
    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Pulls until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let mut slots = Slots::new(PARALLEL);
    let crowd = Crowd::default();
    let puller = Puller {
        app: app.clone(),
        replica: replica.clone(),
        stop: stop.clone(),
        crowd: crowd.clone(),
        statements: Statements::start(&app.db, replica.id()),
    };
    let mut counted: Option<Instant> = None;
    while !stop.is_cancelled() {
        if let Some(held) = slots.due() {
            let held = ids(held);
            slots.looked("agents to be pulled", bounded(store::release_strays(&app.db, replica.id(), &held)).await);
        }
        if counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
            match bounded(store::running(&app.db, app.bot_id)).await {
                // A place is left for those that are only asked now and then.
                Ok(agents) => crowd.0.store(agents >= PARALLEL as i64 * replica.workers(), Ordering::Relaxed),
                Err(error) => warn!(%error, "the agents to be pulled could not be counted"),
            }
            counted = Some(Instant::now());
        }
        let free = slots.free();
        let batch = free.min(BATCH);
        if batch > 0 {
            let claim = store::claim(&app.db, replica.id(), app.bot_id, batch as i64);
            let agents = slots.claim("agents to be pulled", claim).await.unwrap_or_default();
            let more = agents.len() == batch;
            for (key, agent) in agents {
                slots.spawn((key.id, key.attempt), puller.clone().session(key, agent));
            }
            if more {
                continue;
            }
        }
        tokio::select! {
            () = app.wake.wait(Queue::Pending, POLL), if free > 0 => {}
            () = slots.one_ends(), if free == 0 => {}
            () = tokio::time::sleep(COUNT_EVERY), if free == 0 => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
}
