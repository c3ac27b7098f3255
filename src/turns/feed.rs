//! A turn's events from its agent, across broken connections.
//!
//! A turn belongs to the agent and has an id, so a connection that breaks is made again and goes on behind the last
//! event seen. Agents of the base protocol know no ids: a request whose bytes may have left is never repeated.

use std::time::Duration;

use baal_protocol::{ChatRequest, EventKind};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;
use uuid::Uuid;

use super::agent_client::{AgentClient, AgentError, Events};

/// How long an agent may be away before its turn is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Fed {
    /// The next event.
    Event(EventKind),
    /// The agent does not remember what it said; it begins again.
    Restarted,
    /// It is no use, for this reason. The last item.
    Failed(AgentError),
    /// Nobody knows whether the agent has run the turn. The last item.
    Unknown(AgentError),
}

/// Asks the agent and feeds `events` until the turn is done or given up. `remembers`: the agent knows turns by id.
pub async fn feed(client: AgentClient, request: ChatRequest, turn: Uuid, remembers: bool, events: mpsc::Sender<Fed>) {
    let mut last_seq = 0;
    let mut progress = Instant::now();
    let mut wait = Duration::from_millis(250);
    loop {
        let opened = if last_seq > 0 { client.resume(turn, last_seq).await } else { client.chat(&request).await };
        let before = last_seq;
        let error = match opened {
            Ok(stream) => match pass_on(stream, &mut last_seq, &events).await {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        if last_seq > before {
            progress = Instant::now();
            wait = Duration::from_millis(250);
        }
        let last = match error {
            AgentError::UnknownTurn if last_seq > 0 => {
                last_seq = 0;
                if events.send(Fed::Restarted).await.is_err() {
                    return;
                }
                continue;
            }
            AgentError::UnknownTurn => Some(Fed::Failed(AgentError::Refused(404))),
            AgentError::Refused(_) => Some(Fed::Failed(error)),
            AgentError::Broken(_) | AgentError::Unwell(_) if !remembers => Some(Fed::Unknown(error)),
            _ if progress.elapsed() > PATIENCE => Some(Fed::Failed(error)),
            AgentError::Broken(_) | AgentError::Unwell(_) | AgentError::Unreachable(_) => {
                info!(%error, ?wait, "trying the agent again");
                None
            }
        };
        if let Some(last) = last {
            drop(events.send(last).await); // silent-ok: nobody listens any more
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// Passes events on until `done`.
async fn pass_on(mut stream: Events, last_seq: &mut i64, events: &mpsc::Sender<Fed>) -> Result<(), AgentError> {
    while let Some(event) = stream.next().await {
        let event = event?;
        if event.seq != 0 && event.seq <= *last_seq {
            continue;
        }
        *last_seq = event.seq.max(*last_seq);
        let done = matches!(event.kind, EventKind::Done { .. });
        if events.send(Fed::Event(event.kind)).await.is_err() || done {
            return Ok(());
        }
    }
    Err(AgentError::Broken("it ended before the turn did".into()))
}
