//! Tidying up: finished rows are kept for as long as somebody may ask for them, then deleted, a few at a time so that no
//! long transaction slows the queues. What was left half done is taken up again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::App;
use crate::jobs;
use crate::jobs::model::Kind;
use crate::replica::Replica;
use crate::wake::Queue;

const EVERY: Duration = Duration::from_secs(600);
const LEASE: &str = "janitor";
const BATCH: i64 = 5_000;

/// What goes when. Telegram repeats an update for at most a day; dead letters wait for somebody to look.
const RULES: [(&str, &str); 11] = [
    (
        "handled updates",
        "delete from updates where (bot_id, update_id) in (select bot_id, update_id from updates
          where received_at < now() - interval '3 days' and done and error is null limit $1)",
    ),
    (
        "dead letters",
        "delete from updates where (bot_id, update_id) in (select bot_id, update_id from updates
          where received_at < now() - interval '30 days' and done limit $1)",
    ),
    (
        // A message that is still being edited keeps its row, which knows its id.
        "calls to Telegram",
        "delete from outbox where id in (select o.id from outbox o
          where o.created_at < now() - interval '7 days' and o.done
            and not exists (select from outbox e where e.edits = o.id and not e.done)
            and not exists (select from jobs j where j.progress = o.id and not j.done)
            and not exists (select from errands e where e.progress = o.id and not e.done)
            and not exists (select from conversations c where c.question = o.id)
            and not exists (select from turns t where t.first_piece = o.id and not t.done) limit $1)",
    ),
    (
        "requests of failed turns",
        "update turns set request = '' where id in (select id from turns
          where done and request <> '' and ended_at < now() - interval '1 day' limit $1)",
    ),
    (
        // They tell only that somebody wanted to be forgotten, and where.
        "chats that were forgotten",
        "delete from turns where id in (select id from turns
          where done and kind = 'forget' and ended_at < now() - interval '7 days' limit $1)",
    ),
    (
        // Messages may be given back to the day on which they were counted.
        "counts of former days",
        "delete from usage where (user_id, day) in (select user_id, day from usage
          where day < (now() at time zone 'utc')::date - 7 limit $1)",
    ),
    (
        // Without a name: they were forgotten and have not come back. A block stays for as long as its agent.
        "visits of people who were forgotten",
        "delete from visitors where (agent_id, user_id) in (select v.agent_id, v.user_id
           from visitors v join users u on u.id = v.user_id
          where u.name = '' and v.blocked_at is null
            and coalesce(greatest(v.asked_at, v.refused_at) < now() - interval '1 day', true)
            and (v.day < (now() at time zone 'utc')::date or v.messages_today = 0) limit $1)",
    ),
    (
        "people who were forgotten",
        // The record of what was done about them keeps their number as long as they do.
        "with gone as (
           delete from users where id in (select u.id from users u where u.name = ''
             and u.blocked_at is null and u.daily_messages is null and u.max_agents is null
             and not exists (select from visitors v where v.user_id = u.id)
             and not exists (select from agents a where a.owner_id = u.id) limit $1)
           returning id),
         unnamed as (
           update audit a set user_id = null, before = null, after = null,
                  subject_id = case when a.subject_kind = 'user' then '' else a.subject_id end
             from gone where a.user_id = gone.id)
         select id from gone",
    ),
    (
        "finished errands",
        "delete from errands where id in (select id from errands
          where done and created_at < now() - interval '7 days' limit $1)",
    ),
    (
        "answers kept for repetitions",
        "delete from idempotency where (token_id, key) in (select token_id, key from idempotency
          where created_at < now() - interval '1 day' limit $1)",
    ),
    (
        // With what each tried. An agent's last says how it came to be as it is.
        "finished jobs",
        "delete from jobs where id in (select j.id from jobs j
          where j.done and j.ended_at < now() - interval '90 days'
            and (j.agent_id is null or exists (select from jobs n where n.agent_id = j.agent_id
                                                  and (n.created_at, n.id) > (j.created_at, j.id))) limit $1)",
    ),
];

/// Tidies up every ten minutes, on one replica at a time, until `stop`.
pub async fn run(app: &App, replica: &Replica, stop: &CancellationToken) {
    loop {
        if replica.holds(&app.db, LEASE).await.unwrap_or(false) {
            tidy_all(app, stop).await;
            if let Err(error) = resume_deletions(app).await {
                warn!(%error, "agents whose deletion nobody works at cannot be looked up; trying again later");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY.mul_f64(rand::random_range(0.9..1.1))) => {}
        }
    }
}

/// Deletes what nobody asks for any more.
pub async fn tidy_all(app: &App, stop: &CancellationToken) {
    for (what, rule) in RULES {
        tidy(app, what, rule, stop).await;
    }
}

/// Has agents deleted that are being deleted and that no job works at: whatever ended their job, they must not stay so, and be
/// paid for. How many there were.
pub async fn resume_deletions(app: &App) -> sqlx::Result<usize> {
    let mut tx = app.db.begin().await?;
    // Whoever holds an agent is about to give it a job perhaps.
    let left: Vec<i64> = sqlx::query_scalar(
        "select a.id from agents a where a.status = 'deleting' and a.deleted_at is null
            and not exists (select from jobs j where j.agent_id = a.id and not j.done)
          order by a.id limit $1 for update of a skip locked",
    )
    .bind(BATCH)
    .fetch_all(&mut *tx)
    .await?;
    for id in &left {
        // Asked again under the lock: a job that came in between was not seen by the first look.
        if jobs::store::live(&mut tx, *id).await?.is_none() {
            warn!(agent.id = id, "nobody works at the deletion of an agent; it is begun anew");
            jobs::store::enqueue(&mut tx, Kind::Deprovision, *id, None).await?;
        }
    }
    tx.commit().await?;
    if !left.is_empty() {
        app.wake.wake(Queue::Jobs);
    }
    Ok(left.len())
}

async fn tidy(app: &App, what: &str, rule: &'static str, stop: &CancellationToken) {
    let mut total = 0;
    while !stop.is_cancelled() {
        match sqlx::query(rule).bind(BATCH).execute(&app.db).await {
            Ok(result) => {
                total += result.rows_affected();
                if result.rows_affected() < BATCH as u64 {
                    break;
                }
            }
            Err(error) => {
                warn!(%error, what, "tidying up failed; trying again later");
                break;
            }
        }
    }
    if total > 0 {
        info!(rows = total, "tidied up {what}");
    }
}
