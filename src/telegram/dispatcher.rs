//! The dispatcher: claims updates and runs their handlers, in strict order per chat, in parallel across chats.
//!
//! Invariant: what a handler decides (row changes, calls to Telegram, jobs, turns) and the end of its update are one
//! transaction, fenced by the claim. Killed anywhere, an update is either handled whole or not at all.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};
use uuid::Uuid;

use super::commands::{self, Handler, Passing};
use super::conversation::Dialogue;
use super::inbox::{self, Claimed};
use super::outbox::{self, Call};
use super::update;
use crate::app::App;
use crate::causes;
use crate::database;
use crate::eyes::metrics::{self, Handling};
use crate::floor::{self, Floor};
use crate::handover::{Giving, Hand, handover};
use crate::replica::Replica;
use crate::slots::{Slots, bounded};
use crate::together::{Sharing, Together};
use crate::trace;
use crate::turns::queue::{self, Entry};
use crate::turns::store as turns;
use crate::wake::Queue;

/// Updates in hand at once. Most handlers only pass words on, together with others; each other one holds a connection while it runs.
const PARALLEL: usize = 128;
/// How long to wait for one of that many to end.
const FULL_WAIT: Duration = Duration::from_millis(5);
const POLL: Duration = Duration::from_millis(500);
const SUSPECT_CHECK: Duration = Duration::from_secs(5);

/// Before an update is handled again that an outage of the database broke off.
const OUTAGE_WAIT: Duration = Duration::from_secs(1);

/// No handler waits for anything but the database.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(20);

/// Why an update was not handled.
#[derive(Debug)]
enum Failure {
    /// The claim is no longer ours; whoever has it goes on.
    ClaimLost,
    /// It can never be handled.
    Unreadable(String),
    /// The database is away, which is no fault of the update: however often that happens, it is handled afterwards.
    Outage(String),
    /// It may work next time.
    Error(String),
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let why = error.to_string();
        if causes::of(&error).any(|cause| cause.downcast_ref().is_some_and(database::may_pass)) {
            Self::Outage(why)
        } else {
            Self::Error(why)
        }
    }
}

/// What a handler's task needs.
#[derive(Clone)]
struct Work {
    app: App,
    replica: Replica,
    passing: Passing,
}

/// Handles updates until `stop`, then until those at work are finished.
pub async fn run(app: &App, replica: &Replica, turns: Giving<(Uuid, i32), turns::Claimed>, stop: &CancellationToken) {
    let floor = Floor::default();
    let db = app.db.clone();
    let passing: Passing = Together::start(Sharing::Gathering, move |entries: Arc<[Entry]>| {
        let (db, turns) = (db.clone(), turns.clone());
        async move { bounded(queue::enqueue_and_hand_over(&db, &entries, &turns)).await }
    });
    let work = Work { app: app.clone(), replica: replica.clone(), passing };
    let (giving, taking) = handover(PARALLEL);
    let hand = taking.hand.clone();
    let taken = taking.work(stop, |hold, update: Claimed| {
        floor.claimed([update.update_id]);
        let work = work.clone();
        async move {
            handle(work, update).await;
            drop(hold);
        }
    });
    let _handling = app.handling.begin(replica.id(), giving);
    tokio::select! {
        _ = async { tokio::join!(claim_and_handle(&work, stop, &floor, &hand), taken) } => {}
        () = floor.keep(|from| floor::lowest_free(&app.db, floor::UPDATES, app.bot_id, from)) => {}
    }
}

async fn claim_and_handle(work: &Work, stop: &CancellationToken, floor: &Floor, hand: &Hand<(i64, i32)>) {
    let Work { app, replica, .. } = work;
    let mut slots = Slots::holding(PARALLEL, hand.held.clone());
    let mut suspects_checked = Instant::now();
    while !stop.is_cancelled() {
        if suspects_checked.elapsed() > SUSPECT_CHECK {
            suspects_checked = Instant::now();
            handle_suspects(work, &mut slots, hand, stop).await;
        }
        if slots.due().is_some() {
            let claimed = inbox::claimed_by(&app.db, replica.id(), app.bot_id);
            let release = |strays| inbox::release(&app.db, replica.id(), app.bot_id, strays);
            slots.looked("updates", bounded(hand.release_strays(claimed, release)).await);
        }
        let free = slots.room();
        if free == 0 {
            tokio::time::sleep(FULL_WAIT).await;
            continue;
        }
        let claim = inbox::claim(&app.db, replica.id(), app.bot_id, free as i64, floor.get());
        let updates = slots.claim("updates", claim).await.unwrap_or_default();
        floor.claimed(updates.iter().map(|update| update.update_id));
        let more = updates.len() == free;
        for update in updates {
            slots.spawn((update.update_id, update.attempt), handle(work.clone(), update));
        }
        if more {
            continue;
        }
        tokio::select! {
            () = app.wake.wait(Queue::Updates, POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
}

/// Handles updates that replicas died of, each while nothing else is at work.
async fn handle_suspects(
    work: &Work,
    slots: &mut Slots<(i64, i32)>,
    hand: &Hand<(i64, i32)>,
    stop: &CancellationToken,
) {
    let Work { app, replica, .. } = work;
    if !bounded(inbox::has_suspect(&app.db, app.bot_id)).await.unwrap_or(false) {
        return;
    }
    let _closed = hand.close().await;
    slots.all_end().await;
    while hand.held.count() > 0 && !stop.is_cancelled() {
        tokio::time::sleep(FULL_WAIT).await;
    }
    while !stop.is_cancelled() {
        let claim = inbox::claim_suspect(&app.db, replica.id(), app.bot_id);
        let Some(update) = slots.claim("suspect updates", claim).await.unwrap_or_default().pop() else { return };
        warn!(update.id = update.update_id, "handling an update alone that replicas died of");
        slots.spawn((update.update_id, update.attempt), handle(work.clone(), update));
        slots.all_end().await;
    }
}

async fn handle(work: Work, update: Claimed) {
    let Work { app, replica, passing } = work;
    let span = info_span!("update", update.id = update.update_id, chat.id = update.chat_id);
    trace::follow(&span, update.trace_context.as_deref());
    async {
        let attempt =
            AssertUnwindSafe(tokio::time::timeout(HANDLER_TIMEOUT, try_handle(&app, &replica, &passing, &update)));
        let failure = match attempt.catch_unwind().await {
            Ok(Ok(Ok(awaited))) => {
                if awaited {
                    app.wake.wake_here(Queue::Updates);
                }
                return;
            }
            Ok(Ok(Err(failure))) => failure,
            Ok(Err(_)) => Failure::Error("the handler took too long".into()),
            Err(_) => Failure::Error("the handler panicked".into()),
        };
        settle(&app, &replica, &update, failure).await;
        // The chat's next update may be free now.
        app.wake.wake_here(Queue::Updates);
    }
    .instrument(span)
    .await;
}

/// Handles an update. Whether others of its chat may wait for its end.
async fn try_handle(app: &App, replica: &Replica, passing: &Passing, claimed: &Claimed) -> Result<bool, Failure> {
    let body = app.config.vault.decrypt(&claimed.body).map_err(|e| Failure::Unreadable(e.to_string()))?;
    let update = update::parse(&body).map_err(|e| {
        // Not the parser's own words: they quote the value, which may be a secret.
        Failure::Unreadable(format!("not an update: wrong at line {}, column {}", e.line(), e.column()))
    })?;
    if let Some(awaited) = commands::pass_on(app, passing, replica.id(), claimed, &update).await? {
        handled();
        return Ok(awaited);
    }
    let mut tx = database::begin(&app.db).await?;
    let mut handler = Handler::new(app, &mut tx);
    if !commands::route(&mut handler, &update).await? {
        return Err(Failure::Unreadable("an update of a kind that is not handled".into()));
    }
    let woken = handler.woken();
    if !inbox::finish(&mut tx, replica.id(), claimed).await? {
        return Err(Failure::ClaimLost);
    }
    tx.commit().await?;
    handled();
    for queue in woken {
        app.wake.wake(queue);
    }
    Ok(true)
}

fn handled() {
    metrics::update_handled(Handling::Handled);
    debug!("update handled");
}

/// Records a failure, however long that takes: until then the claim is held, and its chat waits.
async fn settle(app: &App, replica: &Replica, update: &Claimed, failure: Failure) {
    let failures = update.failures + 1;
    let mut wait = Duration::from_millis(200);
    loop {
        let recorded = match &failure {
            Failure::ClaimLost => {
                warn!("the update's claim was lost; letting go");
                return;
            }
            Failure::Unreadable(why) => {
                warn!(why, "the update is a dead letter");
                bounded(bury(app, replica, update, why, false)).await
            }
            Failure::Outage(why) => {
                warn!(why, "the database was away while an update was handled; trying again");
                bounded(inbox::postpone(&app.db, replica.id(), update, update.failures, why, OUTAGE_WAIT)).await
            }
            Failure::Error(why) if failures >= inbox::MAX_FAILURES => {
                error!(why, "the update failed {failures} times and is a dead letter");
                bounded(bury(app, replica, update, why, true)).await
            }
            Failure::Error(why) => {
                warn!(why, failures, "handling the update failed; trying again");
                let backoff = Duration::from_millis(200) * 2u32.pow(failures as u32);
                bounded(inbox::postpone(&app.db, replica.id(), update, failures, why, backoff)).await
            }
        };
        match recorded {
            Ok(()) => {
                let dead = match failure {
                    Failure::Unreadable(_) => true,
                    Failure::Error(_) => failures >= inbox::MAX_FAILURES,
                    Failure::Outage(_) | Failure::ClaimLost => false,
                };
                metrics::update_handled(if dead { Handling::Dead } else { Handling::Failed });
                return;
            }
            Err(error) if replica.lost().is_cancelled() => {
                warn!(%error, "a failure could not be recorded, and the claim is lost anyway");
                return;
            }
            Err(error) => warn!(%error, "a failure could not be recorded; trying again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

async fn bury(app: &App, replica: &Replica, update: &Claimed, why: &str, apologise: bool) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    if !inbox::bury(&mut tx, replica.id(), update, why).await? {
        return Ok(());
    }
    if let Some(deletion) = deletion_of_key(&mut tx, app, update).await? {
        outbox::enqueue(&mut tx, &deletion).await?;
        inbox::empty(&mut tx, update).await?;
    }
    if apologise && update.chat_id > 0 {
        outbox::enqueue(&mut tx, &super::texts::apology(update.bot_id, update.chat_id)).await?;
    }
    tx.commit().await?;
    app.wake.wake(Queue::Outbox);
    Ok(())
}

/// What deletes the message of an update that is given up, if it shows a key: that must not stay in the chat, nor in the row.
async fn deletion_of_key(conn: &mut PgConnection, app: &App, update: &Claimed) -> sqlx::Result<Option<Call>> {
    // silent-ok: of what cannot be read nobody knows whether it shows a key, and only its row holds it.
    let Ok(body) = app.config.vault.decrypt(&update.body) else { return Ok(None) };
    let Ok(parsed) = update::parse(&body) else { return Ok(None) };
    let Some(message) = parsed.message.or(parsed.edited_message) else { return Ok(None) };
    let waits: bool = sqlx::query_scalar(
        "select exists (select from conversations where bot_id = $1 and chat_id = $2 and dialogue ->> 'step' = 'key')",
    )
    .bind(update.bot_id)
    .bind(update.chat_id)
    .fetch_one(conn)
    .await?;
    let shows = commands::holds_key(&message, waits.then_some(&Dialogue::Key));
    Ok(if shows { commands::deletion(update.bot_id, &message) } else { None })
}
