//! Turns that no person's message began: how many there may be, when, and what they may spend.

use super::pending;
use super::turns::accept;
use super::writer::Changed;
use super::{Accepted, NewTurn, Reader, Store, StoreError};
use crate::tools::HEARTBEAT_CHAT;
use baal_protocol::PendingSource;
use rusqlite::{Connection, OptionalExtension};

/// What became of a heartbeat that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// It is taken in; [`crate::turns::Scheduler::wake`] is to follow.
    Taken,
    /// The owner's own turns go first, or the last heartbeat is still at work.
    Busy,
}

impl Reader {
    /// Tokens that the background has spent today (UTC).
    ///
    /// # Errors
    /// The database failed.
    pub async fn spent_today(&self) -> Result<i64, StoreError> {
        self.read(|db| {
            let mut spent = db.prepare_cached("select tokens from spending where day = date('now')")?;
            Ok(spent.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
        })
        .await
    }

    /// When the last heartbeat was, in seconds since 1970.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_heartbeat(&self) -> Result<i64, StoreError> {
        self.read(|db| Ok(db.prepare_cached("select last_at from heartbeat")?.query_row([], |row| row.get(0))?)).await
    }
}

impl Store {
    /// Takes a subagent's turn in, unless `max` of them are open; the answer is its place in the order of arrival.
    /// [`crate::turns::Scheduler::wake`] is to follow.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn spawn(&self, turn: NewTurn, max: i64) -> Result<Option<i64>, StoreError> {
        self.write(move |db| Ok(Changed::quietly(spawn(db, &turn, max)?))).await
    }

    /// Takes a heartbeat's turn in and notes the time, unless turns of `owner_chat_id` are open.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn beat(&self, turn: NewTurn, owner_chat_id: String) -> Result<Beat, StoreError> {
        self.write(move |db| Ok(Changed::quietly(beat(db, &turn, &owner_chat_id)?))).await
    }

    /// Notes that a heartbeat was due and there was nothing to do.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn skip_beat(&self) -> Result<(), StoreError> {
        self.write(|db| Ok(Changed::quietly(note_beat(db)?))).await
    }

    /// Tells the owner that the day's cap is reached, where it is and the owner was not told today.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn tell_cap_reached(&self, cap: i64, owner_chat_id: String) -> Result<(), StoreError> {
        let bell = self.bell.clone();
        self.write_then(
            move |db| Ok(Changed::quietly(tell_cap_reached(db, cap, &owner_chat_id)?)),
            move |told| bell.ring_if(*told),
        )
        .await?;
        Ok(())
    }
}

fn spawn(db: &Connection, turn: &NewTurn, max: i64) -> Result<Option<i64>, StoreError> {
    let mut open = db.prepare_cached("select count(*) from turns where kind = 'subagent' and finished_at is null")?;
    if open.query_row([], |row| row.get::<_, i64>(0))? >= max {
        return Ok(None);
    }
    match accept(db, turn, false)? {
        Accepted::New { position, .. } => Ok(Some(position)),
        // The id is new, so neither can be.
        Accepted::Known | Accepted::Conflict => Ok(None),
    }
}

fn beat(db: &Connection, turn: &NewTurn, owner_chat_id: &str) -> Result<Beat, StoreError> {
    let mut busy = db.prepare_cached(
        "select exists (select 1 from turns where chat_id = ? and finished_at is null) \
         or exists (select 1 from turns where chat_id = ? and finished_at is null)",
    )?;
    if busy.query_row([owner_chat_id, HEARTBEAT_CHAT], |row| row.get(0))? {
        return Ok(Beat::Busy);
    }
    accept(db, turn, false)?;
    note_beat(db)?;
    Ok(Beat::Taken)
}

fn note_beat(db: &Connection) -> Result<(), StoreError> {
    db.prepare_cached("update heartbeat set last_at = unixepoch()")?.execute([])?;
    Ok(())
}

fn tell_cap_reached(db: &Connection, cap: i64, owner_chat_id: &str) -> Result<bool, StoreError> {
    let mut tell =
        db.prepare_cached("update spending set told = 1 where day = date('now') and told = 0 and tokens >= ?")?;
    if tell.execute([cap])? == 0 || owner_chat_id.is_empty() {
        return Ok(false);
    }
    let content = format!(
        "I have used the {cap} tokens that I may spend in one day on work in the background. Heartbeats and subagents \
         rest until midnight (UTC); our conversation goes on as usual."
    );
    pending::insert(db, owner_chat_id, PendingSource::Heartbeat, &content)?;
    Ok(true)
}
