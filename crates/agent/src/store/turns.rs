//! The life of a turn: taken in, started, ended, cancelled.

use super::events::{count, delete_partial, insert};
use super::messages::{insert_assistant, insert_result, insert_user};
use super::rounds::{Standing, ToolResult, standing};
use super::writer::Changed;
use super::{Reader, Store, StoreError, pending};
use crate::tools::TurnKind;
use baal_protocol::{ChatRequest, Event, EventKind, Mode, PendingSource, TurnState, TurnStatus};
use sqlx::{FromRow, SqliteConnection, query, query_as, query_scalar};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
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
        let row: Option<(i64, String, i64)> = query_as("select position, state, last_seq from turns where id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|(position, state, last_seq)| Stored {
            position,
            status: TurnStatus { turn_id: id, state: state_of(&state), last_seq },
        }))
    }

    /// The turn of a chat whose time it is.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next_open_turn(&self, chat_id: &str) -> Result<Option<OpenTurn>, StoreError> {
        Ok(query_as(
            "select position, id from turns where chat_id = ? and finished_at is null order by position limit 1",
        )
        .bind(chat_id)
        .fetch_optional(&self.pool)
        .await?)
    }
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
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(accept(db, &turn, start).await?)) })).await
    }

    /// Marks an open turn as running; `None` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn start(&self, position: i64) -> Result<Option<Started>, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(start(db, position).await?)) })).await
    }

    /// Ends a running turn: events, history and state in one transaction; `false` where it was over already.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn finish(&self, last: Finish) -> Result<bool, StoreError> {
        let bell = self.bell.clone();
        let speaks = last.pending.is_some() || pending::has_file(&last.events);
        self.write_then(
            |db| {
                Box::pin(async {
                    let told = finish(db, last).await?;
                    Ok(Changed { value: told.is_some(), events: told.into_iter().collect() })
                })
            },
            move |finished| bell.ring_if(*finished && speaks),
        )
        .await
    }

    /// Ends a queued turn, or notes that a running one is to stop; `None` for an unknown id.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn cancel(&self, turn: Uuid) -> Result<Option<Cancelled>, StoreError> {
        self.write(move |db| {
            Box::pin(async move {
                let (value, events) = cancel(db, turn).await?;
                Ok(Changed { value, events })
            })
        })
        .await
    }
}

/// Takes a turn in, within the caller's transaction. [`crate::turns::Scheduler::wake`] is to follow the commit.
pub(super) async fn accept(db: &mut SqliteConnection, turn: &NewTurn, start: bool) -> Result<Accepted, StoreError> {
    let chat_id = &turn.request.chat_id;
    let row: Option<(i64, bool)> = query_as(
        "insert into turns (id, chat_id, body_sha256, request, kind, deliver_to, mode, state) \
         select ?1, ?2, ?3, ?4, ?5, ?6, ?7, case when ?8 and not exists \
         (select 1 from turns where chat_id = ?2 and finished_at is null) then 'running' else 'queued' end \
         where true on conflict (id) do nothing returning position, state = 'running'",
    )
    .bind(turn.id)
    .bind(chat_id)
    .bind(turn.body_sha256.as_slice())
    .bind(serde_json::to_string(&turn.request)?)
    .bind(turn.kind.as_str())
    .bind(&turn.deliver_to)
    .bind(if turn.request.mode == Mode::Steer { "steer" } else { "queue" })
    .bind(start)
    .fetch_optional(&mut *db)
    .await?;
    if let Some((position, running)) = row {
        if running {
            insert_user(db, position, chat_id, &turn.request).await?;
        }
        return Ok(Accepted::New { position, running });
    }
    let known: Vec<u8> = query_scalar("select body_sha256 from turns where id = ?").bind(turn.id).fetch_one(db).await?;
    Ok(if known == turn.body_sha256 { Accepted::Known } else { Accepted::Conflict })
}

#[derive(FromRow)]
struct StartedRow {
    id: Uuid,
    chat_id: String,
    request: String,
    kind: String,
    deliver_to: Option<String>,
    cancel_requested: bool,
    last_seq: i64,
}

async fn start(db: &mut SqliteConnection, position: i64) -> Result<Option<Started>, StoreError> {
    let row: Option<StartedRow> = query_as(
        "update turns set state = 'running' where position = ? and finished_at is null \
         returning id, chat_id, request, kind, deliver_to, cancel_requested, last_seq",
    )
    .bind(position)
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    // silent-ok: the turn ends with words for the user
    let request: Option<ChatRequest> = serde_json::from_str(&row.request).ok();
    let standing = match (standing(db, position).await?, &request) {
        (Some(standing), _) => standing,
        (None, Some(request)) => {
            insert_user(db, position, &row.chat_id, request).await?;
            Standing::default()
        }
        (None, None) => Standing::default(),
    };
    // Of an answer that a restart interrupted; the new one will be another.
    let had_deltas = row.last_seq > 0 && delete_partial(db, position).await?;
    Ok(Some(Started {
        position,
        id: row.id,
        request,
        kind: TurnKind::of_name(&row.kind),
        deliver_to: row.deliver_to,
        cancel_requested: row.cancel_requested,
        had_deltas,
        standing,
    }))
}

async fn finish(db: &mut SqliteConnection, last: Finish) -> Result<Option<(Uuid, Vec<Event>)>, StoreError> {
    let position = last.position;
    if let Some((source, content)) = &last.pending {
        pending::deliver(db, position, *source, content).await?;
    }
    let Some(told) = end(db, position, last.state, last.events).await? else {
        return Ok(None);
    };
    if last.had_partial {
        delete_partial(db, position).await?;
    }
    for ToolResult { call_id, text } in &last.results {
        insert_result(db, position, call_id, text).await?;
    }
    if !last.answer.is_empty() {
        insert_assistant(db, position, &last.answer, &[]).await?;
    }
    if !last.remembered {
        query("delete from messages where turn = ?").bind(position).execute(&mut *db).await?;
    }
    add_spending(db, last.spent_tokens).await?;
    Ok(Some(told))
}

/// Ends an open turn with these events and `done`; `None` where it was over already.
pub(super) async fn end(
    db: &mut SqliteConnection,
    position: i64,
    state: TurnState,
    mut events: Vec<EventKind>,
) -> Result<Option<(Uuid, Vec<Event>)>, StoreError> {
    let state = if state == TurnState::Cancelled { "cancelled" } else { "done" };
    let row: Option<(Uuid, i64, i64)> = query_as(
        "update turns set state = ?, finished_at = unixepoch(), request = '', last_seq = last_seq + ? \
         where position = ? and finished_at is null returning id, last_seq, (select count(*) from pending)",
    )
    .bind(state)
    .bind(count(&events) + 1)
    .bind(position)
    .fetch_optional(&mut *db)
    .await?;
    let Some((id, last_seq, pending)) = row else {
        return Ok(None);
    };
    events.push(EventKind::Done { pending: Some(pending) });
    Ok(Some((id, insert(db, position, last_seq, events).await?)))
}

/// Counts tokens that nobody asked for in person.
pub(super) async fn add_spending(db: &mut SqliteConnection, tokens: i64) -> Result<(), StoreError> {
    if tokens > 0 {
        query(
            "insert into spending (day, tokens) values (date('now'), ?) \
             on conflict (day) do update set tokens = tokens + excluded.tokens",
        )
        .bind(tokens)
        .execute(db)
        .await?;
    }
    Ok(())
}

pub(super) type CancelFound = (Option<Cancelled>, Vec<(Uuid, Vec<Event>)>);

pub(super) async fn cancel(db: &mut SqliteConnection, id: Uuid) -> Result<CancelFound, StoreError> {
    let row: Option<(i64, String, i64)> =
        query_as("select position, state, last_seq from turns where id = ?").bind(id).fetch_optional(&mut *db).await?;
    let Some((position, state, mut last_seq)) = row else {
        return Ok((None, Vec::new()));
    };
    let mut told = None;
    let state = match state_of(&state) {
        TurnState::Queued => {
            told = end(db, position, TurnState::Cancelled, Vec::new()).await?;
            last_seq += 1;
            TurnState::Cancelled
        }
        TurnState::Running => {
            query("update turns set cancel_requested = 1 where position = ?").bind(position).execute(db).await?;
            TurnState::Running
        }
        over => over,
    };
    Ok((Some(Cancelled { status: TurnStatus { turn_id: id, state, last_seq } }), told.into_iter().collect()))
}
