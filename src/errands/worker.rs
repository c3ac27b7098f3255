//! Does errands: claims them, works outside any transaction, and saves what came of each in one.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info_span, warn};

use super::store::{self, Claimed, Errand};
use super::{Tried, balance, forget, login, rekey};
use crate::app::App;
use crate::replica::Replica;
use crate::slots::{Slots, bounded, ids};
use crate::trace;
use crate::wake::Queue;

/// Errands of one replica at the same moment.
const AT_ONCE: usize = 64;
/// How long a try may take; whatever hangs is tried again.
const TRY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1_000);

/// Does errands until `stop`; those under way are handed back.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let mut slots = Slots::new(AT_ONCE);
    while !stop.is_cancelled() {
        if let Some(held) = slots.due() {
            slots.looked("errands", bounded(store::release_strays(&app.db, replica.id(), &ids(held))).await);
        }
        let free = slots.free();
        if free == 0 {
            slots.one_ends().await;
            continue;
        }
        let claim = store::claim(&app.db, replica.id(), app.bot_id, free as i64);
        let errands = slots.claim("errands", claim).await.unwrap_or_default();
        let more = errands.len() == free;
        for errand in errands {
            slots.spawn((errand.id, errand.attempt), work(app.clone(), replica.clone(), errand, stop.clone()));
        }
        if more {
            continue;
        }
        tokio::select! {
            () = app.wake.wait(Queue::Errands, POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
}

async fn work(app: App, replica: Replica, errand: Claimed, stop: CancellationToken) {
    let span = info_span!("errand", errand.id = %errand.id, errand.kind, chat.id = errand.place.chat_id);
    trace::follow(&span, errand.trace_context.as_deref());
    async {
        let tried = tokio::select! {
            tried = AssertUnwindSafe(timeout(TRY, attempt(&app, &errand))).catch_unwind() => tried,
            () = replica.lost().cancelled() => return,
            () = stop.cancelled() => {
                if let Err(error) = bounded(store::hand_back(&app.db, &errand)).await {
                    warn!(%error, "an errand could not be handed back; it will be taken back");
                }
                return;
            }
        };
        let (wait, why) = match tried {
            Ok(Ok(Ok(Tried::Done))) => return app.wake.wake(Queue::Outbox),
            Ok(Ok(Ok(Tried::Lost))) => return,
            Ok(Ok(Ok(Tried::Later(wait)))) => (wait, None),
            Ok(Ok(Ok(Tried::Failed(why)))) => (backoff(errand.failures), Some(why)),
            Ok(Ok(Err(error))) => (backoff(errand.failures), Some(error.to_string())),
            Ok(Err(_)) => (backoff(errand.failures), Some("it took too long".to_owned())),
            Err(_) => (backoff(errand.failures), Some("it panicked".to_owned())),
        };
        if let Some(why) = &why {
            warn!(why, errand.failures, "an errand did not work; trying again");
        }
        // Moments of waiting are shown.
        app.wake.wake(Queue::Outbox);
        while let Err(error) = bounded(store::postpone(&app.db, &errand, wait, why.as_deref())).await {
            warn!(%error, "an errand could not be given back; trying again");
            // Once this replica has left, the claim is worth nothing and the errand is taken back.
            tokio::select! {
                () = replica.lost().cancelled() => return,
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }
    .instrument(span)
    .await;
}

fn backoff(failures: i32) -> Duration {
    Duration::from_millis(500) * 2u32.pow(failures.clamp(0, 7) as u32)
}

async fn attempt(app: &App, claimed: &Claimed) -> sqlx::Result<Tried> {
    let errand = app.config.vault.decrypt(&claimed.request).ok().and_then(|plain| serde_json::from_slice(&plain).ok());
    match errand {
        Some(Errand::Login { key }) => login::attempt(app, claimed, key.into()).await,
        Some(Errand::Balance) => balance::attempt(app, claimed).await,
        Some(Errand::Rekey { logout, told }) => rekey::attempt(app, claimed, logout, told).await,
        Some(Errand::Forget) => forget::attempt(app, claimed).await,
        None => {
            error!("an errand cannot be read with this BOT_ENCRYPTION_KEY, or a newer version wrote it; it is dropped");
            let mut conn = app.db.acquire().await?;
            Ok(if store::end(&mut conn, claimed, Some("unreadable")).await? { Tried::Done } else { Tried::Lost })
        }
    }
}
