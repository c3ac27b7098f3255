//! The rounds of a running turn: what the model called, what came of it, and what steers the turn in between.

use super::events::{append, delete_partial};
use super::messages::{calls, insert_assistant, insert_result, insert_user};
use super::turns::{add_spending, end};
use super::writer::{Changed, Told};
use super::{Store, StoreError, pending};
use crate::model::ToolCall;
use crate::tools::Rules;
use baal_protocol::{ChatRequest, EventKind, Role, TurnState};
use rusqlite::{Connection, OptionalExtension};
use std::sync::Arc;
use uuid::Uuid;

/// Messages that one round takes in at most.
const STEERED_AT_ONCE: i64 = 20;

/// The model's message of a round in which it calls tools.
#[derive(Debug, Clone)]
pub struct Round {
    /// The turn.
    pub position: i64,
    /// What it says beside them.
    pub text: String,
    /// At least one.
    pub calls: Vec<ToolCall>,
    /// Partial text was sent.
    pub had_deltas: bool,
    /// What the round counts for the day's cap; 0 for a person's turn.
    pub spent_tokens: i64,
}

/// What one call brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// The call.
    pub call_id: String,
    /// For the model.
    pub text: String,
}

/// The results of some calls, the next ones in the order of the round.
#[derive(Clone)]
pub struct Results {
    /// The turn.
    pub position: i64,
    /// At least one.
    pub results: Vec<ToolResult>,
    /// What the readers of the turn get to see of it.
    pub events: Vec<EventKind>,
    /// Output was sent while the tools ran.
    pub had_output: bool,
    /// After the last call of a round: whose messages the turn takes in that were sent to steer it, by role and whether they
    /// only talk.
    pub steered_by: Option<(Arc<Rules>, Role, bool)>,
}

/// Where an open turn stands, by its messages.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Messages of the model, each with calls.
    pub rounds: u32,
    /// All calls of the last round.
    pub calls: Vec<ToolCall>,
    /// How many of them have results; the others may have run.
    pub answered: usize,
}

impl Store {
    /// Stores a round before any of its calls runs; `false` where the turn is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn round(&self, round: Round) -> Result<bool, StoreError> {
        self.write(|db| {
            let told = store_round(db, round)?;
            Ok(Changed { value: told.is_some(), events: told.into_iter().collect() })
        })
        .await
    }

    /// Stores results; `false` where the turn is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn results(&self, results: Results) -> Result<bool, StoreError> {
        let bell = self.bell.clone();
        let speaks = pending::has_file(&results.events);
        self.write_then(
            |db| {
                let told = store_results(db, results)?;
                Ok(Changed { value: !told.is_empty(), events: told })
            },
            move |stored| bell.ring_if(*stored && speaks),
        )
        .await
    }
}

fn store_round(db: &Connection, round: Round) -> Result<Option<Told>, StoreError> {
    let Round { position, text, calls, had_deltas, spent_tokens } = round;
    let mut events = Vec::with_capacity(calls.len() + 1);
    if !text.is_empty() {
        events.push(EventKind::Text { content: text.clone() });
    }
    let used = |call: &ToolCall| EventKind::ToolUse { name: call.name.clone(), input: call.arguments.clone() };
    events.extend(calls.iter().map(used));
    let Some(told) = append(db, position, events)? else {
        return Ok(None);
    };
    if had_deltas {
        delete_partial(db, position)?;
    }
    insert_assistant(db, position, &text, &calls)?;
    add_spending(db, spent_tokens)?;
    Ok(Some(told))
}

fn store_results(db: &Connection, results: Results) -> Result<Vec<Told>, StoreError> {
    let Results { position, results, events, had_output, steered_by } = results;
    let Some(told) = append(db, position, events)? else {
        return Ok(Vec::new());
    };
    let turn_id = told.0;
    let mut told = vec![told];
    if had_output {
        delete_partial(db, position)?;
    }
    for ToolResult { call_id, text } in &results {
        insert_result(db, position, call_id, text)?;
    }
    if let Some((rules, role, only_talks)) = steered_by {
        told.extend(take_in(db, position, turn_id, &rules, (role, only_talks))?);
    }
    Ok(told)
}

/// Takes the messages in that were sent to steer the turn: they become its own, and the turns that brought them end.
fn take_in(
    db: &Connection,
    position: i64,
    turn_id: Uuid,
    rules: &Rules,
    rights: (Role, bool),
) -> Result<Vec<Told>, StoreError> {
    let mut waiting = db.prepare_cached(
        "select t.position, t.request, t.chat_id from turns t join turns r on r.chat_id = t.chat_id \
         where r.position = ?1 and t.finished_at is null and t.position > ?1 and t.state = 'queued' \
         and t.mode = 'steer' and t.kind = 'chat' order by t.position limit ?2",
    )?;
    let waiting = waiting.query_map([position, STEERED_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    // Read before any of them ends.
    let waiting: Vec<(i64, String, String)> = waiting.collect::<Result<_, _>>()?;
    let mut told = Vec::with_capacity(waiting.len());
    for (steering, request, chat_id) in waiting {
        // What another version of the agent took in gets a turn of its own, which says so.
        let Ok(request) = serde_json::from_str::<ChatRequest>(&request) else { continue };
        // Nobody's words are put into a turn with more rights than theirs.
        if (rules.role(&request), rules.only_talks(&request)) != rights {
            continue;
        }
        insert_user(db, position, &chat_id, &request)?;
        told.extend(end(db, steering, TurnState::Done, vec![EventKind::Steered { turn_id }])?);
    }
    Ok(told)
}

/// Where the turn at `position` stands; `None` where it has no message yet.
pub(super) fn standing(db: &Connection, position: i64) -> Result<Option<Standing>, StoreError> {
    if !db.prepare_cached("select 1 from messages where turn = ? limit 1")?.exists([position])? {
        return Ok(None);
    }
    let mut last = db.prepare_cached(
        "select id, tool_calls, (select count(*) from messages where turn = ?1 and role = 'assistant') \
         from messages where turn = ?1 and role = 'assistant' order by id desc limit 1",
    )?;
    let last = last.query_row([position], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let last: Option<(i64, Option<String>, u32)> = last;
    let Some((id, called, rounds)) = last else {
        return Ok(Some(Standing::default()));
    };
    let mut answered =
        db.prepare_cached("select count(*) from messages where turn = ? and id > ? and role = 'tool'")?;
    let answered: i64 = answered.query_row([position, id], |row| row.get(0))?;
    // Of calls that cannot be read none is open: their results are left out of what the model is told as well.
    let calls = calls(called.as_deref()).unwrap_or_default();
    let answered = usize::try_from(answered).unwrap_or(usize::MAX).min(calls.len());
    Ok(Some(Standing { rounds, calls, answered }))
}
