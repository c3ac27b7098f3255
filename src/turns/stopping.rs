//! Stopping turns: a mark on their rows, which the replica that runs one sees at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Row};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::app::App;
use crate::replica::Replica;
use crate::slots::bounded;
use crate::telegram::text::Place;
use crate::wake::Queue;

/// How often marks are looked for that no wake-up told of.
const POLL: Duration = Duration::from_secs(1);

/// What was to be stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Turns that an agent was at work on.
    pub running: i64,
    /// Messages in turns that nobody had begun.
    pub waiting: i64,
}

/// Marks a user's open turns in this chat as to be stopped. Wake [`Queue::Stops`] and [`Queue::Turns`] after the commit.
pub async fn stop_all(conn: &mut PgConnection, place: Place, user_id: i64) -> sqlx::Result<Stopped> {
    let row = sqlx::query(
        "with stopped as (
           update turns set cancel_requested = true
            where bot_id = $1 and chat_id = $2 and user_id = $3 and not done and kind in ('message', 'hello')
            returning attempt > 0 as begun, cardinality(message_ids) as messages)
         select count(*) filter (where begun) as running,
                coalesce(sum(messages) filter (where not begun), 0)::int8 as waiting from stopped",
    )
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(user_id)
    .fetch_one(conn)
    .await?;
    Ok(Stopped { running: row.get("running"), waiting: row.get("waiting") })
}

/// Marks one turn as to be stopped, if it is this user's. `false`: it is over. Wake as after [`stop_all`].
pub async fn stop_one(conn: &mut PgConnection, id: Uuid, user_id: i64) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update turns set cancel_requested = true
          where id = $1 and user_id = $2 and not done and kind in ('message', 'hello')",
    )
    .bind(id)
    .bind(user_id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

async fn marked(db: &PgPool, replica: i64) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar("select id from turns where claimed_by = $1 and not done and cancel_requested")
        .bind(replica)
        .fetch_all(db)
        .await
}

/// The turns under way in this process; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stops(Arc<Mutex<HashMap<(Uuid, i32), CancellationToken>>>);

impl Stops {
    /// A turn gets under way under this claim. `marked`: whether it is to be stopped already.
    pub fn enter(&self, id: Uuid, attempt: i32, marked: bool) -> UnderWay {
        let token = CancellationToken::new();
        if marked {
            token.cancel();
        }
        self.lock().insert((id, attempt), token.clone());
        UnderWay { stops: self.clone(), key: (id, attempt), token }
    }

    /// Tells turns of their marks, for ever.
    pub async fn watch(&self, app: &App, replica: &Replica) {
        loop {
            app.wake.wait(Queue::Stops, POLL).await;
            if self.lock().is_empty() {
                continue;
            }
            match bounded(marked(&app.db, replica.id())).await {
                Ok(ids) => {
                    let under_way = self.lock();
                    let found = under_way.iter().filter(|((id, _), _)| ids.contains(id));
                    found.for_each(|(_, token)| token.cancel());
                }
                Err(error) => warn!(%error, "turns to be stopped could not be looked for; trying again"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Uuid, i32), CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn under way; no longer once it is dropped.
pub struct UnderWay {
    stops: Stops,
    key: (Uuid, i32),
    token: CancellationToken,
}

impl UnderWay {
    /// Fires when the user wants no more of it.
    pub fn stopped(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.stops.lock().remove(&self.key);
    }
}
