//! One turn: its agent answers, and the answer grows in the chat.

use std::time::Duration;

use baal_protocol::{EventKind, REMEMBERS};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};

use super::agent_client::{AgentClient, AgentError};
use super::answer::Answer;
use super::asking::{Asked, agent_of, ask};
use super::ending::Ending;
use super::feed::Fed;
use super::refusal::Refusal;
use super::relay::{ClaimLost, Relay, View};
use super::runner::hand_back;
use super::store::Claimed;
use crate::agents::model::speaks;
use crate::app::App;
use crate::eyes::metrics;
use crate::replica::Replica;
use crate::telegram::texts;

/// How long a turn may take, keepalives or not: its chat waits for it.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// How soon "typing…" is shown; an answer that comes sooner needs none.
const TYPING_AFTER: Duration = Duration::from_millis(150);
/// How often it is shown again: it lasts 5 s.
const TYPING_EVERY: Duration = Duration::from_millis(4_500);

/// Silence after which there is a button to stop the turn.
const LONG: Duration = Duration::from_secs(20);

/// How long an agent may take to hear that it is to stop before the user is told so all the same.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// How often an agent is told to stop that does not hear it.
const STOP_TRIES: u32 = 5;

/// A turn in the hands of this replica.
pub struct Work<'a> {
    /// The process' handles.
    pub app: &'a App,
    /// Whose claim it is.
    pub replica: &'a Replica,
    /// The turn.
    pub turn: &'a Claimed,
    /// Fires when this process is to end.
    pub stop: &'a CancellationToken,
    /// Fires when the user wants no more of the turn.
    pub stopped: &'a CancellationToken,
}

/// Has the agent answer and brings the answer into the chat.
pub async fn drive(work: &Work<'_>, relay: &mut Relay) -> Result<(), ClaimLost> {
    let Work { app, replica, turn, stop, stopped } = *work;
    if turn.unreachable || stopped.is_cancelled() {
        // Another replica may have asked before it died.
        if turn.attempt > 1
            && let Ok(client) = agent_of(app, turn)
        {
            tell_to_stop(&client, turn).await;
        }
        let ending = if turn.unreachable { Ending::nobody_there(turn) } else { Ending::not_begun(turn) };
        return finish(relay, ending).await;
    }
    let asked = tokio::select! {
        asked = ask(app, replica, turn) => asked?,
        () = replica.lost().cancelled() => return Err(ClaimLost),
        () = stop.cancelled() => {
            hand_back(app, replica, turn, Duration::ZERO, false).await;
            return Ok(());
        }
        () = stopped.cancelled() => return finish(relay, Ending::not_begun(turn)).await,
    };
    // One that a dead replica had begun has said its first word already.
    let mut unheard = turn.attempt == 1;
    let mut answer = Answer::default();
    let Asked { client, mut events } = match asked {
        Ok(asked) => asked,
        Err(refusal) => return fail(relay, turn, &answer, refusal).await,
    };
    let mut typing = tokio::time::interval_at(Instant::now() + TYPING_AFTER, TYPING_EVERY);
    // While the answer grows nobody asks for ticks; they must not come all at once afterwards.
    typing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + DEADLINE;
    let mut silent_since = Instant::now();
    while !answer.done {
        let long = silent_since.elapsed() >= LONG;
        let something = !answer.is_empty() || answer.tools.running().is_some() || long;
        tokio::select! {
            biased;
            () = replica.lost().cancelled() => {
                relay.settle().await;
                return Err(ClaimLost);
            }
            () = stop.cancelled() => {
                relay.settle().await;
                hand_back(app, replica, turn, Duration::ZERO, false).await;
                return Ok(());
            }
            () = stopped.cancelled() => {
                events.close();
                tell_to_stop(&client, turn).await;
                return finish(relay, Ending::stopped(turn, &answer)).await;
            }
            fed = events.recv() => match fed {
                Some(Fed::Event(event)) => {
                    if matches!(event, EventKind::Text { .. } | EventKind::Delta { .. }) {
                        silent_since = Instant::now();
                        if std::mem::take(&mut unheard) {
                            metrics::first_token(relay.began.elapsed());
                        }
                    }
                    answer.add(event);
                }
                Some(Fed::Restarted) => answer = Answer::default(),
                Some(Fed::Failed(error)) => return fail(relay, turn, &answer, Refusal::of(&error, turn)).await,
                Some(Fed::Unknown(error)) => return fail(relay, turn, &answer, Refusal::unknown(error.to_string())).await,
                None => return fail(relay, turn, &answer, Refusal::internal("the feed ended")).await,
            },
            () = sleep_until(relay.next_show()), if something => {
                let status = answer.tools.running().or(long.then_some(texts::STILL_AT_WORK));
                relay.show(&View { markdown: &answer.markdown(), status, stoppable: long }).await?;
                if relay.is_unreachable() {
                    events.close();
                    tell_to_stop(&client, turn).await;
                    return finish(relay, Ending::unreachable(&answer)).await;
                }
            }
            _ = typing.tick(), if relay.is_silent() => relay.type_now(),
            () = sleep_until(silent_since + LONG), if !long => {}
            () = sleep_until(deadline) => {
                events.close();
                tell_to_stop(&client, turn).await;
                return fail(relay, turn, &answer, Refusal::too_long()).await;
            }
        }
    }
    if answer.cut_off {
        tell_to_stop(&client, turn).await;
    }
    finish(relay, Ending::complete(turn, &answer)).await
}

async fn finish(relay: &mut Relay, ending: Ending) -> Result<(), ClaimLost> {
    relay.finish(&ending).await?;
    info!(outcome.status = ?ending.outcome.status, turn.tokens = ending.outcome.completion_tokens, "turn finished");
    Ok(())
}

async fn fail(relay: &mut Relay, turn: &Claimed, answer: &Answer, refusal: Refusal) -> Result<(), ClaimLost> {
    warn!(error = refusal.error, "the turn failed");
    relay.finish(&Ending::failed(turn, answer, refusal)).await
}

/// Tells the agent that nobody wants the rest of the turn, and waits a while for it to hear. Before the turn's end is stored:
/// after a kill in between, whoever takes the turn over tells it again. If it never hears, it works for nobody.
async fn tell_to_stop(client: &AgentClient, turn: &Claimed) {
    if !speaks(turn.agent_protocol, REMEMBERS) {
        // It knows no turns by id, and learns from the closed connection that nobody listens.
        return;
    }
    let (client, id) = (client.clone(), turn.id);
    let telling = async move {
        let mut unknown = 0;
        for seconds in 1..=STOP_TRIES {
            match client.cancel(id).await {
                Ok(()) | Err(AgentError::Refused(_)) => return,
                // The question may be on its way still.
                Err(AgentError::UnknownTurn) if unknown < 1 => unknown += 1,
                Err(AgentError::UnknownTurn) => return,
                Err(error) => info!(%error, "the agent could not be told to stop"),
            }
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        }
    };
    let telling = tokio::spawn(telling.in_current_span());
    if tokio::time::timeout(STOP_WAIT, telling).await.is_err() {
        info!("the agent has not heard yet that it is to stop");
    }
}
