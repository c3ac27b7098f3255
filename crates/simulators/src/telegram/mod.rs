//! Telegram: the Bot API, webhook delivery, and a page to chat in.
//!
//! - `/bot{token}/{method}` and `/file/bot{token}/{path}` speak the Bot API and refuse what Telegram refuses, in its words.
//! - `/sim/…` plays the users, orders faults and shows what happened.
//! - `/` is a chat for people.
//!
//! Facts come from the Bot API pages (<https://core.telegram.org/bots/api>) and from the source of its server
//! (`tdlib/telegram-bot-api`, `tdlib/td`).

mod api;
mod control;
mod delivery;
mod entities;
mod events;
mod faults;
mod files;
mod html;
mod journal;
mod keyboard;
mod methods;
mod page;
mod params;
mod persist;
mod refusal;
mod updates;
mod world;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{any, get};
use tokio::sync::Notify;

use faults::Faults;
use journal::Journal;
use world::World;

/// A token that is not of the form `123456:secret`.
#[derive(Debug, thiserror::Error)]
#[error("the bot token must look like 123456:abc…, the bot's number before the colon")]
pub struct TokenError;

/// Telegram with one bot. A clone is the same Telegram.
#[derive(Clone)]
pub struct Telegram {
    inner: Arc<Inner>,
}

struct Inner {
    token: String,
    world: Mutex<World>,
    journal: Journal,
    faults: Faults,
    /// Wakes those who wait in `getUpdates`.
    updates_arrived: Notify,
    /// Held while the state file is written; true once the last save is done.
    saved_last: Mutex<bool>,
    /// Delivers to webhooks.
    http: Mutex<reqwest::Client>,
}

impl Telegram {
    /// A Telegram in which nobody has written yet. `token` is what the bot authenticates with (`123456:abc…`), `username`
    /// its name without `@`.
    pub fn new(token: &str, username: &str) -> Result<Self, TokenError> {
        let bot_id = bot_id(token)?;
        Ok(Self::with_world(token, World::new(bot_id, username)))
    }

    /// Like [`Telegram::new`], going on from what `state` holds if it exists. Message and update ids of earlier runs are never
    /// used again, whatever the last save missed.
    pub fn load(token: &str, username: &str, state: &Path) -> anyhow::Result<Self> {
        let bot_id = bot_id(token)?;
        let mut world = persist::load(state)?.unwrap_or_else(|| World::new(bot_id, username));
        world.bot.id = bot_id;
        world.bot.username = username.to_owned();
        Ok(Self::with_world(token, world))
    }

    fn with_world(token: &str, world: World) -> Self {
        // silent-ok: a provider that is already installed serves as well
        let _ = rustls::crypto::ring::default_provider().install_default(); // silent-ok: it is installed already
        let http = deliverer().build().expect("a client without certificates of its own always builds");
        Self {
            inner: Arc::new(Inner {
                token: token.to_owned(),
                world: Mutex::new(world),
                journal: Journal::default(),
                faults: Faults::default(),
                updates_arrived: Notify::new(),
                saved_last: Mutex::new(false),
                http: Mutex::new(http),
            }),
        }
    }

    /// Writes every request to `file` from now on, a line of JSON each: what `/sim/requests` shows.
    pub fn record_requests(&self, file: std::fs::File) {
        self.inner.journal.record(file);
    }

    /// Believes certificates of this authority (PEM) too where webhooks are: of a web server with one of its own, for tests.
    pub(crate) fn trust(&self, authority: &[u8]) -> reqwest::Result<()> {
        let http = deliverer().tls_certs_merge([reqwest::Certificate::from_pem(authority)?]).build()?;
        *self.inner.http.lock().unwrap_or_else(PoisonError::into_inner) = http;
        Ok(())
    }

    /// The Bot API, the control interface and the page.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/{bot}/{method}", any(api::call))
            .route("/file/{bot}/{*path}", get(api::file))
            .merge(control::router())
            .merge(page::router())
            .layer(DefaultBodyLimit::max(params::UPLOAD_LIMIT + 1024 * 1024))
            .with_state(self.clone())
    }

    /// Takes up deliveries that a loaded state left open. Needs a running tokio runtime.
    pub fn resume(&self) {
        let mut world = self.world();
        let webhook = world.updates.webhook.take();
        self.replace_webhook(&mut world, webhook);
    }

    /// Writes everything to `state` as often as once a second while something changes. Runs until it is dropped.
    pub async fn keep_saving(&self, state: &Path) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (telegram, path) = (self.clone(), state.to_owned());
            let saved = tokio::task::spawn_blocking(move || telegram.save(&path, false)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(state = %state.display(), error = %error, "the simulator's state could not be saved");
            }
        }
    }

    /// Writes everything to `state`, atomically. After the `last` save of a run nothing is written any more.
    pub fn save(&self, state: &Path, last: bool) -> std::io::Result<()> {
        let mut saved_last = self.inner.saved_last.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = {
            let mut world = self.world();
            if *saved_last || (!std::mem::take(&mut world.changed) && !last) {
                return Ok(());
            }
            persist::snapshot(&world, last)?
        };
        let written = persist::write(state, &snapshot);
        if written.is_err() {
            self.world().changed = true;
        }
        *saved_last = last;
        written
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.inner.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What updates are delivered with.
fn deliverer() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(60))
}

fn bot_id(token: &str) -> Result<i64, TokenError> {
    let (number, secret) = token.split_once(':').ok_or(TokenError)?;
    let id = number.parse().ok().filter(|id| *id > 0).ok_or(TokenError)?;
    if secret.is_empty() { Err(TokenError) } else { Ok(id) }
}
