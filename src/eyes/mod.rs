//! Eyes on the system: figures for `/metrics`, `baal status`, the dashboard and the alerts.
//!
//! Two kinds. What the database knows ([`snapshot`]) is the same whichever process is asked, so that one that lives tells of
//! those that died. What only happens in a process ([`metrics`]) is counted there, and each is asked for its own.

pub mod alarms;
mod gauges;
pub mod metrics;
mod names;
pub mod snapshot;
pub mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tracing::warn;

use self::snapshot::Snapshot;
use crate::app::App;

/// How old figures may be that are told: several who ask at once cost the database one look.
const FRESH: Duration = Duration::from_secs(5);
/// How long the database may take to give them.
const PATIENCE: Duration = Duration::from_secs(5);
/// How old the account's credits may become before they are asked for again.
const CREDITS_EVERY: Duration = Duration::from_secs(300);

/// Looks at the system for those who scrape; cheap to clone.
#[derive(Clone)]
pub struct Eyes(Arc<Inner>);

struct Inner {
    app: App,
    /// The last look, and whether the database answered it.
    last: Mutex<Option<(Instant, Option<Snapshot>)>>,
    asking_for_credits: AtomicBool,
}

impl Eyes {
    /// Nothing is looked at yet.
    pub fn new(app: App) -> Self {
        metrics::start();
        Self(Arc::new(Inner { app, last: Mutex::default(), asking_for_credits: AtomicBool::new(false) }))
    }

    /// All figures in Prometheus' text format. Where the database does not answer, its figures are not a number and
    /// `baal_database_up` is 0.
    pub async fn scrape(&self) -> String {
        let app = &self.0.app;
        self.keep_credits_known();
        let mut last = self.0.last.lock().await;
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            let began = Instant::now();
            let looked = match tokio::time::timeout(PATIENCE, look(app)).await {
                Ok(Ok(snapshot)) => Some(snapshot),
                Ok(Err(error)) => {
                    warn!(%error, "the figures could not be read from the database");
                    None
                }
                Err(_) => {
                    warn!("the database did not give the figures in time");
                    None
                }
            };
            let before = last.as_ref().and_then(|(_, before)| before.as_ref());
            gauges::set(looked.as_ref(), before);
            // What was there before the database fell silent is remembered: its series are set to 0 once it answers.
            let known = looked.or_else(|| last.take().and_then(|(_, before)| before));
            *last = Some((began, known));
        }
        gauges::set_connections(app.db.size(), app.db.num_idle());
        metrics::render()
    }

    /// Asks for the account's credits now and then, beside the scrapes: the network may take long to answer.
    fn keep_credits_known(&self) {
        let Some(aleph) = &self.0.app.aleph else { return };
        if aleph.known_funds(CREDITS_EVERY).is_some() || self.0.asking_for_credits.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = self.0.clone();
        tokio::spawn(async move {
            if let Some(aleph) = &inner.app.aleph
                && let Err(error) = aleph.funds().await
            {
                warn!(%error, "the account's credits could not be read; trying again");
            }
            inner.asking_for_credits.store(false, Ordering::Release);
        });
    }
}

/// The figures as they are now, with the credits as this process knows them.
async fn look(app: &App) -> sqlx::Result<Snapshot> {
    let mut snapshot = snapshot::read(&mut *app.db.acquire().await?, &app.config).await?;
    snapshot.account = app.aleph.as_ref().map(|aleph| snapshot.account_of(aleph.last_funds()));
    Ok(snapshot)
}
