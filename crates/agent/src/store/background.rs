//! Turns that no person's message began: how many there may be, when, and what they may spend.

use super::pending;
use super::turns::accept;
use super::writer::Changed;
use super::{Accepted, NewTurn, Reader, Store, StoreError};
use crate::tools::HEARTBEAT_CHAT;
use baal_protocol::PendingSource;
use sqlx::{SqliteConnection, query, query_scalar};

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
        let spent: Option<i64> =
            query_scalar("select tokens from spending where day = date('now')").fetch_optional(&self.pool).await?;
        Ok(spent.unwrap_or(0))
    }

    /// When the last heartbeat was, in seconds since 1970.
    ///
    /// # Errors
    /// The database failed.
    pub async fn last_heartbeat(&self) -> Result<i64, StoreError> {
        Ok(query_scalar("select last_at from heartbeat").fetch_one(&self.pool).await?)
    }
}

impl Store {
    /// Takes a subagent's turn in, unless `max` of them are open; the answer is its place in the order of arrival.
    /// [`crate::turns::Scheduler::wake`] is to follow.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn spawn(&self, turn: NewTurn, max: i64) -> Result<Option<i64>, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(spawn(db, &turn, max).await?)) })).await
    }

    /// Takes a heartbeat's turn in and notes the time, unless turns of `owner_chat_id` are open.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn beat(&self, turn: NewTurn, owner_chat_id: String) -> Result<Beat, StoreError> {
        self.write(move |db| Box::pin(async move { Ok(Changed::quietly(beat(db, &turn, &owner_chat_id).await?)) }))
            .await
    }

    /// Notes that a heartbeat was due and there was nothing to do.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn skip_beat(&self) -> Result<(), StoreError> {
        self.write(|db| Box::pin(async move { Ok(Changed::quietly(note_beat(db).await?)) })).await
    }

    /// Tells the owner that the day's cap is reached, where it is and the owner was not told today.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn tell_cap_reached(&self, cap: i64, owner_chat_id: String) -> Result<(), StoreError> {
        let bell = self.bell.clone();
        self.write_then(
            move |db| Box::pin(async move { Ok(Changed::quietly(tell_cap_reached(db, cap, &owner_chat_id).await?)) }),
            move |told| bell.ring_if(*told),
        )
        .await?;
        Ok(())
    }
}

async fn spawn(db: &mut SqliteConnection, turn: &NewTurn, max: i64) -> Result<Option<i64>, StoreError> {
    let open: i64 = query_scalar("select count(*) from turns where kind = 'subagent' and finished_at is null")
        .fetch_one(&mut *db)
        .await?;
    if open >= max {
        return Ok(None);
    }
    match accept(db, turn, false).await? {
        Accepted::New { position, .. } => Ok(Some(position)),
        // The id is new, so neither can be.
        Accepted::Known | Accepted::Conflict => Ok(None),
    }
}

async fn beat(db: &mut SqliteConnection, turn: &NewTurn, owner_chat_id: &str) -> Result<Beat, StoreError> {
    let busy: bool = query_scalar(
        "select exists (select 1 from turns where chat_id = ? and finished_at is null) \
         or exists (select 1 from turns where chat_id = ? and finished_at is null)",
    )
    .bind(owner_chat_id)
    .bind(HEARTBEAT_CHAT)
    .fetch_one(&mut *db)
    .await?;
    if busy {
        return Ok(Beat::Busy);
    }
    accept(db, turn, false).await?;
    note_beat(db).await?;
    Ok(Beat::Taken)
}

async fn note_beat(db: &mut SqliteConnection) -> Result<(), StoreError> {
    query("update heartbeat set last_at = unixepoch()").execute(db).await?;
    Ok(())
}

async fn tell_cap_reached(db: &mut SqliteConnection, cap: i64, owner_chat_id: &str) -> Result<bool, StoreError> {
    let first = query("update spending set told = 1 where day = date('now') and told = 0 and tokens >= ?")
        .bind(cap)
        .execute(&mut *db)
        .await?;
    if first.rows_affected() == 0 || owner_chat_id.is_empty() {
        return Ok(false);
    }
    let content = format!(
        "I have used the {cap} tokens that I may spend in one day on work in the background. Heartbeats and subagents \
         rest until midnight (UTC); our conversation goes on as usual."
    );
    pending::insert(db, owner_chat_id, PendingSource::Heartbeat, &content).await?;
    Ok(true)
}
