//! One turn, from the question to its last event.

use super::Persona;
use crate::clock;
use crate::model::{Answer, Client, Message, ModelError, Usage};
use crate::prompt;
use crate::store::{Finish, Started, Store, StoreError};
use baal_protocol::{ChatRequest, EventKind, TurnState};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Text that comes within this time is one delta: enough for the eye, and few rows.
const DELTA_EVERY: Duration = Duration::from_millis(50);
/// Longest wait between two tries to store an answer.
const MAX_STORE_WAIT: Duration = Duration::from_secs(30);

/// How a turn ended.
pub(super) enum Outcome {
    Answered,
    Failed,
    Cancelled,
    /// It had ended before it could start.
    Over,
}

/// Runs one turn to its end.
///
/// # Errors
/// The database failed before the model was asked.
pub(super) async fn run(
    store: &Store,
    model: &Client,
    persona: &Persona,
    position: i64,
    stop: &CancellationToken,
) -> Result<Outcome, StoreError> {
    let Some(started) = store.start(position).await? else {
        return Ok(Outcome::Over);
    };
    if started.cancel_requested {
        stop.cancel();
    }
    let Started { request, has_events, .. } = started;
    let Ok(request) = serde_json::from_str::<ChatRequest>(&request) else {
        // Another version of the agent took it in; without an end, the chat would be stuck behind it for ever.
        return Ok(end_unreadable(store, position).await);
    };
    let history = store.read().history(&request.chat_id, persona.max_history).await?;
    let system = prompt::system_message(&persona.agent_name, &persona.system_prompt, clock::now().date_naive());
    let messages = prompt::conversation(system, history, &request.message);

    // Whoever saw pieces of an answer that a restart interrupted gets the new one whole, not pieces of both.
    let deltas = Deltas { store, position, wanted: request.stream && !has_events };
    let round = ask(model, &messages, deltas, stop).await;

    let outcome = match round.end {
        End::Whole => Outcome::Answered,
        End::Broken(_) => Outcome::Failed,
        End::Stopped => Outcome::Cancelled,
    };
    let finish = conclude(position, request.message, round);
    if store_finish(store, finish).await { Ok(outcome) } else { Ok(Outcome::Over) }
}

async fn end_unreadable(store: &Store, position: i64) -> Outcome {
    let content = "This message was sent to another version of the agent. Please send it again.".to_owned();
    let events = vec![EventKind::Error { content }, EventKind::Done { pending: Some(0) }];
    store_finish(store, Finish { position, state: TurnState::Done, events, exchange: None }).await;
    Outcome::Failed
}

/// What one question to the model brought.
struct Round {
    text: String,
    usage: Option<Usage>,
    end: End,
}

enum End {
    Whole,
    Broken(ModelError),
    Stopped,
}

/// Asks the model once and reads its answer, until it ends, breaks or is stopped.
async fn ask(model: &Client, messages: &[Message], mut deltas: Deltas<'_>, stop: &CancellationToken) -> Round {
    let mut round = Round { text: String::new(), usage: None, end: End::Whole };
    match stop.run_until_cancelled(model.ask(messages)).await {
        None => round.end = End::Stopped,
        Some(Err(e)) => round.end = End::Broken(e),
        Some(Ok(mut answer)) => {
            round.end = read(&mut answer, &mut round.text, &mut deltas, stop).await;
            round.usage = answer.usage();
        }
    }
    if let End::Broken(e) = &round.end {
        warn!(error = %e, "the model gave no whole answer");
    }
    round
}

async fn read(answer: &mut Answer, whole: &mut String, deltas: &mut Deltas<'_>, stop: &CancellationToken) -> End {
    let mut pending = String::new();
    let mut flush_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return End::Stopped,
            () = sleep_until(flush_at), if !pending.is_empty() => {
                deltas.send(std::mem::take(&mut pending)).await;
                flush_at = Instant::now() + DELTA_EVERY;
            }
            piece = answer.next() => match piece {
                Ok(Some(text)) => {
                    pending.push_str(&text);
                    whole.push_str(&text);
                }
                Ok(None) => return End::Whole,
                Err(e) => return End::Broken(e),
            },
        }
    }
}

/// Where partial text goes.
struct Deltas<'a> {
    store: &'a Store,
    position: i64,
    wanted: bool,
}

impl Deltas<'_> {
    async fn send(&mut self, content: String) {
        if !self.wanted {
            return;
        }
        if let Err(e) = self.store.append(self.position, vec![EventKind::Delta { content }]).await {
            // The whole text will follow; without this piece the next ones would not fit.
            self.wanted = false;
            warn!(error = %e, "partial text was not stored, the rest comes in one piece");
        }
    }
}

/// The last events and what is remembered.
///
/// An exchange without an answer is not remembered: a message that makes the model fail would make every later turn fail.
fn conclude(position: i64, said: String, round: Round) -> Finish {
    let mut events = Vec::with_capacity(4);
    if !round.text.is_empty() {
        events.push(EventKind::Text { content: round.text.clone() });
    }
    let state = match round.end {
        End::Whole => TurnState::Done,
        End::Broken(e) => {
            events.push(EventKind::Error { content: e.to_string() });
            TurnState::Done
        }
        End::Stopped => TurnState::Cancelled,
    };
    if let Some(Usage { prompt_tokens, completion_tokens, cost }) = round.usage {
        events.push(EventKind::Usage { prompt_tokens, completion_tokens, cost });
    }
    events.push(EventKind::Done { pending: Some(0) });
    let exchange = (!round.text.is_empty()).then_some((said, round.text));
    Finish { position, state, events, exchange }
}

/// Stores the end, again and again if need be: the answer is paid for. `false` where the turn was over already.
async fn store_finish(store: &Store, finish: Finish) -> bool {
    let mut wait = Duration::from_secs(1);
    loop {
        match store.finish(finish.clone()).await {
            Ok(stored) => return stored,
            Err(e) => error!(error = %e, "the answer could not be stored, trying again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_STORE_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(end: End, text: &str) -> (Vec<EventKind>, TurnState, bool) {
        let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, cost: None });
        let finish = conclude(1, "hi".into(), Round { text: text.into(), usage, end });
        (finish.events, finish.state, finish.exchange.is_some())
    }

    #[test]
    fn an_answer_ends_with_text_usage_done() {
        let wanted = vec![
            EventKind::Text { content: "hello".into() },
            EventKind::Usage { prompt_tokens: 3, completion_tokens: 2, cost: None },
            EventKind::Done { pending: Some(0) },
        ];
        assert_eq!(kinds(End::Whole, "hello"), (wanted, TurnState::Done, true));
    }

    #[test]
    fn half_an_answer_is_kept_and_no_answer_is_not_remembered() {
        let (events, state, remembered) = kinds(End::Broken(ModelError::Broken), "half");
        assert!(matches!(&events[..], [EventKind::Text { .. }, EventKind::Error { .. }, _, EventKind::Done { .. }]));
        assert_eq!((state, remembered), (TurnState::Done, true));
        let (events, state, remembered) = kinds(End::Stopped, "");
        assert!(matches!(&events[..], [EventKind::Usage { .. }, EventKind::Done { .. }]));
        assert_eq!((state, remembered), (TurnState::Cancelled, false));
    }
}
