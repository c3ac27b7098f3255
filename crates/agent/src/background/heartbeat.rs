//! The heartbeat: every now and then the agent looks by itself whether there is something to do.

use super::todo::has_something_to_do;
use super::{Budget, turn};
use crate::clock;
use crate::store::{Beat, NewTurn, Store, StoreError};
use crate::tools::{HEARTBEAT_CHAT, TurnKind};
use crate::turns::Scheduler;
use baal_launcher::Root;
use baal_launcher::client::{CallError, Launcher};
use baal_launcher::wire::Failure;
use baal_protocol::Role;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// What is to be done, in the owner's workspace.
const FILE: &str = "HEARTBEAT.md";
/// Bytes of it that are read.
const MAX_BYTES: u64 = 32 * 1024;
/// How soon it is looked again whether the owner's turns are over.
const WHILE_BUSY: Duration = Duration::from_secs(2);
/// How far in the future the last beat may lie, in seconds: a clock is set by a little now and then.
const CLOCKS_DIFFER: i64 = 60;
/// Wait after the database or the launcher failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The agent's heartbeat.
pub struct Heartbeat {
    /// The database.
    pub store: Store,
    /// Runs the turns.
    pub turns: Scheduler,
    /// Reaches the owner's files.
    pub launcher: Arc<Launcher>,
    /// What may be spent.
    pub budget: Budget,
    /// Between two beats.
    pub interval: Duration,
    /// Whom it works for.
    pub owner_chat_id: String,
}

/// Why a beat did not happen.
#[derive(Debug, thiserror::Error)]
enum NoBeat {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("HEARTBEAT.md cannot be read: {0}")]
    File(#[from] CallError),
}

impl Heartbeat {
    /// Beats until the shutdown; never where the interval is 0, there is no owner, or nothing may be spent.
    pub async fn run(self, shutdown: CancellationToken) {
        if self.interval.is_zero() {
            return;
        }
        if self.owner_chat_id.is_empty() {
            info!("no heartbeat: owner_chat_id is not configured, so nobody would hear of it");
            return;
        }
        if self.budget.is_off() {
            info!("no heartbeat: background_tokens_per_day is 0");
            return;
        }
        // silent-ok: the shutdown ends it
        let _ = shutdown.run_until_cancelled(self.beat_on()).await;
    }

    async fn beat_on(&self) {
        loop {
            let wait = match self.due_in().await {
                Ok(wait) if wait.is_zero() => match self.beat().await {
                    Ok(Beat::Taken) => continue,
                    Ok(Beat::Busy) => WHILE_BUSY.min(self.interval),
                    Err(e) => {
                        error!(error = %e, "the heartbeat failed, trying again");
                        AFTER_FAILURE
                    }
                },
                Ok(wait) => wait,
                Err(e) => {
                    error!(error = %e, "the time of the last heartbeat cannot be read");
                    AFTER_FAILURE
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Time until the next beat, and up to a tenth of the interval more: agents that started together drift apart.
    async fn due_in(&self) -> Result<Duration, StoreError> {
        let last = self.store.read().last_heartbeat().await?;
        let since = clock::now().timestamp().saturating_sub(last);
        if since < -CLOCKS_DIFFER {
            // Otherwise nothing would happen until the clock is there again, perhaps for years.
            warn!(
                seconds = -since,
                "the last heartbeat lies in the future: the clock was set back, counting from now on"
            );
            self.store.skip_beat().await?;
        }
        let since = u64::try_from(since).unwrap_or(0);
        let left = self.interval.saturating_sub(Duration::from_secs(since));
        if left.is_zero() {
            return Ok(left);
        }
        // The database counts whole seconds, so a little later is surely due.
        let jitter = self.interval.mul_f64(rand::rng().random_range(0.0..0.1));
        Ok(left + jitter)
    }

    async fn beat(&self) -> Result<Beat, NoBeat> {
        // Asked again with the turn's own commit; here so that nobody opens the file every two seconds in the meantime.
        if self.store.read().next_open_turn(&self.owner_chat_id).await?.is_some() {
            return Ok(Beat::Busy);
        }
        let Some(todo) = self.todo().await? else {
            self.store.skip_beat().await?;
            return Ok(Beat::Taken);
        };
        if !self.budget.is_left().await? {
            debug!("no heartbeat: the day's tokens are spent");
            self.store.skip_beat().await?;
            return Ok(Beat::Taken);
        }
        let turn = self.turn(&todo);
        let id = turn.id;
        let beat = self.store.beat(turn, self.owner_chat_id.clone()).await?;
        if beat == Beat::Taken {
            info!(turn.id = %id, "heartbeat");
            self.turns.wake(HEARTBEAT_CHAT);
        }
        Ok(beat)
    }

    /// What HEARTBEAT.md asks for; `None` where there is nothing.
    async fn todo(&self) -> Result<Option<String>, NoBeat> {
        let content = match self.launcher.open(&Root::Owner).await?.read(FILE, MAX_BYTES).await {
            Ok(content) => content,
            Err(CallError::Failed(Failure::NotFound(_))) => return Ok(None),
            Err(CallError::Failed(failure)) => {
                // Of the model's own making, such as a directory of this name: it does not get better by asking again soon.
                warn!(error = %failure, "no heartbeat: HEARTBEAT.md cannot be read");
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        let text = String::from_utf8_lossy(&content.bytes).into_owned();
        Ok(has_something_to_do(&text).then_some(text))
    }

    fn turn(&self, todo: &str) -> NewTurn {
        let message = format!(
            "[The agent: this is a heartbeat, nobody has written. Below is your HEARTBEAT.md. Do what is due in it now, \
             with your tools where needed; you may edit the file. What you say at the end is sent to the owner. If there \
             is nothing that the owner should hear now, answer just HEARTBEAT_OK.]\n\n{todo}"
        );
        turn(TurnKind::Heartbeat, HEARTBEAT_CHAT.to_owned(), message, Role::Owner, &self.owner_chat_id)
    }
}

/// Whether an answer says only that there is nothing to say, however it is decorated.
pub fn is_ok(answer: &str) -> bool {
    let letters: String = answer.chars().filter(|c| c.is_alphanumeric()).collect();
    letters.eq_ignore_ascii_case("HEARTBEATOK")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_say_is_known_in_any_decoration() {
        for answer in ["HEARTBEAT_OK", " **HEARTBEAT_OK**.\n", "`heartbeat_ok`", "✅ HEARTBEAT_OK!", "HEARTBEAT OK"] {
            assert!(is_ok(answer), "{answer}");
        }
        for answer in ["", "HEARTBEAT_OK but it rains", "OK", "I would say HEARTBEAT_OK."] {
            assert!(!is_ok(answer), "{answer}");
        }
    }
}
