//! A turn's events from its agent, across broken connections.
//!
//! A turn belongs to the agent and has an id, so a connection that breaks is made again and goes on behind the last
//! event seen. Agents of the base protocol know no ids: a request whose bytes may have left is never repeated.

use std::time::Duration;

use baal_protocol::{ChatRequest, EventKind};
use futures_util::StreamExt;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;
use uuid::Uuid;

use super::agent_client::{AgentClient, AgentError, Events};
use super::answer::MAX_ANSWER;
use super::store;
use super::uploads::Uploads;

/// How long an agent may be away before its turn is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The wait before the first try again.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest arguments of a tool that are looked at, in bytes.
const MAX_INPUT: usize = 64 * 1024;

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

/// What the feed works with.
pub struct Feed {
    /// For the agent's address, which may change while its turn is under way.
    pub db: PgPool,
    /// The agent.
    pub client: AgentClient,
    /// Its number.
    pub agent_id: i64,
    /// Whether it knows turns by id.
    pub remembers: bool,
    /// What it is asked.
    pub request: ChatRequest,
    /// What comes with it.
    pub uploads: Uploads,
    /// The turn's id.
    pub turn: Uuid,
}

impl Feed {
    /// Asks the agent and feeds `events` until the turn is done or given up.
    pub async fn run(mut self, events: mpsc::Sender<Fed>) {
        let mut last_seq = 0;
        let mut away_since = None;
        let mut wait = FIRST_WAIT;
        let mut brought = false;
        loop {
            let opened = match last_seq {
                0 => tokio::select! {
                    opened = self.ask(&mut brought) => opened,
                    () = events.closed() => return,
                },
                seen => self.client.resume(self.turn, seen).await,
            };
            let error = match opened {
                Ok(stream) => {
                    let before = last_seq;
                    let Err(error) = pass_on(stream, &mut last_seq, &events).await else { return };
                    // It was there a moment ago; one that only ever breaks is asked less and less often.
                    away_since = None;
                    if last_seq > before {
                        wait = FIRST_WAIT;
                    }
                    error
                }
                Err(error) => error,
            };
            let away = away_since.get_or_insert_with(Instant::now).elapsed();
            let last = match error {
                AgentError::UnknownTurn if last_seq > 0 => {
                    (last_seq, brought) = (0, false);
                    if events.send(Fed::Restarted).await.is_err() {
                        return;
                    }
                    None
                }
                AgentError::UnknownTurn => Some(Fed::Failed(AgentError::Refused(404))),
                AgentError::Refused(_)
                | AgentError::Barred(_)
                | AgentError::NotRunning(_)
                | AgentError::File { .. } => Some(Fed::Failed(error)),
                AgentError::Broken(_) | AgentError::Unwell(_) if !self.remembers => Some(Fed::Unknown(error)),
                _ if away > PATIENCE => Some(Fed::Failed(error)),
                AgentError::Broken(_) | AgentError::Unwell(_) | AgentError::Unreachable(_) => {
                    info!(%error, ?wait, "trying the agent again");
                    None
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait), if last.is_none() => {}
                () = events.closed() => return,
                () = std::future::ready(()), if last.is_some() => {}
            }
            let last = match last {
                None => self.look_again().await,
                last => last,
            };
            if let Some(last) = last {
                let _ = events.send(last).await; // silent-ok: nobody listens any more
                return;
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    /// Puts the question, its files first.
    async fn ask(&mut self, brought: &mut bool) -> Result<Events, AgentError> {
        if !*brought {
            self.uploads.bring(&self.client).await?;
            *brought = true;
        }
        self.client.chat(&self.request).await
    }

    /// Learns where the agent is now: it may have moved, and what listens at its old address is not to get its secret.
    async fn look_again(&mut self) -> Option<Fed> {
        match store::agent_now(&self.db, self.agent_id).await {
            Ok((status, Some(url))) if status == "running" => {
                self.client.at(&url);
                None
            }
            Ok((status, _)) => Some(Fed::Failed(AgentError::NotRunning(status))),
            Err(error) => {
                info!(%error, "the agent's address could not be looked up");
                None
            }
        }
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
        let done = event.kind.is_last();
        let heard = events.send(Fed::Event(slim(event.kind))).await.is_ok();
        if done {
            // To the end of the body, so that the connection can be used again; it follows at once.
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.next()).await; // silent-ok: see above
        }
        if done || !heard {
            return Ok(());
        }
    }
    Err(AgentError::Broken("it ended before the turn did".into()))
}

/// An event without what nobody here looks at: some wait at once for their chat, and each may be as long as an agent likes.
fn slim(event: EventKind) -> EventKind {
    match event {
        EventKind::ToolOutput { name, .. } => EventKind::ToolOutput { name, content: String::new() },
        // Of the arguments a line is shown; of so many, only whose they are.
        EventKind::ToolUse { name, input } if input.len() > MAX_INPUT => {
            EventKind::ToolUse { name, input: String::new() }
        }
        EventKind::Text { content } => EventKind::Text { content: cut(content) },
        EventKind::Delta { content } => EventKind::Delta { content: cut(content) },
        EventKind::Error { content } => EventKind::Error { content: cut(content) },
        EventKind::File { path, caption } => EventKind::File { path, caption: caption.map(cut) },
        event => event,
    }
}

/// As much of a text as is relayed, and enough more for it to be seen that it is too long.
fn cut(mut text: String) -> String {
    const ENOUGH: usize = MAX_ANSWER + 4;
    if text.len() > ENOUGH {
        text.truncate(text.floor_char_boundary(ENOUGH));
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::answer::Answer;

    #[test]
    fn what_waits_for_its_chat_is_small_and_says_the_same() {
        let long = "é".repeat(1_000_000);
        for event in [EventKind::Text { content: long.clone() }, EventKind::Delta { content: long.clone() }] {
            let (mut whole, mut slimmed) = (Answer::default(), Answer::default());
            whole.add(event.clone());
            slimmed.add(slim(event));
            assert!(slimmed == whole && whole.cut_off);
        }
        let input = format!("{{\"path\": \"a\", \"content\": \"{long}\"}}");
        let mut answer = Answer::default();
        answer.add(slim(EventKind::ToolUse { name: "write_file".into(), input }));
        assert_eq!(answer.tools.running(), Some("🔧 write_file"));
        let short = EventKind::ToolUse { name: "bash".into(), input: "{}".into() };
        assert_eq!(slim(short.clone()), short);
        let output = EventKind::ToolOutput { name: "bash".into(), content: long };
        assert_eq!(slim(output), EventKind::ToolOutput { name: "bash".into(), content: String::new() });
    }
}
