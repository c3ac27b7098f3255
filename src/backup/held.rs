//! An installation that was restored from a backup is **held** until `baal reconcile --confirm`: it takes updates in and shows
//! itself, and nothing is worked at. The installation that the backup was made of may have done what is unfinished in it, made
//! machines that it does not know, or may still run.
//!
//! Invariant: `installation.held_since` is set only in the transaction that fills an empty database
//! ([`load`](super::load)), and every replica asks for it between its registration and its work.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::app::App;

/// How often a replica asks whether it may work.
const POLL: Duration = Duration::from_secs(2);

/// That an installation is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[schema(as = InstallationHeld)]
pub struct Held {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Of when the backup is that it was restored from.
    pub restored_from: Option<DateTime<Utc>>,
}

/// Whether it is.
pub async fn state(conn: &mut PgConnection) -> sqlx::Result<Option<Held>> {
    sqlx::query_as("select held_since as since, restored_from from installation where held_since is not null")
        .fetch_optional(conn)
        .await
}

/// Holds it, within the transaction of the restore, and says what is not known any more of what is unfinished:
///
/// - Every call that was not made **may have been made** after the backup, so each is `uncertain`, as one is that was in flight when
///   its replica died. Replies go out once more, since nobody must wait for ever; messages that nobody asked for do not
///   ([`release`]). Edits and deletions can be repeated.
/// - A turn of an agent that recognises repetitions is asked for again under its id, and runs once. One of the base protocol's
///   does not: its turn **may have been asked**, so it ends as unknown, with a button to try again.
/// - A machine of the pool **may have been given away** after the backup, and hold what an agent remembers, so nobody gets it: it
///   is removed, and the pool is made anew. One that an agent has may hold something of it, and never goes back to the pool.
/// - Updates and jobs begin again where they were: handlers write rows only, and jobs look before they create.
///
/// Names only columns that the first schema of [`FIRST`](super::schema::FIRST) has.
pub async fn hold(conn: &mut PgConnection, made_at: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("update installation set held_since = now(), restored_from = $1, report_only = true")
        .bind(made_at)
        .execute(&mut *conn)
        .await?;
    sqlx::query("update outbox set uncertain = true where not done").execute(&mut *conn).await?;
    sqlx::query(
        "update turns t set asked = true from agents a where a.id = t.agent_id and a.protocol < 2 and not t.done",
    )
    .execute(&mut *conn)
    .await?;
    // A job that makes one goes on, and then does not put it into the pool; the reconciler removes what no job works at.
    sqlx::query(
        "update vms set touched = true,
                state = case when state in ('warm', 'preparing') and cloud <> 'local' then 'retiring' else state end
          where ended_at is null",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends it, within the transaction of the confirmation. How many messages are not sent, since they may have been.
pub async fn release(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let dropped = sqlx::query(
        "update outbox set done = true, claimed_by = null, leaving = false, payload = 'null', file = null, ended_at = now(),
                error = 'may have been sent after the backup was made'
          where not done and uncertain and kind = 'notice' and method like 'send%'",
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query("update installation set held_since = null").execute(conn).await?;
    Ok(dropped.rows_affected())
}

/// What waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Unfinished {
    /// Updates that are not handled.
    pub updates: Waiting,
    /// Turns that have not ended.
    pub turns: Waiting,
    /// Calls to Telegram that are not made.
    pub sends: Waiting,
    /// Jobs that have not ended.
    pub jobs: Waiting,
    /// Errands that have not ended.
    pub errands: Waiting,
}

/// Some of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema, FromRow)]
pub struct Waiting {
    /// How many.
    pub count: i64,
    /// When the first of them came.
    pub oldest: Option<DateTime<Utc>>,
}

/// Counts it.
pub async fn unfinished(conn: &mut PgConnection) -> sqlx::Result<Unfinished> {
    let mut each = [Waiting::default(); 5];
    let queries = [
        "select count(*), min(received_at) as oldest from updates where not done",
        "select count(*), min(created_at) as oldest from turns where not done",
        "select count(*), min(created_at) as oldest from outbox where not done",
        "select count(*), min(created_at) as oldest from jobs where not done",
        "select count(*), min(created_at) as oldest from errands where not done",
    ];
    for (waiting, query) in each.iter_mut().zip(queries) {
        *waiting = sqlx::query_as(query).fetch_one(&mut *conn).await?;
    }
    let [updates, turns, sends, jobs, errands] = each;
    Ok(Unfinished { updates, turns, sends, jobs, errands })
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("updates to handle", self.updates),
            ("turns", self.turns),
            ("calls to Telegram", self.sends),
            ("jobs", self.jobs),
            ("errands", self.errands),
        ];
        for (what, Waiting { count, oldest }) in all {
            let since = oldest.map(|at| format!(", the oldest of {}", at.to_rfc3339_opts(SecondsFormat::Secs, true)));
            writeln!(f, "  {what:17}  {count}{}", since.unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Waits until this installation may work, or until `stop`. Whether it may.
pub async fn until_released(app: &App, stop: &CancellationToken) -> bool {
    let mut told = false;
    loop {
        let held = async { state(&mut *app.db.acquire().await?).await }.await;
        match held {
            Ok(None) => return !stop.is_cancelled(),
            Ok(Some(held)) if !told => {
                told = true;
                warn!(
                    held.since = %held.since,
                    "this installation was restored from a backup and is held: updates are taken in, and nothing is worked at until \
                     `baal reconcile --confirm`"
                );
            }
            Ok(Some(_)) => {}
            Err(error) => info!(%error, "not known yet whether this installation is held"),
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}
