//! What keeps tools from what is not theirs, as found out at start.

use baal_launcher::client::Launcher;
use baal_launcher::wire;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Wait before the launcher is asked again; doubled as long as it doesn't answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
const MAX_ASK_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// How long a turn waits to hear whether it has a shell.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// What is known of the walls. Clones share it.
#[derive(Clone)]
pub struct Walls {
    found: watch::Sender<Option<baal_protocol::Walls>>,
    bash_without_walls: bool,
}

impl Walls {
    /// Nothing is known yet.
    pub fn unknown(bash_without_walls: bool) -> Self {
        Self { found: watch::channel(None).0, bash_without_walls }
    }

    /// For `/version`; `None` where it is not known yet.
    pub fn found(&self) -> Option<baal_protocol::Walls> {
        self.found.borrow().clone()
    }

    /// Whether there is a shell.
    pub fn has_bash(&self) -> bool {
        self.bash_without_walls || self.found.borrow().as_ref().is_some_and(|walls| walls.bash)
    }

    /// Waits a little until it is known whether there is a shell.
    pub async fn settled(&self) {
        if self.bash_without_walls {
            return;
        }
        let mut found = self.found.subscribe();
        // silent-ok: then there is none for this turn
        drop(tokio::time::timeout(KNOWN_WITHIN, found.wait_for(Option::is_some)).await);
    }

    /// Asks the launcher until it answers. `port` is the agent's own, which tools must not reach.
    pub async fn probe(self, launcher: Arc<Launcher>, port: u16, shutdown: CancellationToken) {
        let mut wait = ASK_AGAIN_AFTER;
        loop {
            let Some(asked) = shutdown.run_until_cancelled(launcher.probe(port)).await else {
                return;
            };
            match asked {
                Ok(walls) => {
                    self.tell(&walls);
                    return;
                }
                Err(e) => warn!(error = %e, "the walls around the tools are unknown, and so there is no shell"),
            }
            let missing = vec!["the launcher of the tools does not answer".to_owned()];
            let unknown = baal_protocol::Walls { complete: false, missing, bash: self.bash_without_walls };
            self.found.send_replace(Some(unknown));
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            wait = (wait * 2).min(MAX_ASK_AGAIN_AFTER);
        }
    }

    fn tell(&self, walls: &wire::Walls) {
        let missing: Vec<String> = walls.missing().into_iter().map(str::to_owned).collect();
        let complete = missing.is_empty();
        let bash = complete || self.bash_without_walls;
        if complete {
            info!(landlock_abi = walls.landlock_abi, "the walls around the tools hold, and there is a shell");
        } else {
            let missing = missing.join("; ");
            let shell = if bash { "bash is offered all the same, as configured" } else { "bash is not offered" };
            warn!(missing, shell, "the walls around the tools are incomplete");
        }
        self.found.send_replace(Some(baal_protocol::Walls { complete, missing, bash }));
    }
}
