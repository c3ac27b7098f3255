//! `TELEGRAM_MODE=polling`: where no public address exists, one replica at a time asks Telegram for updates and fills the
//! same inbox.
//!
//! Durable before acknowledged here too: asking with an offset is what acknowledges, and the offset grows only after the
//! updates before it are committed. A replica that dies in between leaves updates that come again and are recognised.

use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::api::ApiError;
use super::inbox::{Inbox, Stored};
use super::update::ALLOWED_UPDATES;
use crate::app::App;
use crate::replica::Replica;

/// The lease of the one who polls: Telegram refuses two at once.
const LEASE: &str = "telegram polling";

/// Seconds for which Telegram holds a request open while there is nothing.
const LONG_POLL: u64 = 25;

/// Polls while this replica holds the lease, until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let inbox = Inbox::start(app.clone());
    let lease = format!("{LEASE} {}", app.bot_id);
    let mut polling = false;
    while !stop.is_cancelled() {
        let holds = replica.holds(&app.db, &lease).await.unwrap_or(false);
        let wait = if !holds || !replica.may_send() {
            polling = false;
            Duration::from_secs(2)
        } else {
            let round = async {
                if !polling {
                    app.telegram.call_raw("deleteWebhook", "{}".into(), super::api::TIMEOUT).await?;
                    info!("polling Telegram for updates");
                    polling = true;
                }
                poll_once(app, &inbox).await
            };
            let result = tokio::select! {
                () = stop.cancelled() => return,
                () = replica.lost().cancelled() => return,
                result = round => result,
            };
            match result {
                Ok(()) => Duration::ZERO,
                Err(error) => {
                    warn!(%error, "polling Telegram failed; trying again");
                    match error.downcast_ref::<ApiError>() {
                        Some(ApiError::Refused { retry_after: Some(wait), .. }) => *wait,
                        _ => Duration::from_secs(3),
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn poll_once(app: &App, inbox: &Inbox) -> anyhow::Result<()> {
    #[derive(serde::Deserialize)]
    struct Id {
        update_id: i64,
    }
    let offset: Option<i64> = sqlx::query_scalar("select poll_offset from bots where bot_id = $1")
        .bind(app.bot_id)
        .fetch_optional(&app.db)
        .await?;
    let parameters =
        json!({"offset": offset.unwrap_or(0), "timeout": LONG_POLL, "limit": 100, "allowed_updates": ALLOWED_UPDATES});
    let timeout = Duration::from_secs(LONG_POLL + 15);
    let result = app.telegram.call_raw("getUpdates", parameters.to_string(), timeout).await?;
    let updates: Vec<Box<RawValue>> = serde_json::from_str(result.get())?;
    let Some(last) = updates.last() else { return Ok(()) };
    let Id { update_id } = serde_json::from_str(last.get())?;
    // One after another: a chat that is full holds up the rest, for an offset cannot skip, and what came later must not
    // be stored earlier. What is stored already is recognised.
    for update in &updates {
        while inbox.store(update.get().as_bytes()).await? == Stored::ChatFull {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    sqlx::query(
        "insert into bots (bot_id, poll_offset) values ($1, $2)
         on conflict (bot_id) do update set poll_offset = excluded.poll_offset",
    )
    .bind(app.bot_id)
    .bind(update_id + 1)
    .execute(&app.db)
    .await?;
    Ok(())
}
