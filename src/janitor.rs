//! Tidying up: finished rows are kept for as long as somebody may ask for them, then deleted, a few at a time so that no
//! long transaction slows the queues. What was left half done is taken up again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::App;
use crate::config::Config;
use crate::database;
use crate::jobs;
use crate::jobs::model::Kind;
use crate::replica::Replica;
use crate::wake::Queue;

const EVERY: Duration = Duration::from_secs(600);
const LEASE: &str = "janitor";
/// Rows that one statement takes at most.
pub const BATCH: i64 = 5_000;

/// What goes when.
///
/// Each statement takes the oldest that are due, by an index, and no more than `$1`. Where a row may come back to life (a dead
/// letter that is retried, an instance that turns up again), the outer statement asks once more what the inner one asked: that is
/// what is asked again of a row that somebody else has changed meanwhile.
pub struct Rule {
    /// What it deletes or empties, for the log.
    pub what: &'static str,
    /// The statement: `$1` is how many rows at most, `$2` the days if there are any.
    pub sql: &'static str,
    /// For how many days it is kept; none where that is no setting.
    pub days: Option<fn(&Config) -> i32>,
}

const fn after(days: fn(&Config) -> i32, what: &'static str, sql: &'static str) -> Rule {
    Rule { what, sql, days: Some(days) }
}

const fn always(what: &'static str, sql: &'static str) -> Rule {
    Rule { what, sql, days: None }
}

/// All rules. docs/keeping.md says the same in words.
pub const RULES: [Rule; 22] = [
    after(
        |config| config.retention_updates,
        "handled updates",
        "delete from updates where done and error is null and (bot_id, update_id) in (select bot_id, update_id from updates
          where received_at < now() - make_interval(days => $2) and done and error is null order by received_at limit $1)",
    ),
    after(
        |config| config.retention_texts,
        "dead letters",
        "delete from updates where done and error is not null and (bot_id, update_id) in (select bot_id, update_id from updates
          where received_at < now() - make_interval(days => $2) and done and error is not null
          order by received_at limit $1)",
    ),
    after(
        |config| config.retention_outbox,
        // A message that is still being edited keeps its row, which knows its id.
        "calls to Telegram",
        "delete from outbox where id in (select o.id from outbox o
          where o.created_at < now() - make_interval(days => $2) and o.done
            and coalesce(o.ended_at, o.created_at) < now() - make_interval(days => $2)
            and not exists (select from outbox e where e.edits = o.id and not e.done)
            and not exists (select from jobs j where j.progress = o.id and not j.done)
            and not exists (select from errands e where e.progress = o.id and not e.done)
            and not exists (select from conversations c where c.question = o.id)
            and not exists (select from turns t where t.first_piece = o.id and not t.done)
          order by o.created_at limit $1)",
    ),
    always(
        "requests of failed turns",
        "update turns set request = '' where done and id in (select id from turns
          where done and request <> '' and ended_at < now() - interval '1 day' order by ended_at limit $1)",
    ),
    // They tell only that somebody wanted to be forgotten, and where.
    always(
        "chats that were forgotten",
        "delete from turns where done and id in (select id from turns
          where done and kind = 'forget' and ended_at < now() - interval '7 days' order by ended_at limit $1)",
    ),
    // Who talked to which agent is known of visitors without them, see `errands::forget` and `turns::pending`.
    after(
        |config| config.retention_turns,
        "turns",
        "delete from turns where done and id in (select id from turns
          where created_at < now() - make_interval(days => $2) and done
            and coalesce(ended_at, created_at) < now() - make_interval(days => $2)
          order by created_at limit $1)",
    ),
    // Messages may be given back to the day on which they were counted.
    always(
        "counts of former days",
        "delete from usage where (user_id, day) in (select user_id, day from usage
          where day < (now() at time zone 'utc')::date - 7 order by day limit $1)",
    ),
    after(
        |config| config.retention_texts,
        "answers of dialogues that nobody went on with",
        "update conversations set dialogue = null
          where dialogue_at < now() - make_interval(days => $2) and (bot_id, chat_id) in (select bot_id, chat_id
           from conversations where dialogue is not null and dialogue_at < now() - make_interval(days => $2)
          order by dialogue_at limit $1)",
    ),
    // Without a name: they were forgotten and have not come back. A block stays for as long as its agent.
    always(
        "visits of people who were forgotten",
        "delete from visitors where (agent_id, user_id) in (select v.agent_id, v.user_id
           from users u join visitors v on v.user_id = u.id
          where u.name = '' and v.blocked_at is null
            and coalesce(greatest(v.asked_at, v.refused_at) < now() - interval '1 day', true)
            and (v.day < (now() at time zone 'utc')::date or v.messages_today = 0) limit $1)",
    ),
    always(
        "people who were forgotten",
        // The record of what was done about them keeps their number as long as they do.
        "with gone as (
           delete from users where name = '' and id in (select u.id from users u where u.name = ''
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
    always(
        "finished errands",
        "delete from errands where done and id in (select id from errands
          where done and created_at < now() - interval '7 days' order by created_at limit $1)",
    ),
    always(
        "answers kept for repetitions",
        "delete from idempotency where (token_id, key) in (select token_id, key from idempotency
          where created_at < now() - interval '1 day' order by created_at limit $1)",
    ),
    after(
        |config| config.retention_jobs,
        // With what each tried. An agent's last says how it came to be as it is.
        "finished jobs",
        "delete from jobs where done and id in (select j.id from jobs j
          where j.done and j.ended_at < now() - make_interval(days => $2)
            and (j.agent_id is null
                 or exists (select from jobs n where n.agent_id = j.agent_id and (n.created_at, n.id) > (j.created_at, j.id))
                 or exists (select from agents a where a.id = j.agent_id
                                                   and a.deleted_at < now() - make_interval(days => $2)))
          order by j.ended_at limit $1)",
    ),
    after(
        |config| config.retention_jobs,
        // Of local agents the row says for good that a directory that comes back belongs to nobody.
        "machines that are gone",
        "delete from vms where ended_at < now() - make_interval(days => $2) and id in (select v.id from vms v
          where v.ended_at < now() - make_interval(days => $2) and v.cloud <> 'local'
            and not exists (select from jobs j where j.vm_id = v.id)
          order by v.ended_at limit $1)",
    ),
    after(
        |config| config.retention_texts,
        "personalities of agents that are gone",
        "update agents set system_prompt = '' where id in (select id from agents
          where deleted_at < now() - make_interval(days => $2) and system_prompt <> '' order by deleted_at limit $1)",
    ),
    after(
        |config| config.retention_texts,
        "versions of agents that are gone",
        // Agent by agent (a limit within is not joined otherwise): where none is gone, no version is looked at.
        "delete from agent_versions where (agent_id, version) in (select a.id, v.version
           from agents a cross join lateral (select version from agent_versions where agent_id = a.id limit $1) v
          where a.deleted_at < now() - make_interval(days => $2) limit $1)",
    ),
    after(
        |config| config.retention_texts,
        "visits of agents that are gone",
        "delete from visitors where (agent_id, user_id) in (select a.id, v.user_id
           from agents a cross join lateral (select user_id from visitors where agent_id = a.id limit $1) v
          where a.deleted_at < now() - make_interval(days => $2) limit $1)",
    ),
    after(
        |config| config.retention_texts,
        "links of agents that are gone",
        "delete from links where id in (select l.id from agents a join links l on l.agent_id = a.id
          where a.deleted_at < now() - make_interval(days => $2)
            and not exists (select from visitors v where v.link_id = l.id) limit $1)",
    ),
    after(
        |config| config.retention_texts,
        // Whoever came by it keeps it.
        "links that were revoked",
        "delete from links where id in (select l.id from links l
          where l.revoked_at < now() - make_interval(days => $2) and l.token_hash is not null
            and not exists (select from visitors v where v.link_id = l.id)
          order by l.revoked_at limit $1)",
    ),
    after(
        |config| config.retention_audit,
        "changes by administrators",
        "delete from audit where id in (select id from audit
          where at < now() - make_interval(days => $2) order by at limit $1)",
    ),
    after(
        |config| config.retention_audit,
        "tokens that are good no more",
        "delete from api_tokens where id in (select id from api_tokens
          where least(revoked_at, expires_at) < now() - make_interval(days => $2) limit $1)",
    ),
    after(
        |config| config.retention_audit,
        "invitations that are good no more",
        "delete from invites where code_hash in (select code_hash from invites
          where expires_at < now() - make_interval(days => $2) order by expires_at limit $1)",
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
    for rule in &RULES {
        tidy(app, rule, stop).await;
    }
}

/// Has agents deleted that are being deleted and that no job works at: whatever ended their job, they must not stay so, and be
/// paid for. How many there were.
pub async fn resume_deletions(app: &App) -> sqlx::Result<usize> {
    let mut tx = database::begin(&app.db).await?;
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

async fn tidy(app: &App, rule: &Rule, stop: &CancellationToken) {
    let what = rule.what;
    let mut total = 0;
    while !stop.is_cancelled() {
        let statement = sqlx::query(rule.sql).bind(BATCH);
        let statement = match rule.days {
            Some(days) => statement.bind(days(&app.config)),
            None => statement,
        };
        match statement.execute(&app.db).await {
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
