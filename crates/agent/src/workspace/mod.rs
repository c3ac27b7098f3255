//! The files of a person that the agent itself reads and writes: memory and skills.
//!
//! They are reached through the launcher, as everything in a workspace, and what of them a prompt needs is kept for a while: a
//! plain turn touches no file.

mod cache;
pub mod notes;
mod reading;
pub mod skills;
mod text;

pub use text::{fenced, one_line};

use baal_launcher::Root;
use baal_launcher::client::{CallError, Launcher, Session};
use cache::Cache;
use chrono::NaiveDate;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// How long a turn waits for its memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what was read is good for, where nothing says that it changed.
const FRESH: Duration = Duration::from_secs(300);
/// How long nobody asks again after a failure: a turn must not wait for a launcher that is not there.
const AFTER_FAILURE: Duration = Duration::from_secs(15);

const UNREADABLE: &str = "# What you remember\nYour memory and your skills could not be read just now, because the tools of this \
    agent do not answer. Do not conclude that there is nothing; where it matters, say that you cannot look it up at the moment.";

/// Everybody's workspace. Clones share it.
#[derive(Clone)]
pub struct Workspaces {
    inner: Arc<Inner>,
}

struct Inner {
    launcher: Arc<Launcher>,
    cache: Mutex<Cache>,
    is_down: AtomicBool,
}

impl Workspaces {
    /// Nothing is read until somebody asks.
    pub fn new(launcher: Arc<Launcher>) -> Self {
        Self { inner: Arc::new(Inner { launcher, cache: Mutex::default(), is_down: AtomicBool::new(false) }) }
    }

    /// A connection about one root.
    ///
    /// # Errors
    /// The launcher does not answer.
    pub async fn open(&self, root: &Root) -> Result<Session, CallError> {
        self.inner.launcher.open(root).await
    }

    /// What the model is told of memory and skills. Never fails: what could not be read is said instead.
    pub async fn told(&self, root: &Root, today: NaiveDate) -> Arc<str> {
        let generation = {
            let mut cache = self.cache();
            if let Some(text) = cache.get(root, today, Instant::now()) {
                return text;
            }
            cache.generation()
        };
        let (text, good_for) = match self.read(root, today).await {
            Ok(text) => {
                if self.inner.is_down.swap(false, Ordering::Relaxed) {
                    info!("memory and skills can be read again");
                }
                (text.into(), FRESH)
            }
            Err(e) => {
                // Said once, not by every turn.
                if !self.inner.is_down.swap(true, Ordering::Relaxed) {
                    warn!(error = %e, "memory and skills cannot be read, turns go on without them");
                }
                (Arc::from(UNREADABLE), AFTER_FAILURE)
            }
        };
        self.cache().put(*root, today, &text, Instant::now() + good_for, generation);
        text
    }

    async fn read(&self, root: &Root, today: NaiveDate) -> Result<String, CallError> {
        let read = async {
            let mut session = self.open(root).await?;
            reading::read(&mut session, today).await
        };
        let late = || CallError::Unavailable(std::io::Error::other("it takes too long"));
        Ok(timeout(PATIENCE, read).await.map_err(|_| late())??.render(*root == Root::Owner))
    }

    /// Something may have been written in a root: a call of any tool that can write there has ended.
    pub fn changed(&self, root: &Root) {
        self.cache().forget(root);
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Every critical section is a few map operations, which leave the map whole.
        self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
