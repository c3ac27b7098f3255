//! The events of turns.

use super::writer::{Changed, Told};
use super::{Reader, Store, StoreError, pending};
use baal_protocol::{Event, EventKind};
use rusqlite::{Connection, OptionalExtension, params};

/// Events of one read.
const EVENTS_AT_ONCE: i64 = 200;
/// Turns whose events one [`Store::forget_events_older_than`] deletes at most: others wait for that long.
const FORGET_AT_ONCE: i64 = 200;

impl Reader {
    /// The next events of a turn after `seq`, a bounded number of them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn events(&self, position: i64, seq: i64) -> Result<Vec<Event>, StoreError> {
        self.read(move |db| {
            let mut select =
                db.prepare_cached("select seq, body from events where turn = ? and seq > ? order by seq limit ?")?;
            let mut rows = select.query(params![position, seq, EVENTS_AT_ONCE])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                let body: String = row.get(1)?;
                events.push(Event { seq: row.get(0)?, kind: serde_json::from_str(&body)? });
            }
            Ok(events)
        })
        .await
    }
}

impl Store {
    /// Adds events to a running turn; `false` where it is over.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn append(&self, position: i64, events: Vec<EventKind>) -> Result<bool, StoreError> {
        self.write(move |db| {
            let told = append(db, position, events)?;
            Ok(Changed { value: told.is_some(), events: told.into_iter().collect() })
        })
        .await
    }

    /// Deletes the events of some turns that ended more than `seconds` ago; the answer counts events. As long as it is not 0
    /// there may be more.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn forget_events_older_than(&self, seconds: i64) -> Result<u64, StoreError> {
        self.write(move |db| Ok(Changed::quietly(forget_events(db, seconds)?))).await
    }
}

/// Adds events to an open turn: its id and the events as numbered, or `None` where it is over.
pub(super) fn append(db: &Connection, position: i64, events: Vec<EventKind>) -> Result<Option<Told>, StoreError> {
    let mut update = db.prepare_cached(
        "update turns set last_seq = last_seq + ? where position = ? and finished_at is null returning id, last_seq",
    )?;
    let row = update.query_row(params![count(&events), position], |row| Ok((row.get(0)?, row.get(1)?)));
    let Some((id, last_seq)) = row.optional()? else {
        return Ok(None);
    };
    Ok(Some((id, insert(db, position, last_seq, events)?)))
}

pub(super) fn count(events: &[EventKind]) -> i64 {
    i64::try_from(events.len()).unwrap_or(i64::MAX)
}

/// Stores events whose numbers are taken: the last one is `last_seq`.
pub(super) fn insert(
    db: &Connection,
    position: i64,
    last_seq: i64,
    events: Vec<EventKind>,
) -> Result<Vec<Event>, StoreError> {
    let first = last_seq - count(&events) + 1;
    let events: Vec<Event> = (first..).zip(events).map(|(seq, kind)| Event { seq, kind }).collect();
    let mut insert = db.prepare_cached("insert into events (turn, seq, kind, body) values (?, ?, ?, ?)")?;
    for event in &events {
        insert.execute(params![position, event.seq, name(&event.kind), serde_json::to_string(&event.kind)?])?;
        if matches!(event.kind, EventKind::File { .. }) {
            pending::deliver_file(db, position, &event.kind)?;
        }
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
pub(super) fn delete_partial(db: &Connection, position: i64) -> Result<bool, StoreError> {
    let mut delete = db.prepare_cached("delete from events where turn = ? and kind in ('delta', 'tool_output')")?;
    Ok(delete.execute([position])? > 0)
}

fn forget_events(db: &Connection, older_than_seconds: i64) -> Result<u64, StoreError> {
    let mut delete = db.prepare_cached(
        // Along the events' own key, which begins with the oldest: of all turns that ever ended most have no events any
        // more. Turns end out of order, so the bound is the highest of those that ended last before the time.
        "delete from events where turn in (select turn from (select distinct turn from events where turn <= \
         (select max(position) from (select position from turns where finished_at < unixepoch() - ?1 \
         order by finished_at desc limit 100)) order by turn) \
         where (select finished_at from turns where position = turn) < unixepoch() - ?1 limit ?2)",
    )?;
    Ok(delete.execute([older_than_seconds, FORGET_AT_ONCE])? as u64)
}
