//! The changes to turns, their events and the history.

use super::writer::Changed;
use super::{Store, StoreError};
use baal_protocol::{ChatRequest, EventKind, TurnState, TurnStatus};
use sqlx::{SqliteConnection, query, query_as, query_scalar};
use uuid::Uuid;

/// Turns whose events one [`Store::forget_events_older_than`] deletes at most.
const FORGET_AT_ONCE: i64 = 1000;

/// A turn to be taken in.
#[derive(Debug)]
pub struct NewTurn {
    /// Its id.
    pub id: Uuid,
    /// SHA-256 of the request without the id.
    pub body_sha256: [u8; 32],
    /// The request.
    pub request: ChatRequest,
}

/// What became of a turn that was to be taken in.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is queued now.
    New,
    /// It is known, with the same request.
    Known,
    /// The id is known with another request.
    Conflict,
}

/// A turn that is running now.
#[derive(Debug)]
pub struct Started {
    /// What was asked, a [`ChatRequest`] as JSON.
    pub request: String,
    /// Someone has asked to stop it.
    pub cancel_requested: bool,
    /// Events were sent in an earlier life of the agent.
    pub has_events: bool,
}

/// The end of a turn.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The turn.
    pub position: i64,
    /// [`TurnState::Done`] or [`TurnState::Cancelled`].
    pub state: TurnState,
    /// The last events.
    pub events: Vec<EventKind>,
    /// What the user said and what was answered, for the history.
    pub exchange: Option<(String, String)>,
}

/// What a cancel found.
#[derive(Debug)]
pub struct Cancelled {
    /// The turn.
    pub position: i64,
    /// As it stands after the cancel: `running` where it is yet to stop.
    pub status: TurnStatus,
}

impl Store {
    /// Takes a turn in, unless its id is known.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn accept(&self, turn: NewTurn) -> Result<Accepted, StoreError> {
        self.write(|db| Box::pin(async { Ok(Changed::quietly(accept(db, turn).await?)) })).await
    }

    /// Marks an open turn as running; `None` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn start(&self, position: i64) -> Result<Option<Started>, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(start(db, position).await?)) })).await
    }

    /// Adds events to a running turn; `false` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn append(&self, position: i64, events: Vec<EventKind>) -> Result<bool, StoreError> {
        self.write(move |db| {
            Box::pin(async move {
                let turn = append(db, position, &events).await?;
                Ok(Changed { value: turn.is_some(), turn })
            })
        })
        .await
    }

    /// Ends a running turn: events, history and state in one transaction; `false` where it was over already.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn finish(&self, end: Finish) -> Result<bool, StoreError> {
        self.write(|db| {
            Box::pin(async {
                let turn = finish(db, end).await?;
                Ok(Changed { value: turn.is_some(), turn })
            })
        })
        .await
    }

    /// Ends a queued turn, or notes that a running one is to stop; `None` for an unknown id.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn cancel(&self, turn: Uuid) -> Result<Option<Cancelled>, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed { value: cancel(db, turn).await?, turn: Some(turn) }) }))
            .await
    }

    /// Forgets a conversation: its history, and what its finished turns said. The answer counts messages of history.
    /// A turn that is queued or running goes on, and begins the new history.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: String) -> Result<i64, StoreError> {
        self.write(|db| Box::pin(async move { Ok(Changed::quietly(delete_chat(db, &chat_id).await?)) })).await
    }

    /// Deletes the events of up to a thousand turns that ended more than `seconds` ago; the answer counts events.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn forget_events_older_than(&self, seconds: i64) -> Result<u64, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(forget_events(db, seconds).await?)) })).await
    }
}

async fn accept(db: &mut SqliteConnection, turn: NewTurn) -> Result<Accepted, StoreError> {
    let known: Option<Vec<u8>> =
        query_scalar("select body_sha256 from turns where id = ?").bind(turn.id).fetch_optional(&mut *db).await?;
    if let Some(body_sha256) = known {
        return Ok(if body_sha256 == turn.body_sha256 { Accepted::Known } else { Accepted::Conflict });
    }
    query("insert into turns (id, chat_id, body_sha256, request) values (?, ?, ?, ?)")
        .bind(turn.id)
        .bind(&turn.request.chat_id)
        .bind(turn.body_sha256.as_slice())
        .bind(serde_json::to_string(&turn.request)?)
        .execute(db)
        .await?;
    Ok(Accepted::New)
}

async fn start(db: &mut SqliteConnection, position: i64) -> Result<Option<Started>, StoreError> {
    let row: Option<(String, bool, i64)> = query_as(
        "update turns set state = 'running' where position = ? and finished_at is null \
         returning request, cancel_requested, last_seq",
    )
    .bind(position)
    .fetch_optional(&mut *db)
    .await?;
    let Some((request, cancel_requested, last_seq)) = row else {
        return Ok(None);
    };
    // Of an answer that a restart interrupted; the new one will be another.
    delete_deltas(db, position).await?;
    Ok(Some(Started { request, cancel_requested, has_events: last_seq > 0 }))
}

/// The turn's id, or `None` where it is over.
async fn append(db: &mut SqliteConnection, position: i64, events: &[EventKind]) -> Result<Option<Uuid>, StoreError> {
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    let row: Option<(Uuid, i64)> = query_as(
        "update turns set last_seq = last_seq + ? where position = ? and finished_at is null returning id, last_seq",
    )
    .bind(count)
    .bind(position)
    .fetch_optional(&mut *db)
    .await?;
    let Some((id, last_seq)) = row else {
        return Ok(None);
    };
    for (seq, event) in (last_seq - count + 1..).zip(events) {
        let body = serde_json::to_value(event)?;
        query("insert into events (turn, seq, kind, body) values (?, ?, ?, ?)")
            .bind(position)
            .bind(seq)
            .bind(body["type"].as_str().unwrap_or_default())
            .bind(body.to_string())
            .execute(&mut *db)
            .await?;
    }
    Ok(Some(id))
}

async fn finish(db: &mut SqliteConnection, end: Finish) -> Result<Option<Uuid>, StoreError> {
    let Some(id) = append(db, end.position, &end.events).await? else {
        return Ok(None);
    };
    delete_deltas(db, end.position).await?;
    if let Some((said, answered)) = end.exchange {
        for (role, content) in [("user", said), ("assistant", answered)] {
            query("insert into messages (chat_id, role, content) select chat_id, ?, ? from turns where position = ?")
                .bind(role)
                .bind(content)
                .bind(end.position)
                .execute(&mut *db)
                .await?;
        }
    }
    end_turn(db, end.position, end.state).await?;
    Ok(Some(id))
}

async fn delete_deltas(db: &mut SqliteConnection, position: i64) -> Result<(), StoreError> {
    query("delete from events where turn = ? and kind = 'delta'").bind(position).execute(db).await?;
    Ok(())
}

async fn end_turn(db: &mut SqliteConnection, position: i64, state: TurnState) -> Result<(), StoreError> {
    let state = if state == TurnState::Cancelled { "cancelled" } else { "done" };
    query("update turns set state = ?, finished_at = unixepoch(), request = '' where position = ?")
        .bind(state)
        .bind(position)
        .execute(db)
        .await?;
    Ok(())
}

async fn cancel(db: &mut SqliteConnection, id: Uuid) -> Result<Option<Cancelled>, StoreError> {
    let row: Option<(i64, String, i64)> =
        query_as("select position, state, last_seq from turns where id = ?").bind(id).fetch_optional(&mut *db).await?;
    let Some((position, state, mut last_seq)) = row else {
        return Ok(None);
    };
    let state = match state.as_str() {
        "queued" => {
            append(db, position, &[EventKind::Done { pending: Some(0) }]).await?;
            end_turn(db, position, TurnState::Cancelled).await?;
            last_seq += 1;
            TurnState::Cancelled
        }
        "running" => {
            query("update turns set cancel_requested = 1 where position = ?").bind(position).execute(db).await?;
            TurnState::Running
        }
        "cancelled" => TurnState::Cancelled,
        _ => TurnState::Done,
    };
    Ok(Some(Cancelled { position, status: TurnStatus { turn_id: id, state, last_seq } }))
}

async fn delete_chat(db: &mut SqliteConnection, chat_id: &str) -> Result<i64, StoreError> {
    let deleted = query("delete from messages where chat_id = ?").bind(chat_id).execute(&mut *db).await?;
    query(
        "delete from events where turn in (select position from turns where chat_id = ? and finished_at is not null)",
    )
    .bind(chat_id)
    .execute(db)
    .await?;
    Ok(i64::try_from(deleted.rows_affected()).unwrap_or(i64::MAX))
}

async fn forget_events(db: &mut SqliteConnection, older_than_seconds: i64) -> Result<u64, StoreError> {
    let deleted = query(
        "delete from events where turn in (select position from turns t where finished_at < unixepoch() - ? \
         and exists (select 1 from events where events.turn = t.position) limit ?)",
    )
    .bind(older_than_seconds)
    .bind(FORGET_AT_ONCE)
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}
