//! One turn, from the question to its last event: the model is asked, its calls are run, and so on until it only talks.

use super::Scheduler;
use super::ask::{Deltas, End, Said, ask};
use super::broken::end_unreadable;
use super::calls::{self, Brought, Round};
use super::ending::{Ending, Last, insist, spent};
use crate::clock;
use crate::context::Conversation;
use crate::files::Arrived;
use crate::model::{Message, ToolCall, Usage};
use crate::store::{self, Finish, Results, Standing, Started, StoreError, StoredMessage};
use crate::tools::{Offer, TurnKind, Who};
use baal_protocol::{ChatRequest, EventKind, TurnState};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Rounds of tools of a subagent at most.
const SUBAGENT_ROUNDS: u32 = 15;

/// How a turn ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Answered,
    Failed,
    Cancelled,
    /// It had ended already.
    Over,
    /// The agent shuts down; the turn goes on at the next start.
    Left,
}

/// Runs a turn to its end.
///
/// # Errors
/// The database failed at something that can be done again.
pub(super) async fn run(
    scheduler: &Scheduler,
    started: Started,
    stop: &CancellationToken,
) -> Result<Outcome, StoreError> {
    let Started { position, id, request, kind, deliver_to, cancel_requested, had_deltas, standing } = started;
    let shared = &scheduler.shared;
    let Some(request) = request else {
        // Without an end, the chat would be stuck behind it for ever.
        return Ok(end_unreadable(scheduler, position).await);
    };
    if cancel_requested {
        stop.cancel();
    }
    let who = shared.rules.who(&request, kind, deliver_to);
    // A turn that was stopped asks for no tool any more.
    let offer = stop.run_until_cancelled(shared.tools.offer(&who)).await;
    let offer = offer.unwrap_or_else(|| Arc::new(Offer::of(Vec::new())));
    let max_rounds = match kind {
        TurnKind::Subagent => shared.max_rounds.min(SUBAGENT_ROUNDS),
        _ => shared.max_rounds,
    };
    let turn = Turn {
        scheduler,
        position,
        id,
        request,
        who,
        offer,
        stop,
        max_rounds,
        rounds: standing.rounds,
        usage: None,
        conversation: None,
        arrived: HashMap::new(),
        // Whoever saw pieces of an answer that a restart interrupted gets the new one whole, not pieces of both.
        deltas_unwanted: had_deltas,
    };
    turn.work(standing).await
}

struct Turn<'a> {
    scheduler: &'a Scheduler,
    position: i64,
    id: uuid::Uuid,
    request: ChatRequest,
    who: Who,
    offer: Arc<Offer>,
    stop: &'a CancellationToken,
    max_rounds: u32,
    rounds: u32,
    usage: Option<Usage>,
    /// From the first question on.
    conversation: Option<Conversation>,
    /// What became of the attachments, by path.
    arrived: HashMap<String, Arrived>,
    deltas_unwanted: bool,
}

/// What follows from the calls of a round.
enum Next {
    GoOn,
    End(Outcome),
}

impl Turn<'_> {
    async fn work(mut self, standing: Standing) -> Result<Outcome, StoreError> {
        if let Next::End(outcome) = self.resume(standing).await {
            return Ok(outcome);
        }
        loop {
            if let Some(why) = self.is_out_of_budget().await? {
                return Ok(self.finish(Last::Fatal(why), Brought::default()).await);
            }
            let exhausted = self.rounds >= self.max_rounds;
            let said = self.ask(exhausted).await?;
            self.usage = Usage::sum(self.usage, said.usage);
            let goes_on = !exhausted && matches!(said.end, End::Whole) && !said.calls.is_empty();
            if !goes_on {
                if matches!(said.end, End::Stopped) && self.is_shutting_down() {
                    return Ok(Outcome::Left);
                }
                return Ok(self.finish(Last::Said(said), Brought::default()).await);
            }
            if let Next::End(outcome) = self.use_tools(said).await {
                return Ok(outcome);
            }
        }
    }

    /// Why what works in the background may not ask the model any more today.
    async fn is_out_of_budget(&self) -> Result<Option<String>, StoreError> {
        if self.who.kind == TurnKind::Chat {
            return Ok(None);
        }
        let services = self.scheduler.shared.tools.services();
        Ok(if services.budget.is_left().await? { None } else { Some(services.budget.reached()) })
    }

    /// Tells of calls that an earlier life of the agent left behind: they may have run, so they don't run again.
    async fn resume(&self, standing: Standing) -> Next {
        let open = standing.calls.get(standing.answered..).unwrap_or_default();
        if open.is_empty() {
            return Next::GoOn;
        }
        let results = calls::interrupted(open, &self.offer);
        // A turn that is about to be cancelled takes in nobody's message: it would not answer it.
        let steerable = !self.stop.is_cancelled();
        self.store_results(Brought { results, ..Brought::default() }, steerable).await
    }

    async fn ask(&mut self, exhausted: bool) -> Result<Said, StoreError> {
        let stop = self.stop;
        // Attachments on their way into the workspace may take long.
        let Some(own) = stop.run_until_cancelled(self.own_messages()).await else {
            return Ok(Said::stopped());
        };
        let own = own?;
        let shared = &self.scheduler.shared;
        let tools = if exhausted { None } else { self.offer.described() };
        let conversation = match &mut self.conversation {
            Some(conversation) => conversation,
            None => {
                let today = clock::now().date_naive();
                let begin = shared.contexts.begin(&self.who, self.position, &self.request, today);
                match self.stop.run_until_cancelled(begin).await {
                    Some(begun) => self.conversation.insert(begun?),
                    None => return Ok(Said::stopped()),
                }
            }
        };
        let Some(mut messages) = conversation.prepare(&own, tools, self.stop).await? else {
            return Ok(Said { usage: conversation.take_spent(), ..Said::stopped() });
        };
        if exhausted {
            messages.push(no_more_tools(self.max_rounds));
        }
        let wanted = self.request.stream && !std::mem::take(&mut self.deltas_unwanted);
        let deltas = Deltas::new(&shared.store, self.position, wanted);
        let mut said = ask(&shared.model, &messages, tools, deltas, self.stop).await;
        if let Some(usage) = &said.usage {
            conversation.counted(usage).await;
        } else if self.who.kind != TurnKind::Chat && !(said.text.is_empty() && said.calls.is_empty()) {
            // The cap holds also where the service counts nothing.
            said.usage = Some(estimate(&messages, &said));
        }
        said.usage = Usage::sum(conversation.take_spent(), said.usage);
        Ok(said)
    }

    /// What was said in this turn. Before its first round that is in the request.
    async fn own_messages(&mut self) -> Result<Vec<Message>, StoreError> {
        let stored = if self.rounds == 0 {
            vec![StoredMessage::of_request(&self.request)]
        } else {
            self.scheduler.shared.store.read().turn_messages(self.position).await?
        };
        let services = self.scheduler.shared.tools.services();
        for attachment in stored.iter().flat_map(|stored| &stored.attachments) {
            if !self.arrived.contains_key(&attachment.path) {
                let brought = services.files.bring_in(&attachment.path, &services.launcher, &self.who.root()).await;
                self.arrived.insert(attachment.path.clone(), brought);
            }
        }
        Ok(stored.into_iter().map(|stored| stored.into_message(&self.arrived, services.sees_images)).collect())
    }

    /// Runs what the model called. Everything is stored before it is run, and its result before the next is.
    async fn use_tools(&mut self, said: Said) -> Next {
        let shared = &self.scheduler.shared;
        let round = store::Round {
            position: self.position,
            text: said.text,
            calls: said.calls,
            had_deltas: said.had_deltas,
            spent_tokens: spent(&self.who, said.usage),
        };
        match insist(&shared.shutdown, || shared.store.round(round.clone())).await {
            Some(true) => {}
            Some(false) => return Next::End(Outcome::Over),
            None => return Next::End(Outcome::Left),
        }
        self.rounds += 1;
        let mut rest = &round.calls[..];
        while !rest.is_empty() {
            let (group, behind) = rest.split_at(calls::group(rest, &self.offer));
            rest = behind;
            let mut brought = if self.stop.is_cancelled() { Brought::default() } else { self.run_group(group).await };
            if self.is_shutting_down() {
                return Next::End(Outcome::Left);
            }
            if self.stop.is_cancelled() {
                let open = if brought.results.is_empty() { group } else { &[] };
                brought.results.extend(calls::all(&[open, rest].concat(), "cancelled by the user"));
                return Next::End(self.finish(Last::Stopped, brought).await);
            }
            if let Some(why) = brought.fatal.take() {
                brought.results.extend(calls::all(rest, "not run: the turn came to its end before"));
                return Next::End(self.finish(Last::Fatal(why), brought).await);
            }
            if let Next::End(outcome) = self.store_results(brought, rest.is_empty()).await {
                return Next::End(outcome);
            }
        }
        Next::GoOn
    }

    async fn run_group(&self, group: &[ToolCall]) -> Brought {
        let round = Round {
            scheduler: self.scheduler,
            who: &self.who,
            offer: &self.offer,
            position: self.position,
            turn_id: self.id,
            stream: self.request.stream,
            stop: self.stop,
        };
        round.run(group).await
    }

    async fn store_results(&self, brought: Brought, last: bool) -> Next {
        let shared = &self.scheduler.shared;
        let results = Results {
            position: self.position,
            results: brought.results,
            events: brought.events,
            had_output: brought.had_output,
            steered_by: last.then(|| (shared.rules.clone(), self.who.role, self.who.only_talks)),
        };
        match insist(&shared.shutdown, || shared.store.results(results.clone())).await {
            Some(true) => Next::GoOn,
            Some(false) => Next::End(Outcome::Over),
            None => Next::End(Outcome::Left),
        }
    }

    async fn finish(&mut self, last: Last, brought: Brought) -> Outcome {
        let shared = &self.scheduler.shared;
        let ending = Ending {
            position: self.position,
            who: &self.who,
            rounds: self.rounds,
            exhausted: self.rounds >= self.max_rounds,
            usage: self.usage,
            results: brought.results,
            events: brought.events,
            had_partial: brought.had_output,
        };
        let finish = ending.conclude(last);
        let outcome = match finish.state {
            TurnState::Cancelled => Outcome::Cancelled,
            _ if finish.events.iter().any(|event| matches!(event, EventKind::Error { .. })) => Outcome::Failed,
            _ => Outcome::Answered,
        };
        // After rounds of tools the next turn reads the database again: that costs little beside what they cost.
        let left = (self.rounds == 0).then(|| self.left_in_history(&finish));
        // What is said unasked becomes part of that chat's history, which is read anew.
        let told = finish.pending.as_ref().and(self.who.deliver_to.clone());
        let stored = insist(&shared.shutdown, || {
            let (contexts, told) = (shared.contexts.clone(), told.clone());
            shared.store.finish_then(finish.clone(), move || {
                if let Some(chat_id) = told {
                    contexts.has_changed(&chat_id);
                }
            })
        });
        match stored.await {
            Some(true) => {
                if let (Some(messages), Some(conversation)) = (left, self.conversation.take()) {
                    conversation.ended(messages);
                }
                // The owner is told of a cap that this turn reached.
                if let Err(e) = self.is_out_of_budget().await {
                    error!(error = %e, "what the background has spent cannot be read");
                }
                outcome
            }
            Some(false) => Outcome::Over,
            None => Outcome::Left,
        }
    }

    /// What a turn without tools leaves behind.
    fn left_in_history(&self, finish: &Finish) -> Vec<Message> {
        if !finish.remembered {
            return Vec::new();
        }
        // As the database will tell it: the same words in both, or what the model is told would change with a restart.
        let said = StoredMessage::of_request(&self.request).into_message(&HashMap::new(), false);
        let answer = (!finish.answer.is_empty()).then(|| Message::assistant(finish.answer.clone()));
        [said].into_iter().chain(answer).collect()
    }

    fn is_shutting_down(&self) -> bool {
        self.scheduler.shared.shutdown.is_cancelled()
    }
}

/// Tokens by the rule of thumb: four bytes each.
fn estimate(messages: &[Message], said: &Said) -> Usage {
    let tokens = |bytes: usize| i64::try_from(bytes.div_ceil(4)).unwrap_or(i64::MAX);
    let called: usize = said.calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
    Usage {
        prompt_tokens: tokens(messages.iter().map(Message::bytes).sum()),
        completion_tokens: tokens(said.text.len() + called),
        cost: None,
    }
}

/// Said to the model and not kept.
fn no_more_tools(rounds: u32) -> Message {
    Message::user(format!(
        "[The agent: this message has used all {rounds} rounds of tools that it may use. No tool can be called now. Answer \
         with what you have: what is done, what is not, and what should come next.]"
    ))
}
