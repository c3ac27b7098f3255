//! The life of a turn: taken in, started, ended, cancelled.

use super::events::{count, delete_partial, insert};
use super::messages::{insert_assistant, insert_result, insert_user, leave_out_results};
use super::rounds::{Standing, ToolResult, standing};
use super::writer::{Changed, Told};
use super::{Reader, Store, StoreError, pending};
use crate::tools::TurnKind;
use baal_protocol::{ChatRequest, EventKind, Mode, PendingSource, TurnState, TurnStatus};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

/// A turn to be taken in.
#[derive(Debug, Clone)]
pub struct NewTurn {
    /// Its id.
    pub id: Uuid,
    /// SHA-256 of the request without the id.
    pub body_sha256: [u8; 32],
    /// The request.
    pub request: ChatRequest,
    /// What began it.
    pub kind: TurnKind,
    /// The chat that gets its final text as a pending message.
    pub deliver_to: Option<String>,
}

impl NewTurn {
    /// A turn that no person's message begins. Its request names the chat, `subagent:…` or `heartbeat`, and in `sender` whose
    /// rights it has.
    pub fn background(kind: TurnKind, request: ChatRequest, deliver_to: String) -> Self {
        // Nobody can ask for it again, so nothing is compared.
        Self { id: Uuid::new_v4(), body_sha256: [0; 32], request, kind, deliver_to: Some(deliver_to) }
    }
}

/// What became of a turn that was to be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the database now.
    New {
        /// Its place in the order of arrival.
        position: i64,
        /// It runs already, because nothing else was to be done in its chat.
        running: bool,
    },
    /// It is known, with the same request.
    Known,
    /// The id is known with another request.
    Conflict,
}

/// A turn that is running now.
#[derive(Debug)]
pub struct Started {
    /// The turn.
    pub position: i64,
    /// Its id.
    pub id: Uuid,
    /// What was asked; `None` where another version of the agent wrote it down.
    pub request: Option<ChatRequest>,
    /// What began it.
    pub kind: TurnKind,
    /// The chat that gets its final text as a pending message.
    pub deliver_to: Option<String>,
    /// Someone has asked to stop it.
    pub cancel_requested: bool,
    /// Somebody may have seen pieces of an answer that a restart interrupted.
    pub had_deltas: bool,
    /// What was done in an earlier life of the agent.
    pub standing: Standing,
}

/// The end of a turn.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The turn.
    pub position: i64,
    /// [`TurnState::Done`] or [`TurnState::Cancelled`].
    pub state: TurnState,
    /// The last events; `done` follows by itself.
    pub events: Vec<EventKind>,
    /// Results of calls that have none yet.
    pub results: Vec<ToolResult>,
    /// The service refused the request that held the newest round's results: they are left out of the history, or every later
    /// turn would be refused as well.
    pub results_refused: bool,
    /// What the model said at last.
    pub answer: String,
    /// The exchange stays in the history. One without an answer doesn't: a message that makes the model fail would make every
    /// later turn fail.
    pub remembered: bool,
    /// Partial text or output was sent.
    pub had_partial: bool,
    /// Said unasked to the chat that the turn works for: source and content of a pending message.
    pub pending: Option<(PendingSource, String)>,
    /// What the last round counts for the day's cap; 0 for a person's turn.
    pub spent_tokens: i64,
}

/// What a cancel found.
#[derive(Debug)]
pub struct Cancelled {
    /// As it stands after the cancel: `running` where it is yet to stop.
    pub status: TurnStatus,
}

/// A turn that is queued or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTurn {
    /// Its place in the order of arrival.
    pub position: i64,
    /// Its id.
    pub id: Uuid,
}

/// A turn as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of arrival.
    pub position: i64,
    /// State and newest event.
    pub status: TurnStatus,
}

impl Stored {
    /// Whether nothing will be added.
    pub fn is_over(&self) -> bool {
        matches!(self.status.state, TurnState::Done | TurnState::Cancelled)
    }
}

impl Reader {
    /// One turn, or `None` where it was never accepted.
    ///
    /// # Errors
    /// The database failed.
    pub async fn turn(&self, id: Uuid) -> Result<Option<Stored>, StoreError> {
        self.read(move |db| turn(db, id)).await
    }

    /// The turn of a chat whose time it is.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next_open_turn(&self, chat_id: &str) -> Result<Option<OpenTurn>, StoreError> {
        let chat_id = chat_id.to_owned();
        self.read(move |db| {
            let mut next = db.prepare_cached(
                "select position, id from turns where chat_id = ? and finished_at is null order by position limit 1",
            )?;
            let next = next.query_row([chat_id], |row| Ok(OpenTurn { position: row.get(0)?, id: row.get(1)? }));
            Ok(next.optional()?)
        })
        .await
    }
}

fn turn(db: &Connection, id: Uuid) -> Result<Option<Stored>, StoreError> {
    let mut turn = db.prepare_cached("select position, state, last_seq from turns where id = ?")?;
    let turn = turn.query_row([id], |row| {
        let status = TurnStatus { turn_id: id, state: state_of(row.get_ref(1)?.as_str()?), last_seq: row.get(2)? };
        Ok(Stored { position: row.get(0)?, status })
    });
    Ok(turn.optional()?)
}

fn state_of(name: &str) -> TurnState {
    match name {
        "queued" => TurnState::Queued,
        "running" => TurnState::Running,
        "cancelled" => TurnState::Cancelled,
        _ => TurnState::Done,
    }
}

impl Store {
    /// Takes a turn in, unless its id is known; where nothing else is to be done in its chat and `start` says so, it is
    /// running at once.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn accept(&self, turn: NewTurn, start: bool) -> Result<Accepted, StoreError> {
        self.write(move |db| Ok(Changed::quietly(accept(db, &turn, start)?))).await
    }

    /// Marks an open turn as running; `None` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn start(&self, position: i64) -> Result<Option<Started>, StoreError> {
        self.write(move |db| Ok(Changed::quietly(start(db, position)?))).await
    }

    /// Ends a running turn: events, history and state in one transaction; `false` where it was over already.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn finish(&self, last: Finish) -> Result<bool, StoreError> {
        self.finish_then(last, || ()).await
    }

    /// As [`Store::finish`]; `then` runs once a turn has ended, before anybody hears of what it says unasked.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn finish_then(&self, last: Finish, then: impl FnOnce() + Send + 'static) -> Result<bool, StoreError> {
        let bell = self.bell.clone();
        let speaks = last.pending.is_some() || pending::has_file(&last.events);
        self.write_then(
            |db| {
                let told = finish(db, last)?;
                Ok(Changed { value: told.is_some(), events: told.into_iter().collect() })
            },
            move |finished| {
                if *finished {
                    then();
                }
                bell.ring_if(*finished && speaks);
            },
        )
        .await
    }

    /// Ends a queued turn, or notes that a running one is to stop; `None` for an unknown id.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn cancel(&self, turn: Uuid) -> Result<Option<Cancelled>, StoreError> {
        self.write(move |db| {
            let (value, events) = cancel(db, turn)?;
            Ok(Changed { value, events })
        })
        .await
    }
}

/// Takes a turn in, within the caller's transaction. [`crate::turns::Scheduler::wake`] is to follow the commit.
pub(super) fn accept(db: &Connection, turn: &NewTurn, start: bool) -> Result<Accepted, StoreError> {
    let chat_id = &turn.request.chat_id;
    let mut insert = db.prepare_cached(
        "insert into turns (id, chat_id, body_sha256, request, kind, deliver_to, mode, state) \
         select ?1, ?2, ?3, ?4, ?5, ?6, ?7, case when ?8 and not exists \
         (select 1 from turns where chat_id = ?2 and finished_at is null) then 'running' else 'queued' end \
         where true on conflict (id) do nothing returning position, state = 'running'",
    )?;
    let row = insert.query_row(
        params![
            turn.id,
            chat_id,
            turn.body_sha256,
            serde_json::to_string(&turn.request)?,
            turn.kind.as_str(),
            turn.deliver_to,
            if turn.request.mode == Mode::Steer { "steer" } else { "queue" },
            start,
        ],
        |row| Ok((row.get(0)?, row.get(1)?)),
    );
    if let Some((position, running)) = row.optional()? {
        if running {
            insert_user(db, position, chat_id, &turn.request)?;
        }
        return Ok(Accepted::New { position, running });
    }
    let mut known = db.prepare_cached("select body_sha256 = ? from turns where id = ?")?;
    let same = known.query_row(params![turn.body_sha256, turn.id], |row| row.get(0))?;
    Ok(if same { Accepted::Known } else { Accepted::Conflict })
}

fn start(db: &Connection, position: i64) -> Result<Option<Started>, StoreError> {
    let mut update = db.prepare_cached(
        "update turns set state = 'running' where position = ? and finished_at is null \
         returning id, request, kind, deliver_to, cancel_requested, last_seq > 0, chat_id",
    )?;
    let row = update.query_row([position], |row| {
        let started = Started {
            position,
            id: row.get(0)?,
            // silent-ok: the turn ends with words for the user
            request: serde_json::from_str(row.get_ref(1)?.as_str()?).ok(),
            kind: TurnKind::of_name(row.get_ref(2)?.as_str()?),
            deliver_to: row.get(3)?,
            cancel_requested: row.get(4)?,
            had_deltas: row.get(5)?,
            standing: Standing::default(),
        };
        Ok((started, row.get(6)?))
    });
    let Some((mut started, chat_id)) = row.optional()? else {
        return Ok(None);
    };
    let chat_id: String = chat_id;
    match (standing(db, position)?, &started.request) {
        (Some(standing), _) => started.standing = standing,
        (None, Some(request)) => insert_user(db, position, &chat_id, request)?,
        (None, None) => {}
    }
    // Of an answer that a restart interrupted; the new one will be another.
    started.had_deltas = started.had_deltas && delete_partial(db, position)?;
    Ok(Some(started))
}

fn finish(db: &Connection, last: Finish) -> Result<Option<Told>, StoreError> {
    let position = last.position;
    if let Some((source, content)) = &last.pending {
        pending::deliver(db, position, *source, content)?;
    }
    let Some(told) = end(db, position, last.state, last.events)? else {
        return Ok(None);
    };
    if last.had_partial {
        delete_partial(db, position)?;
    }
    for ToolResult { call_id, text } in &last.results {
        insert_result(db, position, call_id, text)?;
    }
    if last.results_refused {
        leave_out_results(db, position)?;
    }
    if !last.answer.is_empty() {
        insert_assistant(db, position, &last.answer, &[])?;
    }
    if !last.remembered {
        db.prepare_cached("delete from messages where turn = ?")?.execute([position])?;
    }
    add_spending(db, last.spent_tokens)?;
    Ok(Some(told))
}

/// Ends an open turn with these events and `done`; `None` where it was over already.
pub(super) fn end(
    db: &Connection,
    position: i64,
    state: TurnState,
    mut events: Vec<EventKind>,
) -> Result<Option<Told>, StoreError> {
    let state = if state == TurnState::Cancelled { "cancelled" } else { "done" };
    let mut update = db.prepare_cached(
        "update turns set state = ?, finished_at = unixepoch(), request = '', last_seq = last_seq + ? \
         where position = ? and finished_at is null returning id, last_seq, (select count(*) from pending)",
    )?;
    let row = update
        .query_row(params![state, count(&events) + 1, position], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let Some((id, last_seq, pending)) = row.optional()? else {
        return Ok(None);
    };
    events.push(EventKind::Done { pending: Some(pending) });
    Ok(Some((id, insert(db, position, last_seq, events)?)))
}

/// Counts tokens that nobody asked for in person.
pub(super) fn add_spending(db: &Connection, tokens: i64) -> Result<(), StoreError> {
    if tokens > 0 {
        db.prepare_cached(
            "insert into spending (day, tokens) values (date('now'), ?) \
             on conflict (day) do update set tokens = tokens + excluded.tokens",
        )?
        .execute([tokens])?;
    }
    Ok(())
}

pub(super) type CancelFound = (Option<Cancelled>, Vec<Told>);

pub(super) fn cancel(db: &Connection, id: Uuid) -> Result<CancelFound, StoreError> {
    let Some(Stored { position, mut status }) = turn(db, id)? else {
        return Ok((None, Vec::new()));
    };
    let mut told = None;
    match status.state {
        TurnState::Queued => {
            told = end(db, position, TurnState::Cancelled, Vec::new())?;
            status.last_seq += 1;
            status.state = TurnState::Cancelled;
        }
        TurnState::Running => {
            db.prepare_cached("update turns set cancel_requested = 1 where position = ?")?.execute([position])?;
        }
        TurnState::Done | TurnState::Cancelled => {}
    }
    Ok((Some(Cancelled { status }), told.into_iter().collect()))
}
