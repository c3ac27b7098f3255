//! Webhook delivery as Telegram does it: a queue's next update goes out only after the last got its 2xx, queues run beside
//! each other up to `max_connections`, a failure is tried again after a pause that doubles.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Telegram;
use super::updates::{QueueKey, Update, Webhook};
use super::world::{World, now_ms};

/// Longest pause, as a multiple of the first one.
const MAX_BACKOFF: u64 = 60;
/// Longest pause that a bot can ask for.
const MAX_RETRY_AFTER_S: u64 = 3_600;

struct Target {
    url: String,
    secret: Option<String>,
    slots: Arc<Semaphore>,
    ended: CancellationToken,
}

impl Target {
    fn of(webhook: &Webhook) -> Option<Self> {
        let slots = webhook.slots.clone()?;
        Some(Self { url: webhook.url.clone(), secret: webhook.secret.clone(), slots, ended: webhook.ended.clone() })
    }
}

impl Telegram {
    /// Sends what waits in `key` on its way: to the webhook, or to whoever polls.
    pub(crate) fn start_delivery(&self, world: &mut World, key: QueueKey) {
        world.changed = true;
        let Some(target) = world.updates.webhook.as_ref().and_then(Target::of) else {
            self.inner.updates_arrived.notify_waiters();
            return;
        };
        let Some(queue) = world.updates.queues.get_mut(&key) else { return };
        if !std::mem::replace(&mut queue.running, true) {
            tokio::spawn(deliver_queue(self.clone(), key, target));
        }
    }

    /// Makes `webhook` (none for polling) the way updates go.
    pub(crate) fn replace_webhook(&self, world: &mut World, webhook: Option<Webhook>) {
        if let Some(old) = world.updates.webhook.take() {
            old.ended.cancel();
        }
        world.updates.webhook = webhook.map(|mut webhook| {
            webhook.slots = Some(Arc::new(Semaphore::new(webhook.max_connections)));
            webhook
        });
        for queue in world.updates.queues.values_mut() {
            queue.running = false;
        }
        self.inner.updates_arrived.notify_waiters();
        if world.updates.webhook.is_some() {
            let keys: Vec<QueueKey> = world.updates.queues.keys().copied().collect();
            for key in keys {
                self.start_delivery(world, key);
            }
        }
        world.changed = true;
    }

    /// Posts an update once, outside of every queue, and gives the HTTP status; `None` without webhook or answer.
    pub(crate) async fn post_once(&self, update: &Update) -> Option<u16> {
        let target = self.world().updates.webhook.as_ref().and_then(Target::of)?;
        self.post(&target, update).await.ok().map(|response| response.status().as_u16())
    }

    async fn post(&self, target: &Target, update: &Update) -> reqwest::Result<reqwest::Response> {
        let http = self.inner.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = http.post(&target.url).json(&update.body);
        if let Some(secret) = &target.secret {
            request = request.header("X-Telegram-Bot-Api-Secret-Token", secret);
        }
        request.send().await
    }
}

async fn deliver_queue(telegram: Telegram, key: QueueKey, target: Target) {
    let ended = target.ended.clone();
    // A request on its way is let go when the webhook is replaced, as Telegram does: the update stays pending.
    tokio::select! {
        () = ended.cancelled() => {}
        () = deliver_all(&telegram, key, &target) => {}
    }
}

async fn deliver_all(telegram: &Telegram, key: QueueKey, target: &Target) {
    let mut failures = 0u32;
    loop {
        let (update, base_ms) = {
            let mut world = telegram.world();
            if target.ended.is_cancelled() {
                return;
            }
            // With nothing left, `front` removes the queue under this lock, and with it the mark that it is being delivered.
            let Some(update) = world.updates.front(key) else { return };
            (update, world.updates.retry_base_ms)
        };
        let Ok(slot) = target.slots.acquire().await else { return };
        let outcome = telegram.post(target, &update).await;
        drop(slot);
        let (error, retry_after) = match outcome {
            Ok(response) if response.status().is_success() => {
                failures = 0;
                let mut world = telegram.world();
                if !target.ended.is_cancelled() {
                    world.updates.confirm(key, update.update_id);
                    world.changed = true;
                }
                continue;
            }
            Ok(response) => {
                let retry_after =
                    response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let status = response.status();
                let reason = status.canonical_reason().unwrap_or("");
                (format!("Wrong response from the webhook: {} {reason}", status.as_u16()), retry_after)
            }
            Err(error) if error.is_connect() => ("Connection refused".to_owned(), None),
            Err(error) if error.is_timeout() => ("Read timeout expired".to_owned(), None),
            Err(_) => ("Connection reset by peer".to_owned(), None),
        };
        debug!(update.id = update.update_id, error, "webhook delivery failed");
        if let Some(webhook) = &mut telegram.world().updates.webhook {
            webhook.last_error = Some((now_ms(), error));
        }
        let backoff = base_ms.saturating_mul(2u64.saturating_pow(failures).min(MAX_BACKOFF));
        failures = failures.saturating_add(1);
        let pause = retry_after.map_or(backoff, |seconds: u64| seconds.min(MAX_RETRY_AFTER_S).saturating_mul(1_000));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}
