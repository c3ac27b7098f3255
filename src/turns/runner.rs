//! Runs turns: in order per (chat, agent), as many at once as there are.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use baal_protocol::{ChatRequest, Mode, Sender};
use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};
use uuid::Uuid;

use super::agent_client::{AgentClient, AgentError};
use super::answer::Answer;
use super::feed::{Fed, Feed};
use super::relay::{ClaimLost, Relay};
use super::store::{self, Claimed, Outcome, Request, Status};
use crate::app::App;
use crate::replica::Replica;
use crate::slots::{Slots, bounded, ids};
use crate::telegram::callback::Press;
use crate::telegram::text::Buttons;
use crate::telegram::texts;
use crate::wake::Queue;

/// Turns under way at once; each waits for its agent nearly all the time.
const PARALLEL: usize = 2_000;
/// Turns claimed at once.
const BATCH: usize = 64;
const POLL: Duration = Duration::from_millis(500);

/// How long a turn may take, keepalives or not: its chat waits for it.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// How soon "typing…" is shown; an answer that comes sooner needs none.
const TYPING_AFTER: Duration = Duration::from_millis(150);
/// How often it is shown again: it lasts 5 s.
const TYPING_EVERY: Duration = Duration::from_millis(4_500);

/// Runs turns until `stop`, then hands back those under way: an agent goes on by itself, and whoever claims the turn next
/// attaches to it.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    let mut slots = Slots::new(PARALLEL);
    while !stop.is_cancelled() {
        if let Some(held) = slots.due() {
            slots.looked("turns", bounded(store::release_strays(&app.db, replica.id(), &ids(held))).await);
        }
        let free = slots.free().min(BATCH);
        if free == 0 {
            slots.one_ends().await;
            continue;
        }
        let claim = store::claim(&app.db, replica.id(), app.bot_id, free as i64);
        let turns = slots.claim("turns", claim).await.unwrap_or_default();
        let more = turns.len() == free;
        for turn in turns {
            slots.spawn((turn.id, turn.attempt), run_one(app.clone(), replica.clone(), turn, stop.clone()));
        }
        if more {
            continue;
        }
        tokio::select! {
            () = app.wake.wait(Queue::Turns, POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    slots.all_end().await;
}

async fn run_one(app: App, replica: Replica, turn: Claimed, stop: CancellationToken) {
    let span = info_span!("turn", turn.id = %turn.id, agent.id = turn.agent_id, chat.id = turn.place.chat_id);
    async {
        let drive = AssertUnwindSafe(drive(&app, &replica, &turn, &stop)).catch_unwind();
        match drive.await {
            Ok(Ok(())) => {}
            Ok(Err(ClaimLost)) => warn!("the turn's claim was lost; letting go"),
            Err(_) => {
                error!("running the turn panicked; trying again");
                // Not before an edit that may be under way is over.
                hand_back(&app, &replica, &turn, replica.call_timeout(), true).await;
            }
        }
        // The next turn of this chat and agent may be free now.
        app.wake.wake_here(Queue::Turns);
    }
    .instrument(span)
    .await;
}

async fn drive(app: &App, replica: &Replica, turn: &Claimed, stop: &CancellationToken) -> Result<(), ClaimLost> {
    let mut relay = Relay::new(app.clone(), replica.clone(), turn.clone());
    let (client, mut events) = match ask(app, replica, turn).await? {
        Ok(asked) => asked,
        Err(refusal) => return fail(&mut relay, &Answer::default(), refusal).await,
    };
    let mut answer = Answer::default();
    let mut typing = tokio::time::interval_at(Instant::now() + TYPING_AFTER, TYPING_EVERY);
    // While the answer grows nobody asks for ticks; they must not come all at once afterwards.
    typing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = Instant::now() + DEADLINE;
    while !answer.done {
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
            fed = events.recv() => match fed {
                Some(Fed::Event(event)) => answer.add(event),
                Some(Fed::Restarted) => answer = Answer::default(),
                Some(Fed::Failed(error)) => return fail(&mut relay, &answer, Refusal::of(error, turn)).await,
                Some(Fed::Unknown(error)) => return fail(&mut relay, &answer, Refusal::unknown(error.to_string())).await,
                None => return fail(&mut relay, &answer, Refusal::internal("the feed ended")).await,
            },
            () = tokio::time::sleep_until(relay.next_show()), if !answer.is_empty() => relay.show(&answer.markdown()).await?,
            _ = typing.tick(), if relay.is_silent() => relay.type_now(),
            () = tokio::time::sleep_until(deadline) => {
                cancel(client, turn.id);
                return fail(&mut relay, &answer, Refusal::too_long()).await;
            }
        }
    }
    if answer.cut_off {
        cancel(client, turn.id);
    }
    let failed = answer.error.is_some();
    let outcome = outcome(&answer, if failed { Status::Failed } else { Status::Completed }, answer.error.clone());
    let text = texts::final_text(&answer.markdown(), answer.error.as_deref());
    relay.finish(&outcome, &text, if failed { try_again(turn.id) } else { vec![] }).await?;
    info!(outcome.status = ?outcome.status, turn.tokens = outcome.completion_tokens, "turn finished");
    Ok(())
}

/// Tells the agent to stop; if that is lost, it merely works for nobody.
fn cancel(client: AgentClient, turn: Uuid) {
    let cancelling = async move {
        if let Err(error) = client.cancel(turn).await {
            info!(%error, "the agent could not be told to stop");
        }
    };
    tokio::spawn(cancelling.in_current_span());
}

/// Why there is no answer.
struct Refusal {
    status: Status,
    /// For the user.
    words: String,
    /// For operators.
    error: String,
}

impl Refusal {
    fn of(error: AgentError, turn: &Claimed) -> Self {
        Self { status: Status::Failed, words: texts::agent_trouble(&error, turn), error: error.to_string() }
    }

    fn unknown(error: String) -> Self {
        Self { status: Status::Unknown, words: texts::ANSWER_LOST.into(), error }
    }

    fn too_long() -> Self {
        Self { status: Status::Failed, words: texts::TOOK_TOO_LONG.into(), error: "the turn took too long".into() }
    }

    fn internal(error: &str) -> Self {
        Self { status: Status::Failed, words: texts::OUR_FAULT.into(), error: error.into() }
    }
}

async fn fail(relay: &mut Relay, answer: &Answer, refusal: Refusal) -> Result<(), ClaimLost> {
    warn!(error = refusal.error, "the turn failed");
    let outcome = outcome(answer, refusal.status, Some(refusal.error));
    let text = texts::final_text(&answer.markdown(), Some(&refusal.words));
    relay.finish(&outcome, &text, try_again(relay.turn_id())).await
}

fn try_again(turn: Uuid) -> Buttons {
    vec![vec![Press::RetryTurn(turn).button(texts::TRY_AGAIN)]]
}

fn outcome(answer: &Answer, status: Status, error: Option<String>) -> Outcome {
    Outcome {
        status,
        error,
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.completion_tokens,
        cost: answer.cost,
        // What cost tokens or brought words counts, however it ended.
        refund: status == Status::Failed && answer.is_empty() && answer.completion_tokens.is_none(),
    }
}

/// Puts the question to the agent; its events arrive on the channel.
async fn ask(
    app: &App,
    replica: &Replica,
    turn: &Claimed,
) -> Result<Result<(AgentClient, mpsc::Receiver<Fed>), Refusal>, ClaimLost> {
    if turn.reclaims >= store::MAX_RECLAIMS {
        return Ok(Err(Refusal::internal("every replica that ran it died")));
    }
    let (Some(url), "running") = (&turn.agent_url, turn.agent_status.as_str()) else {
        let words = texts::agent_not_running(&texts::plain(&turn.agent_name), &turn.agent_status);
        let error = format!("the agent is {}", turn.agent_status);
        return Ok(Err(Refusal { status: Status::Failed, words, error }));
    };
    let vault = &app.config.vault;
    let secrets = (vault.decrypt(&turn.request), vault.decrypt_text(&turn.agent_secret));
    let (Ok(request), Ok(secret)) = secrets else {
        return Ok(Err(Refusal::internal("a stored secret cannot be decrypted with this BOT_ENCRYPTION_KEY")));
    };
    let Ok(request) = serde_json::from_slice::<Request>(&request) else {
        return Ok(Err(Refusal::internal("the stored request cannot be read")));
    };
    let remembers = turn.agent_protocol >= 2;
    if !remembers {
        if turn.asked {
            return Ok(Err(Refusal::unknown("asked before, by a replica that died".into())));
        }
        match store::mark_asked(&app.db, replica.id(), turn).await {
            Ok(true) => {}
            Ok(false) => return Err(ClaimLost),
            Err(error) => return Ok(Err(Refusal::internal(&error.to_string()))),
        }
    }
    let request = ChatRequest {
        message: request.message,
        chat_id: turn.place.chat_id.to_string(),
        turn_id: Some(turn.id),
        sender: Some(Sender { id: turn.user_id, name: request.name, role: turn.role }),
        language_code: request.language_code,
        stream: true,
        mode: Mode::Queue,
        edit_of: None,
        attachments: Vec::new(),
    };
    let client = AgentClient::new(app.agents_http.clone(), url, secret);
    // Few, so that an agent that talks faster than we take it in is slowed down instead of filling our memory.
    let (sender, events) = mpsc::channel(16);
    let feed =
        Feed { db: app.db.clone(), client: client.clone(), agent_id: turn.agent_id, remembers, request, turn: turn.id };
    tokio::spawn(feed.run(sender).in_current_span());
    Ok(Ok((client, events)))
}

async fn hand_back(app: &App, replica: &Replica, turn: &Claimed, wait: Duration, crashed: bool) {
    while let Err(error) = bounded(store::hand_back(&app.db, replica.id(), turn, wait, crashed)).await {
        // Once this replica has left, the claim is worth nothing and the turn is taken back.
        if !crashed || replica.lost().is_cancelled() {
            warn!(%error, "a turn could not be handed back");
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    app.wake.wake(Queue::Turns);
}
