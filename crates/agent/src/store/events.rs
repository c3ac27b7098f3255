//! The events of turns.

use super::writer::Changed;
use super::{Reader, Store, StoreError, pending};
use baal_protocol::{Event, EventKind};
use sqlx::{SqliteConnection, query, query_as};
use uuid::Uuid;

/// Events of one read.
const EVENTS_AT_ONCE: i64 = 200;
/// Turns whose events one [`Store::forget_events_older_than`] deletes at most.
const FORGET_AT_ONCE: i64 = 1000;

impl Reader {
    /// The next events of a turn after `seq`, a bounded number of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn events(&self, position: i64, seq: i64) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, String)> =
            query_as("select seq, body from events where turn = ? and seq > ? order by seq limit ?")
                .bind(position)
                .bind(seq)
                .bind(EVENTS_AT_ONCE)
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter().map(|(seq, body)| Ok(Event { seq, kind: serde_json::from_str(&body)? })).collect()
    }
}

impl Store {
    /// Adds events to a running turn; `false` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn append(&self, position: i64, events: Vec<EventKind>) -> Result<bool, StoreError> {
        self.write(move |db| {
            Box::pin(async move {
                let told = append(db, position, events).await?;
                Ok(Changed { value: told.is_some(), events: told.into_iter().collect() })
            })
        })
        .await
    }

    /// Deletes the events of up to a thousand turns that ended more than `seconds` ago; the answer counts events.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn forget_events_older_than(&self, seconds: i64) -> Result<u64, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(forget_events(db, seconds).await?)) })).await
    }
}

/// Adds events to an open turn: its id and the events as numbered, or `None` where it is over.
pub(super) async fn append(
    db: &mut SqliteConnection,
    position: i64,
    events: Vec<EventKind>,
) -> Result<Option<(Uuid, Vec<Event>)>, StoreError> {
    let row: Option<(Uuid, i64)> = query_as(
        "update turns set last_seq = last_seq + ? where position = ? and finished_at is null returning id, last_seq",
    )
    .bind(count(&events))
    .bind(position)
    .fetch_optional(&mut *db)
    .await?;
    let Some((id, last_seq)) = row else {
        return Ok(None);
    };
    Ok(Some((id, insert(db, position, last_seq, events).await?)))
}

pub(super) fn count(events: &[EventKind]) -> i64 {
    i64::try_from(events.len()).unwrap_or(i64::MAX)
}

/// Stores events whose numbers are taken: the last one is `last_seq`.
pub(super) async fn insert(
    db: &mut SqliteConnection,
    position: i64,
    last_seq: i64,
    events: Vec<EventKind>,
) -> Result<Vec<Event>, StoreError> {
    let first = last_seq - count(&events) + 1;
    let events: Vec<Event> = (first..).zip(events).map(|(seq, kind)| Event { seq, kind }).collect();
    // In one statement as far as the usual end of a turn goes.
    for events in events.chunks(3) {
        let mut insert = query(match events.len() {
            1 => "insert into events (turn, seq, kind, body) values (?, ?, ?, ?)",
            2 => "insert into events (turn, seq, kind, body) values (?, ?, ?, ?), (?, ?, ?, ?)",
            _ => "insert into events (turn, seq, kind, body) values (?, ?, ?, ?), (?, ?, ?, ?), (?, ?, ?, ?)",
        });
        for event in events {
            let body = serde_json::to_string(&event.kind)?;
            insert = insert.bind(position).bind(event.seq).bind(name(&event.kind)).bind(body);
        }
        insert.execute(&mut *db).await?;
    }
    for event in events.iter().filter(|event| matches!(event.kind, EventKind::File { .. })) {
        pending::deliver_file(db, position, &event.kind).await?;
    }
    Ok(events)
}

/// The type as on the wire.
fn name(event: &EventKind) -> &'static str {
    match event {
        EventKind::Text { .. } => "text",
        EventKind::Delta { .. } => "delta",
        EventKind::ToolUse { .. } => "tool_use",
        EventKind::ToolOutput { .. } => "tool_output",
        EventKind::Steered { .. } => "steered",
        EventKind::File { .. } => "file",
        EventKind::Keepalive => "keepalive",
        EventKind::Error { .. } => "error",
        EventKind::Usage { .. } => "usage",
        EventKind::Done { .. } => "done",
        EventKind::Unknown => "unknown",
    }
}

/// Deletes what is only for those who watch: partial text that the whole is there of, output that a result is there of.
/// The answer says whether there was any.
pub(super) async fn delete_partial(db: &mut SqliteConnection, position: i64) -> Result<bool, StoreError> {
    let deleted = query("delete from events where turn = ? and kind in ('delta', 'tool_output')")
        .bind(position)
        .execute(db)
        .await?;
    Ok(deleted.rows_affected() > 0)
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
