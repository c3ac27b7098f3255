//! How a turn ends: its last events, what is remembered, and what is said unasked.

use super::ask::{End, Said};
use crate::background::is_ok;
use crate::model::{ModelError, Usage};
use crate::store::{Finish, Store, ToolResult};
use crate::tools::{TurnKind, Who};
use baal_protocol::{EventKind, PendingSource, TurnState};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Longest wait between two tries to store something.
const MAX_STORE_WAIT: Duration = Duration::from_secs(30);

/// Why a turn ends.
pub(super) enum Last {
    /// The model said something and called nothing.
    Said(Said),
    /// A tool brought the turn to its end, in words for the user.
    Fatal(String),
    /// The user stopped it while tools ran.
    Stopped,
}

/// A turn as it comes to its end.
pub(super) struct Ending<'a> {
    pub position: i64,
    pub who: &'a Who,
    /// Rounds of tools that it had.
    pub rounds: u32,
    /// It may have no more of them.
    pub exhausted: bool,
    /// Tokens and money of the whole turn.
    pub usage: Option<Usage>,
    /// Results that are not stored yet, with their events.
    pub results: Vec<ToolResult>,
    pub events: Vec<EventKind>,
    pub had_partial: bool,
}

impl Ending<'_> {
    pub(super) fn conclude(self, last: Last) -> Finish {
        let mut events = self.events;
        let mut state = TurnState::Done;
        let mut answer = String::new();
        let mut spent_tokens = 0;
        let mut had_partial = self.had_partial;
        let (mut error, mut results_refused) = (None, false);
        match last {
            Last::Fatal(why) => error = Some(why),
            Last::Stopped => state = TurnState::Cancelled,
            Last::Said(said) => {
                spent_tokens = spent(self.who, said.usage);
                had_partial |= said.had_deltas;
                answer = said.text;
                match said.end {
                    End::Whole if answer.is_empty() && self.exhausted => error = Some(exhausted(self.rounds)),
                    End::Whole => {}
                    End::Broken(e) => {
                        // 400, 413, 422: the service does not like what it was sent, not who sent it or when.
                        results_refused =
                            self.rounds > 0 && matches!(e, ModelError::Refused { status: 400 | 413 | 422 });
                        error = Some(e.to_string());
                    }
                    End::Stopped => state = TurnState::Cancelled,
                }
            }
        }
        if !answer.is_empty() {
            events.push(EventKind::Text { content: answer.clone() });
        }
        let pending = unasked(self.who.kind, self.position, state, &answer, error.as_deref());
        events.extend(error.map(|content| EventKind::Error { content }));
        if let Some(Usage { prompt_tokens, completion_tokens, cost }) = self.usage {
            events.push(EventKind::Usage { prompt_tokens, completion_tokens, cost });
        }
        // What works in the background leaves its last words in the history of the chat that it works for.
        let remembered = self.who.kind == TurnKind::Chat && (self.rounds > 0 || !answer.is_empty());
        Finish {
            position: self.position,
            state,
            events,
            results: self.results,
            results_refused,
            answer,
            remembered,
            had_partial,
            pending,
            spent_tokens,
        }
    }
}

/// What a turn without a person says at its end: source and content of a pending message.
fn unasked(
    kind: TurnKind,
    position: i64,
    state: TurnState,
    answer: &str,
    error: Option<&str>,
) -> Option<(PendingSource, String)> {
    let answer = answer.trim();
    match kind {
        TurnKind::Chat => None,
        // It looks again later, so neither a failure nor half an answer is worth a message.
        TurnKind::Heartbeat => {
            let says_something = state == TurnState::Done && error.is_none() && !answer.is_empty() && !is_ok(answer);
            says_something.then(|| (PendingSource::Heartbeat, answer.to_owned()))
        }
        TurnKind::Subagent => {
            let how = match (state, error) {
                (TurnState::Cancelled, _) => "was cancelled.".to_owned(),
                (_, Some(error)) => format!("could not finish: {error}"),
                (_, None) if answer.is_empty() => "is done and has nothing to say.".to_owned(),
                (_, None) => "is done:".to_owned(),
            };
            let content = format!("Subagent {position} {how}\n\n{answer}");
            Some((PendingSource::Subagent, content.trim_end().to_owned()))
        }
    }
}

fn exhausted(rounds: u32) -> String {
    format!(
        "I have used all {rounds} rounds of tools that one message may take and am not done. Ask me to go on if you want \
         me to."
    )
}

/// What counts for the day's cap of turns without a person.
pub(super) fn spent(who: &Who, usage: Option<Usage>) -> i64 {
    match usage {
        Some(usage) if who.kind != TurnKind::Chat => usage.prompt_tokens + usage.completion_tokens,
        _ => 0,
    }
}

/// Stores something, again and again if need be: it is paid for, or it was done. `None` where the agent shuts down meanwhile;
/// `Some(false)` where the turn was over already.
pub(super) async fn insist<F>(shutdown: &CancellationToken, mut store: impl FnMut() -> F) -> Option<bool>
where
    F: Future<Output = Result<bool, crate::store::StoreError>>,
{
    let mut wait = Duration::from_secs(1);
    loop {
        match store().await {
            Ok(stored) => return Some(stored),
            Err(e) => error!(error = %e, "what a turn brought could not be stored, trying again"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(wait)).await?;
        wait = (wait * 2).min(MAX_STORE_WAIT);
    }
}

/// Stores the end of a turn.
pub(super) async fn store_finish(store: &Store, shutdown: &CancellationToken, finish: Finish) -> Option<bool> {
    insist(shutdown, || store.finish(finish.clone())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use baal_protocol::Role;

    fn finish(kind: TurnKind, rounds: u32, last: Last) -> Finish {
        let deliver_to = (kind != TurnKind::Chat).then(|| "7".to_owned());
        let who = Who {
            chat_id: "1".into(),
            role: Role::Owner,
            only_talks: false,
            kind,
            deliver_to,
            visitor_tools: [].into(),
        };
        let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, cost: None });
        let ending = Ending {
            position: 1,
            who: &who,
            rounds,
            exhausted: false,
            usage,
            results: Vec::new(),
            events: Vec::new(),
            had_partial: false,
        };
        ending.conclude(last)
    }

    fn said(text: &str, end: End) -> Last {
        let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 2, cost: None });
        Last::Said(Said { text: text.into(), calls: Vec::new(), usage, end, had_deltas: false })
    }

    #[test]
    fn an_answer_ends_with_text_and_usage() {
        let wanted = vec![
            EventKind::Text { content: "hello".into() },
            EventKind::Usage { prompt_tokens: 3, completion_tokens: 2, cost: None },
        ];
        let finish = finish(TurnKind::Chat, 0, said("hello", End::Whole));
        assert_eq!((finish.events, finish.state, finish.remembered), (wanted, TurnState::Done, true));
        assert_eq!((finish.pending, finish.spent_tokens), (None, 0));
    }

    #[test]
    fn half_an_answer_is_kept_and_no_answer_is_not_remembered() {
        let half = finish(TurnKind::Chat, 0, said("half", End::Broken(ModelError::Broken)));
        assert!(matches!(&half.events[..], [EventKind::Text { .. }, EventKind::Error { .. }, EventKind::Usage { .. }]));
        assert_eq!((half.state, half.remembered), (TurnState::Done, true));
        let none = finish(TurnKind::Chat, 0, said("", End::Stopped));
        assert!(matches!(&none.events[..], [EventKind::Usage { .. }]));
        assert_eq!((none.state, none.remembered), (TurnState::Cancelled, false));
        let with_tools = finish(TurnKind::Chat, 1, said("", End::Stopped));
        assert!(with_tools.remembered, "what tools did is remembered");
    }

    #[test]
    fn results_that_the_service_may_have_refused_are_told_from_other_failures() {
        let refused = |rounds, e| finish(TurnKind::Chat, rounds, said("", End::Broken(e))).results_refused;
        assert!(refused(1, ModelError::Refused { status: 400 }));
        assert!(!refused(0, ModelError::Refused { status: 400 }) && !refused(1, ModelError::Refused { status: 404 }));
        assert!(!refused(1, ModelError::Unreachable));
    }

    #[test]
    fn what_works_in_the_background_is_delivered_and_counted() {
        let says = |finish: Finish| finish.pending.map(|(source, content)| (source.as_str(), content));
        let subagent = finish(TurnKind::Subagent, 1, said("found it", End::Whole));
        assert_eq!((subagent.spent_tokens, subagent.remembered), (5, false));
        assert_eq!(says(subagent), Some(("subagent", "Subagent 1 is done:\n\nfound it".into())));
        let failed = finish(TurnKind::Subagent, 1, said("", End::Broken(ModelError::Key)));
        assert_eq!(says(failed), Some(("subagent", format!("Subagent 1 could not finish: {}", ModelError::Key))));
        let cancelled = finish(TurnKind::Subagent, 1, Last::Stopped);
        assert_eq!(says(cancelled), Some(("subagent", "Subagent 1 was cancelled.".into())));
        let quiet = finish(TurnKind::Heartbeat, 1, said(" HEARTBEAT_OK\n", End::Whole));
        assert_eq!(says(quiet), None);
        let loud = finish(TurnKind::Heartbeat, 1, said("Rain is coming.", End::Whole));
        assert_eq!(says(loud), Some(("heartbeat", "Rain is coming.".into())));
        assert_eq!(says(finish(TurnKind::Heartbeat, 1, said("half", End::Broken(ModelError::Broken)))), None);
    }

    #[test]
    fn costs_add_up() {
        let usage = |prompt_tokens, cost| Some(Usage { prompt_tokens, completion_tokens: 1, cost });
        assert_eq!(
            Usage::sum(usage(3, Some(0.25)), usage(4, None)).map(|u| (u.prompt_tokens, u.cost)),
            Some((7, Some(0.25)))
        );
        assert_eq!(Usage::sum(None, usage(4, None)), usage(4, None));
        assert_eq!(Usage::sum(None, None), None);
    }
}
