//! Errands as rows.
//!
//! Those of one kind are done in order per user. Every write of a worker names its claim (replica and attempt) and must touch
//! one row, so an errand that was ended meanwhile (a second thought, a dead replica) changes nothing any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, Row as _};
use uuid::Uuid;

use crate::database::columns;
use crate::storable;
use crate::telegram::text::Place;
use crate::trace;
use crate::vault::Vault;

/// What is to be done; stored encrypted, for it may hold a key. So there is no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Errand {
    /// Check a key of LibertAI, and connect it if it is good.
    Login {
        /// As it was typed.
        key: String,
    },
    /// Put the balance into an account's card.
    Balance,
    /// Wait until the user's agents run on the key that is wanted.
    Rekey {
        /// Whether a key was taken back, rather than connected.
        logout: bool,
        /// How many did not when its message was last changed.
        told: Option<usize>,
    },
    /// Forget everything of the user.
    Forget,
}

impl Errand {
    /// The word in the database.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Login { .. } => "login",
            Self::Balance => "balance",
            Self::Rekey { .. } => "rekey",
            Self::Forget => "forget",
        }
    }
}

/// Writes an errand down; `progress` is the outbox row of the message that its result replaces. Wake
/// [`Queue::Errands`](crate::wake::Queue) after the commit.
pub async fn enqueue(
    conn: &mut PgConnection,
    vault: &Vault,
    place: Place,
    user_id: i64,
    errand: &Errand,
    progress: Option<i64>,
) -> sqlx::Result<Uuid> {
    sqlx::query_scalar(
        "insert into errands (id, kind, bot_id, chat_id, thread_id, user_id, request, progress, trace_context)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning id",
    )
    .bind(Uuid::now_v7())
    .bind(errand.kind())
    .bind(place.bot_id)
    .bind(place.chat_id)
    .bind(place.thread_id)
    .bind(user_id)
    .bind(vault.seal(errand))
    .bind(progress)
    .bind(trace::here())
    .fetch_one(conn)
    .await
}

/// An errand in the hands of one replica.
#[derive(Clone)]
pub struct Claimed {
    /// The row.
    pub id: Uuid,
    /// [`Errand::kind`].
    pub kind: String,
    /// Where its message is.
    pub place: Place,
    /// Whose errand it is.
    pub user_id: i64,
    /// Fernet token of an [`Errand`].
    pub request: Vec<u8>,
    /// The outbox row of its message.
    pub progress: Option<i64>,
    /// In whose hands.
    pub replica: i64,
    /// Fencing token.
    pub attempt: i32,
    /// Tries in a row that did not work.
    pub failures: i32,
    /// How often its replica died.
    pub reclaims: i32,
    /// How long ago it was asked for.
    pub age: Duration,
    /// What led to it, for [`trace::follow`].
    pub trace_context: Option<String>,
}

/// Claims up to `limit` errands, of each user and kind the oldest open one. See [`crate::telegram::inbox::claim`] for why
/// the conditions stand on the locked row.
pub async fn claim(db: &PgPool, replica: i64, bot_id: i64, limit: i64) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query(concat!(
        "with c as materialized (
           select e.id from errands e
            where not e.done and e.claimed_by is null and e.run_at <= now() and e.bot_id = $2
              and not exists (select from errands p where p.user_id = e.user_id and p.kind = e.kind
                                 and p.position < e.position and not p.done)
              and exists (select from replicas where id = $1 and expires_at > now())
            order by e.run_at limit $3 for update of e skip locked)
         update errands q set claimed_by = $1, attempt = q.attempt + 1 where q.id = any(array(select c.id from c))
         returning ", columns!(
            "q.": id, kind, bot_id, chat_id, thread_id, user_id, request, progress, attempt, failures, reclaims, trace_context
        ), ", extract(epoch from now() - q.created_at)::float8 as age",
    ))
    .bind(replica)
    .bind(bot_id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            id: row.get("id"),
            kind: row.get("kind"),
            place: Place { bot_id: row.get("bot_id"), chat_id: row.get("chat_id"), thread_id: row.get("thread_id") },
            user_id: row.get("user_id"),
            request: row.get("request"),
            progress: row.get("progress"),
            replica,
            attempt: row.get("attempt"),
            failures: row.get("failures"),
            reclaims: row.get("reclaims"),
            age: Duration::try_from_secs_f64(row.get::<f64, _>("age").max(0.0)).unwrap_or_default(),
            trace_context: row.get("trace_context"),
        })
        .collect())
}

/// Whether the errand is still ours; its row is locked until the transaction ends.
pub async fn lock(conn: &mut PgConnection, errand: &Claimed) -> sqlx::Result<bool> {
    let row =
        sqlx::query("select from errands where id = $1 and claimed_by = $2 and attempt = $3 and not done for update")
            .bind(errand.id)
            .bind(errand.replica)
            .bind(errand.attempt)
            .fetch_optional(conn)
            .await?;
    Ok(row.is_some())
}

/// Writes down how far an errand is. `false`: it is not ours any more.
pub async fn note(conn: &mut PgConnection, vault: &Vault, claimed: &Claimed, errand: &Errand) -> sqlx::Result<bool> {
    let result =
        sqlx::query("update errands set request = $4 where id = $1 and claimed_by = $2 and attempt = $3 and not done")
            .bind(claimed.id)
            .bind(claimed.replica)
            .bind(claimed.attempt)
            .bind(vault.seal(errand))
            .execute(conn)
            .await?;
    Ok(result.rows_affected() == 1)
}

/// Ends an errand, and with it what it held. `false`: it is not ours any more, and nothing of this transaction may stay.
pub async fn end(conn: &mut PgConnection, errand: &Claimed, error: Option<&str>) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update errands set done = true, claimed_by = null, request = '', error = $4, ended_at = now()
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(errand.id)
    .bind(errand.replica)
    .bind(errand.attempt)
    .bind(error.map(storable::reason))
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Ends a user's open errands of this kind, whoever has them: they are not wanted any more. The outbox rows of their messages.
pub async fn withdraw(conn: &mut PgConnection, user_id: i64, kind: &str) -> sqlx::Result<Vec<i64>> {
    let progress: Vec<Option<i64>> = sqlx::query_scalar(
        "update errands set done = true, claimed_by = null, request = '', error = 'withdrawn', ended_at = now()
          where user_id = $1 and kind = $2 and not done returning progress",
    )
    .bind(user_id)
    .bind(kind)
    .fetch_all(conn)
    .await?;
    Ok(progress.into_iter().flatten().collect())
}

/// Gives an errand back to be tried again after `wait`; `error` says what failed, none that it only waits.
pub async fn postpone(db: &PgPool, errand: &Claimed, wait: Duration, error: Option<&str>) -> sqlx::Result<()> {
    sqlx::query(
        "update errands set claimed_by = null, run_at = now() + make_interval(secs => $4),
                failures = case when $5::text is null then 0 else failures + 1 end, error = $5
          where id = $1 and claimed_by = $2 and attempt = $3 and not done",
    )
    .bind(errand.id)
    .bind(errand.replica)
    .bind(errand.attempt)
    .bind(wait.as_secs_f64())
    .bind(error.map(storable::reason))
    .execute(db)
    .await?;
    Ok(())
}

/// Gives an errand back for any replica to go on with at once.
pub async fn hand_back(db: &PgPool, errand: &Claimed) -> sqlx::Result<()> {
    sqlx::query("update errands set claimed_by = null where id = $1 and claimed_by = $2 and attempt = $3 and not done")
        .bind(errand.id)
        .bind(errand.replica)
        .bind(errand.attempt)
        .execute(db)
        .await?;
    Ok(())
}

/// Gives back what is claimed in this replica's name but not in hand (see [`crate::slots`]).
pub async fn release_strays(db: &PgPool, replica: i64, held: &[Uuid]) -> sqlx::Result<u64> {
    let result =
        sqlx::query("update errands set claimed_by = null where claimed_by = $1 and not done and id <> all($2)")
            .bind(replica)
            .bind(held)
            .execute(db)
            .await?;
    Ok(result.rows_affected())
}

/// Frees the errands that unregistered replicas had claimed; each can be done twice. One over which several replicas died
/// waits a while first: it may be what kills them.
pub async fn take_back(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let result = sqlx::query(
        // What is locked at the moment is left to the next round.
        "with lost as materialized (
           select e.id from errands e where not e.done and e.claimed_by is not null
              and not exists (select from replicas r where r.id = e.claimed_by) for update of e skip locked)
         update errands e set claimed_by = null, reclaims = e.reclaims + 1,
                run_at = case when e.reclaims >= 3 then now() + interval '1 min' else e.run_at end
           from lost where e.id = lost.id",
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}
