//! Letting an agent forget a chat: `DELETE /chat/{chat_id}`, which may be repeated without harm. What fails is tried again
//! by the row, so that neither a restart nor an agent that is down for a day loses it.

use std::time::Duration;

use tracing::{info, warn};

use super::answering::Work;
use super::asking::agent_of;
use super::ending::Ending;
use super::outcome::{Outcome, Status};
use super::relay::{ClaimLost, Relay};
use super::runner::hand_back;
use super::store::{self, Claimed, Kind};
use crate::app::App;
use crate::replica::Replica;
use crate::slots::bounded;
use crate::telegram::callback::Press;
use crate::telegram::texts;
use crate::wake::Queue;

/// How long somebody waits for `/new`.
const RESET_PATIENCE: Duration = Duration::from_secs(30);

/// How long an agent may be away before what it knows of a person is left to it: it is most likely gone for good.
const FORGET_PATIENCE: Duration = Duration::from_secs(7 * 86_400);

/// Has the turn's chat forgotten by its agent.
pub async fn drive(work: &Work<'_>, relay: &mut Relay) -> Result<(), ClaimLost> {
    let Work { app, replica, turn, stop, .. } = *work;
    let result = tokio::select! {
        result = forget(app, turn) => result,
        () = replica.lost().cancelled() => return Err(ClaimLost),
        () = stop.cancelled() => {
            hand_back(app, replica, turn, Duration::ZERO, false).await;
            return Ok(());
        }
    };
    let name = &turn.agent_name;
    let (error, ending) = match result {
        Ok(()) if turn.kind == Kind::Reset => (None, Ending::says(texts::fresh_start(name))),
        Ok(()) => (None, Ending::default()),
        Err(_) if turn.kind == Kind::Forget && matches!(turn.agent_status.as_str(), "deleting" | "deleted") => {
            // Whatever it knew goes with its machine. One that runs elsewhere keeps it, and nobody can tell it any more.
            let kept = "it was deleted here before it could be told, and runs elsewhere";
            (turn.agent_external.then(|| kept.to_owned()), Ending::default())
        }
        Err(error) if turn.age < patience(turn.kind) => {
            info!(error, "the agent could not be told to forget; trying again");
            match turn.kind {
                // What is said meanwhile need not wait for days.
                Kind::Forget => hand_back_behind(app, replica, turn).await,
                _ => hand_back(app, replica, turn, wait(turn.age), false).await,
            }
            return Ok(());
        }
        Err(error) if turn.kind == Kind::Reset => {
            let mut ending = Ending::says(texts::not_fresh(name));
            ending.buttons = vec![vec![Press::NewChat(turn.agent_id).button(texts::TRY_AGAIN)]];
            (Some(error), ending)
        }
        Err(error) => (Some(error), Ending::default()),
    };
    let status = if error.is_some() { Status::Failed } else { Status::Completed };
    if let Some(error) = &error {
        warn!(error, "the agent could not be told to forget");
    }
    relay.finish(&Ending { outcome: Outcome { error, ..Outcome::of(status) }, ..ending }).await?;
    info!(outcome.status = ?status, "the agent was told to forget the chat");
    Ok(())
}

async fn hand_back_behind(app: &App, replica: &Replica, turn: &Claimed) {
    let handed = bounded(store::hand_back_behind(&app.db, replica.id(), turn, wait(turn.age))).await;
    if let Err(error) = handed {
        // The claim is found to be nobody's work and given back (`Slots`).
        warn!(%error, "a turn could not be handed back");
    }
    app.wake.wake(Queue::Turns);
}

async fn forget(app: &App, turn: &Claimed) -> Result<(), String> {
    let client = agent_of(app, turn).map_err(|refusal| refusal.error)?;
    client.forget(&turn.place.chat_id.to_string()).await.map_err(|error| error.to_string())
}

fn patience(kind: Kind) -> Duration {
    if kind == Kind::Forget { FORGET_PATIENCE } else { RESET_PATIENCE }
}

/// A quarter of the time since it was asked for, from a second to five minutes.
fn wait(age: Duration) -> Duration {
    (age / 4).clamp(Duration::from_secs(1), Duration::from_secs(300))
}
