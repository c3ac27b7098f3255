//! Taking back what dead replicas had claimed.

use tracing::{info, warn};

use crate::app::App;
use crate::database;
use crate::eyes::metrics;
use crate::replica::Replica;
use crate::wake::Queue;
use crate::{errands, jobs, telegram, turns};

/// Takes back, as often as replicas beat, for ever. Apart from the beat: what this has to wait for must not keep its own
/// replica from beating.
pub async fn keep(app: &App, replica: &Replica) {
    loop {
        match tokio::time::timeout(replica.expiry(), take_back(app)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "claims of dead replicas could not be taken back; trying again"),
            Err(_) => warn!("claims of dead replicas could not be taken back in time; trying again"),
        }
        tokio::time::sleep(replica.expiry() / 6).await;
    }
}

/// Deletes registrations that expired and frees what unregistered replicas had claimed. One replica at a time does it.
async fn take_back(app: &App) -> sqlx::Result<()> {
    let mut tx = database::begin(&app.db).await?;
    let mine: bool =
        sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtext('baal take back'))").fetch_one(&mut *tx).await?;
    if !mine {
        return Ok(());
    }
    let dead: Vec<i64> =
        sqlx::query_scalar("delete from replicas where expires_at < now() returning id").fetch_all(&mut *tx).await?;
    let freed = [
        (Queue::Updates, telegram::inbox::take_back(&mut tx).await?),
        (Queue::Outbox, telegram::outbox::take_back(&mut tx).await?),
        (Queue::Turns, turns::store::take_back(&mut tx).await?),
        (Queue::Pending, turns::pending::store::take_back(&mut tx).await?),
        (Queue::Jobs, jobs::store::take_back(&mut tx).await?),
        (Queue::Errands, errands::store::take_back(&mut tx).await?),
    ];
    tx.commit().await?;
    metrics::replicas_given_up(dead.len() as u64);
    if !dead.is_empty() {
        warn!(replicas = ?dead, "replicas stopped beating and were given up");
    }
    for (queue, count) in freed {
        metrics::taken_back(queue, count);
        if count > 0 {
            info!(?queue, count, "work of dead replicas was taken back");
            app.wake.wake(queue);
        }
    }
    Ok(())
}
