//! The end of turns that cannot go on.

use super::Scheduler;
use super::calls;
use super::ending::{Ending, Last, store_finish};
use super::run::Outcome;
use crate::store::{Finish, Started, StoreError};
use baal_protocol::{EventKind, TurnState};

/// Ends a turn whose request another version of the agent wrote down.
pub(super) async fn end_unreadable(scheduler: &Scheduler, position: i64) -> Outcome {
    let content = "This message was sent to another version of the agent. Please send it again.".to_owned();
    let finish = Finish {
        position,
        state: TurnState::Done,
        events: vec![EventKind::Error { content }],
        results: Vec::new(),
        results_refused: false,
        answer: String::new(),
        remembered: false,
        had_partial: false,
        pending: None,
        spent_tokens: 0,
    };
    match store_finish(&scheduler.shared.store, &scheduler.shared.shutdown, finish).await {
        Some(_) => Outcome::Failed,
        None => Outcome::Left,
    }
}

/// Ends a turn that a mistake in the agent itself broke.
///
/// # Errors
/// The database failed at something that can be done again.
pub(super) async fn end_broken(scheduler: &Scheduler, position: i64) -> Result<Outcome, StoreError> {
    let shared = &scheduler.shared;
    // What it had in its hands is gone; this tells where it stands.
    let Some(Started { request, kind, deliver_to, standing, .. }) = shared.store.start(position).await? else {
        return Ok(Outcome::Over);
    };
    let Some(request) = request else {
        return Ok(end_unreadable(scheduler, position).await);
    };
    let who = shared.rules.who(&request, kind, deliver_to);
    let open = standing.calls.get(standing.answered..).unwrap_or_default();
    let ending = Ending {
        position,
        who: &who,
        rounds: standing.rounds,
        exhausted: false,
        usage: None,
        results: calls::all(open, "interrupted: the agent failed while this ran or before it came to this."),
        events: Vec::new(),
        had_partial: true,
    };
    let why =
        "A mistake in the agent itself stopped this message. Please try again, perhaps in other words.".to_owned();
    let finish = ending.conclude(Last::Fatal(why));
    Ok(match store_finish(&shared.store, &shared.shutdown, finish).await {
        Some(true) => Outcome::Failed,
        Some(false) => Outcome::Over,
        None => Outcome::Left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ToolCall;
    use crate::store::{self, NewTurn};
    use crate::tools::TurnKind;
    use crate::turns::calls::tests::idle_scheduler;
    use serde_json::json;
    use tempfile::TempDir;

    #[tokio::test]
    async fn a_turn_that_a_mistake_broke_ends_with_words_and_leaves_no_call_open() {
        let directory = TempDir::new().expect("temp dir");
        let scheduler = idle_scheduler(&directory).await;
        let store = &scheduler.shared.store;
        let request = serde_json::from_value(json!({"message": "hi", "chat_id": "1"})).expect("a request");
        let turn = NewTurn::background(TurnKind::Chat, request, String::new());
        let mut watch = store.watch(turn.id);
        store.accept(turn.clone(), true).await.expect("written");
        let call = |id: &str| ToolCall { id: id.into(), name: "bash".into(), arguments: "{}".into() };
        let calls = vec![call("a"), call("b")];
        let round = store::Round { position: 1, text: String::new(), calls, had_deltas: false, spent_tokens: 0 };
        store.round(round).await.expect("written");

        assert!(matches!(end_broken(&scheduler, 1).await, Ok(Outcome::Failed)));
        assert!(matches!(end_broken(&scheduler, 1).await, Ok(Outcome::Over)));
        let mut told = false;
        while let Ok(Some(events)) = tokio::time::timeout(std::time::Duration::from_millis(1), watch.next()).await {
            told |= events.iter().any(|event| matches!(event.kind, EventKind::Error { .. }));
        }
        assert!(told);
        assert_eq!(store.read().next_open_turn("1").await.expect("read"), None, "the chat goes on");
        let history = store.read().turn_messages(1).await.expect("read");
        assert_eq!(history.len(), 4, "every call has a result: {history:?}");
    }
}
