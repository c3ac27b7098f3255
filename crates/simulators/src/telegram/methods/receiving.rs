//! How the bot gets its updates: by webhook or by asking.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TRUE;
use crate::telegram::Telegram;
use crate::telegram::api::Answer;
use crate::telegram::params::Params;
use crate::telegram::refusal::Refusal;
use crate::telegram::updates::Webhook;

impl Telegram {
    /// Any address and `http` are accepted, as by a Bot API server that runs with `--local`.
    pub(super) fn set_webhook(&self, params: &Params) -> Result<Answer, Refusal> {
        let url = params.text("url")?.unwrap_or("").to_owned();
        if url.is_empty() {
            return self.delete_webhook(params);
        }
        let parsed = reqwest::Url::parse(&url).ok();
        if !parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Err(Refusal::wrong("invalid webhook URL specified"));
        }
        let secret = params.text("secret_token")?.filter(|secret| !secret.is_empty()).map(str::to_owned);
        if let Some(secret) = &secret {
            if secret.len() > 256 {
                return Err(Refusal::wrong("secret token is too long"));
            }
            if !secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
                return Err(Refusal::wrong("secret token contains unallowed characters"));
            }
        }
        let max_connections = params.integer("max_connections")?.unwrap_or(40).clamp(1, 100);
        let allowed = params.typed::<Vec<String>>("allowed_updates")?;
        let drop_pending = params.flag("drop_pending_updates")?;
        let mut world = self.world();
        if let Some(allowed) = allowed {
            world.updates.allowed = allowed;
        }
        if drop_pending {
            world.updates.drop_pending();
        }
        let max_connections = usize::try_from(max_connections).unwrap_or(1);
        let same = world
            .updates
            .webhook
            .as_ref()
            .is_some_and(|old| old.url == url && old.secret == secret && old.max_connections == max_connections);
        if same {
            return Ok(Answer { result: TRUE, description: Some("Webhook is already set") });
        }
        let (slots, ended, last_error) = (None, CancellationToken::new(), None);
        let webhook = Webhook { url, secret, max_connections, slots, ended, last_error };
        world.updates.poller += 1;
        self.replace_webhook(&mut world, Some(webhook));
        Ok(Answer { result: TRUE, description: Some("Webhook was set") })
    }

    pub(super) fn delete_webhook(&self, params: &Params) -> Result<Answer, Refusal> {
        let drop_pending = params.flag("drop_pending_updates")?;
        let mut world = self.world();
        if drop_pending {
            world.updates.drop_pending();
        }
        if world.updates.webhook.is_none() {
            return Ok(Answer { result: TRUE, description: Some("Webhook is already deleted") });
        }
        self.replace_webhook(&mut world, None);
        Ok(Answer { result: TRUE, description: Some("Webhook was deleted") })
    }

    pub(super) async fn get_updates(&self, params: &Params) -> Result<Value, Refusal> {
        let offset = params.integer("offset")?.unwrap_or(0);
        let limit = params.integer("limit")?.unwrap_or(100).clamp(1, 100);
        let limit = usize::try_from(limit).unwrap_or(100);
        let timeout = u64::try_from(params.integer("timeout")?.unwrap_or(0)).unwrap_or(0).min(50);
        let allowed = params.typed::<Vec<String>>("allowed_updates")?;
        let deadline = Instant::now() + Duration::from_secs(timeout);
        let me = {
            let mut world = self.world();
            if world.updates.webhook.is_some() {
                return Err(Refusal::conflict(
                    "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first",
                ));
            }
            if let Some(allowed) = allowed {
                world.updates.allowed = allowed;
            }
            if offset != 0 {
                world.updates.confirm_below(offset);
                world.changed = true;
            }
            world.updates.poller += 1;
            self.inner.updates_arrived.notify_waiters();
            world.updates.poller
        };
        loop {
            let arrived = self.inner.updates_arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            {
                let world = self.world();
                if world.updates.poller != me {
                    return Err(Refusal::conflict(if world.updates.webhook.is_some() {
                        "terminated by setWebhook request"
                    } else {
                        "terminated by other getUpdates request; make sure that only one bot instance is running"
                    }));
                }
                let pending = &world.updates.pending;
                if !pending.is_empty() || Instant::now() >= deadline {
                    let batch = pending.values().take(limit).map(|update| update.body.clone()).collect();
                    return Ok(Value::Array(batch));
                }
            }
            tokio::select! {
                () = &mut arrived => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }
}
