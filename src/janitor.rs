//! Tidying up: finished rows are kept for as long as somebody may ask for them, then deleted, a few at a time so that no
//! long transaction slows the queues.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::App;
use crate::replica::Replica;

const EVERY: Duration = Duration::from_secs(600);
const LEASE: &str = "janitor";
const BATCH: i64 = 5_000;

/// What goes when. Telegram repeats an update for at most a day; dead letters wait for somebody to look.
const RULES: [(&str, &str); 4] = [
    (
        "handled updates",
        "delete from updates where (bot_id, update_id) in (select bot_id, update_id from updates
          where received_at < now() - interval '3 days' and done and error is null limit $1)",
    ),
    (
        "dead letters",
        "delete from updates where (bot_id, update_id) in (select bot_id, update_id from updates
          where received_at < now() - interval '30 days' and done limit $1)",
    ),
    (
        // A message that is still being edited keeps its row, which knows its id.
        "calls to Telegram",
        "delete from outbox where id in (select o.id from outbox o
          where o.created_at < now() - interval '7 days' and o.done
            and not exists (select from outbox e where e.edits = o.id and not e.done)
            and not exists (select from jobs j where j.progress = o.id and not j.done)
            and not exists (select from turns t where t.first_piece = o.id and not t.done) limit $1)",
    ),
    (
        "requests of failed turns",
        "update turns set request = '' where id in (select id from turns
          where done and request <> '' and ended_at < now() - interval '1 day' limit $1)",
    ),
];

/// Tidies up every ten minutes, on one replica at a time, until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    loop {
        if replica.holds(&app.db, LEASE).await.unwrap_or(false) {
            for (what, rule) in RULES {
                tidy(app, what, rule, stop).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY.mul_f64(rand::random_range(0.9..1.1))) => {}
        }
    }
}

async fn tidy(app: &App, what: &str, rule: &'static str, stop: &CancellationToken) {
    let mut total = 0;
    while !stop.is_cancelled() {
        match sqlx::query(rule).bind(BATCH).execute(&app.db).await {
            Ok(result) => {
                total += result.rows_affected();
                if result.rows_affected() < BATCH as u64 {
                    break;
                }
            }
            Err(error) => {
                warn!(%error, what, "tidying up failed; trying again later");
                break;
            }
        }
    }
    if total > 0 {
        info!(rows = total, "tidied up {what}");
    }
}
