//! The inbox: updates as Telegram sent them, committed before they are acknowledged, kept until they are handled.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use super::conversation::{Conversation, account_columns, conversation_columns, conversation_tables};
use super::{outbox, texts, update};
use crate::agents::Status;
use crate::app::App;
use crate::database::list;
use crate::floor;
use crate::handover::Giving;
use crate::storable;
use crate::together::{Sharing, Together};
use crate::trace;
use crate::wake::Queue;

/// Reclaims after which an update is given up: each time, the replica that handled it died.
const MAX_RECLAIMS: i32 = 5;

/// Reclaims after which an update is handled alone, so that it takes no other down with it.
const SUSPECT_RECLAIMS: i32 = 2;

/// Failures after which an update is a dead letter.
pub const MAX_FAILURES: i32 = 5;

/// Open updates of one chat beyond which Telegram is asked to wait: a long queue of one chat makes claims slow for all.
const CHAT_CAP: i64 = 200;

/// How long the database may take to store arrivals.
const WRITE_WITHIN: Duration = Duration::from_secs(20);

/// An arrival's fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is kept, now or since an earlier delivery.
    Kept,
    /// Too many of its chat's updates are unhandled; it must be delivered again later.
    ChatFull,
}

#[derive(Debug, Clone)]
struct Arrival {
    update_id: i64,
    chat_id: i64,
    body: Vec<u8>,
    trace_context: Option<String>,
}

/// The way into the inbox: arrivals that wait at the same moment share one commit, which triples the rate.
#[derive(Clone)]
pub struct Inbox {
    app: App,
    arrivals: Together<Arrival, Stored>,
}

/// The database did not take an update.
#[derive(Debug, thiserror::Error)]
#[error("the update could not be stored")]
pub struct NotStored;

impl Inbox {
    /// Starts the task that writes arrivals, which lives as long as the handles.
    pub fn start(app: App) -> Self {
        let writer = app.clone();
        // A chat's updates are inserted in the order in which they came.
        let arrivals = Together::start(Sharing::InOrder, move |batch| write(writer.clone(), batch));
        Self { app, arrivals }
    }

    /// Stores an update's body; on return it is committed.
    pub async fn store(&self, body: &[u8]) -> Result<Stored, NotStored> {
        let (update_id, chat_id) = update::place(body);
        let body = self.app.config.vault.encrypt(body);
        let arrival = Arrival { update_id, chat_id, body, trace_context: trace::here() };
        // silent-ok: `write` has told why
        self.arrivals.run(arrival).await.map_err(|_| NotStored)
    }
}

/// Who handles updates in this process, if anybody does: what arrives may come into being claimed by it.
#[derive(Debug, Default)]
pub struct Handling(Mutex<Option<Handler>>);

/// A replica, and the way to its dispatcher.
#[derive(Debug, Clone)]
struct Handler {
    replica: i64,
    giving: Giving<(i64, i32), Claimed>,
}

/// As long as this lives, a dispatcher takes updates.
pub struct Handled<'a>(&'a Handling);

impl Handling {
    /// The dispatcher of this replica takes updates from now on.
    pub fn begin(&self, replica: i64, giving: Giving<(i64, i32), Claimed>) -> Handled<'_> {
        *self.lock() = Some(Handler { replica, giving });
        Handled(self)
    }

    fn handler(&self) -> Option<Handler> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Handler>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handled<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

async fn write(app: App, batch: Arc<[Arrival]>) -> sqlx::Result<Vec<Stored>> {
    let handler = app.handling.handler();
    let prepared = handler.as_ref().map(|handler| handler.giving.prepare(batch.len()));
    let claims =
        handler.as_ref().zip(prepared.as_ref()).map(|(handler, prepared)| (handler.replica, prepared.places()));
    let written = tokio::time::timeout(WRITE_WITHIN, insert(&app.db, app.bot_id, &batch, claims)).await;
    let written = written.unwrap_or(Err(sqlx::Error::PoolTimedOut)).inspect_err(|error| {
        tracing::error!(%error, updates = batch.len(), "updates could not be stored; Telegram will send them again");
        // It is not known whether they are.
        app.wake.wake(Queue::Updates);
    })?;
    if written.kept.len() > written.taken.len() {
        app.wake.wake(Queue::Updates);
    }
    if let Some(prepared) = prepared {
        prepared.settle(written.taken.into_iter().map(|update| ((update.update_id, update.attempt), update)));
    }
    let fate = |arrival: &Arrival| match written.kept.contains(&arrival.update_id) {
        true => Stored::Kept,
        false => Stored::ChatFull,
    };
    Ok(batch.iter().map(fate).collect())
}

/// What became of a batch.
#[derive(Default)]
struct Written {
    /// The ids that are now in the inbox.
    kept: Vec<i64>,
    /// Those of them that came into being claimed.
    taken: Vec<Claimed>,
}

/// What is known of the chat of a row `t`, for those rows of which `$which` is true. `limit 1` keeps the planner from joining all users
/// with a tenth of the table (see [`claim`]).
macro_rules! known {
    ($which:literal) => {
        concat!(
            " left join lateral (
                select c.unreachable_at is null as reachable, ",
            conversation_columns!(),
            " from (select case when u.flood_minute = date_trunc('minute', now()) then u.flood_count + 1 else 1 end as flood_count, ",
            account_columns!(),
            " from users u where u.id = t.chat_id and ",
            $which,
            ") n",
            conversation_tables!("t.bot_id", "t.chat_id", "t.chat_id"),
            " limit 1) known on true"
        )
    };
}

/// Inserts a batch. With `claims`, a replica and how many it has room for, an update comes into being claimed by it where nothing of
/// its chat is open: as [`claim`] would find it.
async fn insert(db: &PgPool, bot_id: i64, batch: &[Arrival], claims: Option<(i64, usize)>) -> sqlx::Result<Written> {
    let ids: Vec<i64> = batch.iter().map(|a| a.update_id).collect();
    let chats: Vec<i64> = batch.iter().map(|a| a.chat_id).collect();
    let bodies: Vec<&[u8]> = batch.iter().map(|a| a.body.as_slice()).collect();
    // Null, not a list of nulls, where no traces are collected.
    let traced = batch.iter().any(|a| a.trace_context.is_some());
    let traces: Option<Vec<Option<&str>>> = traced.then(|| batch.iter().map(|a| a.trace_context.as_deref()).collect());
    // In order of their ids, so that two replicas that are handed the same updates do not wait for each other.
    let rows = sqlx::query(concat!(
        "with arrived as materialized (
           select u.update_id, u.chat_id, u.body, u.trace_context, o.open,
                  u.place <= $8 and o.open = 0 and row_number() over (partition by u.chat_id order by u.update_id) = 1
                  and exists (select from replicas where id = $7 and expires_at > now()) as taken
             from unnest(",
        list!("2": int8, "3": int8, "4": bytea, "6": text),
        ") with ordinality
                  u (update_id, chat_id, body, trace_context, place),
                  lateral (select count(*) as open from (select from updates p where p.bot_id = $1 and p.chat_id = u.chat_id
                                                                               and not p.done limit $5) p) o),
         kept as (
           insert into updates (bot_id, update_id, chat_id, body, trace_context, claimed_by, attempt)
           select $1, a.update_id, a.chat_id, a.body, a.trace_context, case when a.taken then $7 end, a.taken::int
             from arrived a where a.open < $5 order by a.update_id
           on conflict do nothing returning bot_id, update_id, chat_id, claimed_by, attempt, failures)
         select t.bot_id, t.update_id, t.chat_id, t.claimed_by is not null as taken, t.attempt, t.failures, known.*
           from kept t",
        known!("t.claimed_by is not null"),
    ))
    .bind(bot_id)
    .bind(&ids)
    .bind(&chats)
    .bind(&bodies)
    .bind(CHAT_CAP)
    .bind(traces)
    .bind(claims.map(|(replica, _)| replica))
    .bind(claims.map_or(0, |(_, places)| places as i64))
    .fetch_all(db)
    .await?;
    let arrivals: HashMap<i64, &Arrival> = batch.iter().map(|arrival| (arrival.update_id, arrival)).collect();
    let mut written = Written::default();
    for row in rows {
        let update_id = row.get("update_id");
        written.kept.push(update_id);
        if let Some(arrival) = arrivals.get(&update_id).filter(|_| row.get("taken")) {
            written.taken.push(claimed(&row, arrival.body.clone(), arrival.trace_context.clone()));
        }
    }
    if written.kept.len() < batch.len() {
        // Delivered before, or refused for its chat's sake: what is there tells.
        written.kept = sqlx::query_scalar("select update_id from updates where bot_id = $1 and update_id = any($2)")
            .bind(bot_id)
            .bind(&ids)
            .fetch_all(db)
            .await?;
    }
    Ok(written)
}

/// An update in the hands of one replica.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Telegram's id of the bot.
    pub bot_id: i64,
    /// Telegram's id of the update.
    pub update_id: i64,
    /// The chat in whose order it stands.
    pub chat_id: i64,
    /// Fernet token of what Telegram sent.
    pub body: Vec<u8>,
    /// Fencing token.
    pub attempt: i32,
    /// How often handling it failed before.
    pub failures: i32,
    /// What led to it, for [`trace::follow`].
    pub trace_context: Option<String>,
    /// What is known of a private chat and of whom it is with (a private chat has its person's id), as it was when the update was
    /// claimed. None: nothing yet, or nobody could be reached there.
    pub known: Option<Conversation>,
}

fn claimed(row: &PgRow, body: Vec<u8>, trace_context: Option<String>) -> Claimed {
    let chat_id = row.get("chat_id");
    // A newer version's agent may be in a state that this one has no name for.
    let known =
        row.get::<Option<bool>, _>("reachable") == Some(true) && row.try_get::<Option<Status>, _>("status").is_ok();
    Claimed {
        known: known.then(|| Conversation::of_row(row, chat_id)),
        bot_id: row.get("bot_id"),
        update_id: row.get("update_id"),
        chat_id,
        body,
        attempt: row.get("attempt"),
        failures: row.get("failures"),
        trace_context,
    }
}

/// Claims up to `limit` updates with ids from `floor` on, of each chat the oldest open one.
///
/// `skip locked` lets replicas claim side by side. That an update is its chat's head is asked of the row that is locked,
/// not of a subquery that chose it: otherwise two claims overlap, or a chat's order breaks. `any(array(…))` instead of a
/// join, because the planner takes the `limit` of a prepared statement for a tenth of the table, and joins that by
/// reading all of it.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64, floor: i64) -> sqlx::Result<Vec<Claimed>> {
    claim_where(db, replica, bot_id, limit, floor, 0..SUSPECT_RECLAIMS).await
}

/// Claims at most one update whose replicas died again and again; to be handled while nothing else is.
pub async fn claim_suspect(db: &PgPool, replica: i64, bot_id: i64) -> sqlx::Result<Vec<Claimed>> {
    claim_where(db, replica, bot_id, 1, floor::NONE, SUSPECT_RECLAIMS..i32::MAX).await
}

async fn claim_where(
    db: &PgPool,
    replica: i64,
    bot_id: i64,
    limit: i64,
    floor: i64,
    reclaims: Range<i32>,
) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query(concat!(
        "with c as materialized (
           select i.update_id from updates i
            where not i.done and i.claimed_by is null and i.run_at <= now() and i.bot_id = $2
              and i.update_id >= $6 and i.reclaims >= $4 and i.reclaims < $5
              and not exists (select from updates p where p.bot_id = i.bot_id and p.chat_id = i.chat_id
                                 and p.update_id < i.update_id and not p.done)
              and exists (select from replicas where id = $1 and expires_at > now())
            order by i.update_id limit $3 for update of i skip locked),
         taken as (
           update updates q set claimed_by = $1, attempt = q.attempt + 1
            where q.bot_id = $2 and q.update_id = any(array(select c.update_id from c))
           returning q.bot_id, q.update_id, q.chat_id, q.body, q.attempt, q.failures, q.trace_context)
         select t.bot_id, t.update_id, t.chat_id, t.body, t.attempt, t.failures, t.trace_context, known.*
           from taken t",
        known!("true"),
    ))
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .bind(reclaims.start)
    .bind(reclaims.end)
    .bind(floor)
    .fetch_all(db)
    .await?;
    Ok(rows.iter().map(|row| claimed(row, row.get("body"), row.get("trace_context"))).collect())
}

/// Whether there is an update for [`claim_suspect`].
pub async fn has_suspect(db: &PgPool, bot_id: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from updates where not done and claimed_by is null and bot_id = $1 and reclaims >= $2)",
    )
    .bind(bot_id)
    .bind(SUSPECT_RECLAIMS)
    .fetch_one(db)
    .await
}

/// Ends an update within its handler's transaction. `false`: the claim was lost, and the transaction must not commit.
pub async fn finish(conn: &mut PgConnection, replica: i64, update: &Claimed) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update updates set done = true, claimed_by = null, body = '', error = null
          where bot_id = $1 and update_id = $2 and claimed_by = $3 and attempt = $4 and not done",
    )
    .bind(update.bot_id)
    .bind(update.update_id)
    .bind(replica)
    .bind(update.attempt)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Ends an update as a dead letter: its body stays, encrypted, until somebody has looked. `false` as in [`finish`].
pub async fn bury(conn: &mut PgConnection, replica: i64, update: &Claimed, error: &str) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update updates set done = true, claimed_by = null, error = $5, failures = failures + 1
          where bot_id = $1 and update_id = $2 and claimed_by = $3 and attempt = $4 and not done",
    )
    .bind(update.bot_id)
    .bind(update.update_id)
    .bind(replica)
    .bind(update.attempt)
    .bind(storable::reason(error))
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Takes the body from an update that has ended: it holds what must not stay.
pub async fn empty(conn: &mut PgConnection, update: &Claimed) -> sqlx::Result<()> {
    sqlx::query("update updates set body = '' where bot_id = $1 and update_id = $2 and done")
        .bind(update.bot_id)
        .bind(update.update_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Hands an update back to be tried again after `wait`; its chat waits with it, for order matters more than pace.
pub async fn postpone(
    db: &PgPool,
    replica: i64,
    update: &Claimed,
    failures: i32,
    error: &str,
    wait: Duration,
) -> sqlx::Result<()> {
    sqlx::query(
        "update updates set claimed_by = null, failures = $5, error = $6, run_at = now() + make_interval(secs => $7)
          where bot_id = $1 and update_id = $2 and claimed_by = $3 and attempt = $4 and not done",
    )
    .bind(update.bot_id)
    .bind(update.update_id)
    .bind(replica)
    .bind(update.attempt)
    .bind(failures)
    .bind(storable::reason(error))
    .bind(wait.as_secs_f64())
    .execute(db)
    .await?;
    Ok(())
}

/// What is claimed in this replica's name: updates, and the attempt.
pub async fn claimed_by(db: &PgPool, replica: i64, bot_id: i64) -> sqlx::Result<Vec<(i64, i32)>> {
    sqlx::query_as("select update_id, attempt from updates where claimed_by = $1 and bot_id = $2 and not done")
        .bind(replica)
        .bind(bot_id)
        .fetch_all(db)
        .await
}

/// Gives back what this replica has claimed and does not have in hand (see [`crate::slots`]).
pub async fn release(db: &PgPool, replica: i64, bot_id: i64, strays: Vec<(i64, i32)>) -> sqlx::Result<u64> {
    let (ids, attempts): (Vec<i64>, Vec<i32>) = strays.into_iter().unzip();
    let result = sqlx::query(
        "update updates u set claimed_by = null from unnest($3::int8[], $4::int4[]) s (update_id, attempt)
          where u.bot_id = $2 and u.update_id = s.update_id and u.attempt = s.attempt and u.claimed_by = $1 and not u.done",
    )
    .bind(replica)
    .bind(bot_id)
    .bind(ids)
    .bind(attempts)
    .execute(db)
    .await?;
    Ok(result.rows_affected())
}

/// Frees the updates that unregistered replicas had claimed. One that took too many replicas down is a dead letter, and
/// its user is told.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    // What is locked at the moment is left to the next round.
    let rows = sqlx::query(
        "with lost as materialized (
           select u.bot_id, u.update_id from updates u where not u.done and u.claimed_by is not null
              and not exists (select from replicas r where r.id = u.claimed_by) for update of u skip locked)
         update updates u set claimed_by = null, reclaims = u.reclaims + 1, done = u.reclaims + 1 >= $1,
                error = case when u.reclaims + 1 >= $1 then 'every replica that handled it died' else u.error end
           from lost where u.bot_id = lost.bot_id and u.update_id = lost.update_id
         returning u.bot_id, u.update_id, u.chat_id, u.done",
    )
    .bind(MAX_RECLAIMS)
    .fetch_all(&mut *conn)
    .await?;
    for row in rows.iter().filter(|row| row.get("done")) {
        let (update_id, chat_id): (i64, i64) = (row.get("update_id"), row.get("chat_id"));
        tracing::error!(
            update.id = update_id,
            chat.id = chat_id,
            "an update is a dead letter: every replica that handled it died"
        );
        if chat_id > 0 {
            outbox::enqueue(conn, &texts::apology(row.get("bot_id"), chat_id)).await?;
        }
    }
    Ok(rows.len() as u64)
}
