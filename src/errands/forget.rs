//! Forgetting somebody: their agents, what others' agents know of them, and every row.
//!
//! Each look does what is left to do, so it can be begun again anywhere. Nothing new is begun for somebody who is being
//! forgotten ([`crate::telegram::commands`] sees to that).

use std::time::Duration;

use baal_protocol::Role;
use sqlx::{PgConnection, Row as _};
use tracing::info;

use super::store::{self, Claimed};
use super::{Tried, show, tell};
use crate::agents::service::{self, ServiceError};
use crate::app::App;
use crate::database;
use crate::telegram::text::Place;
use crate::telegram::texts;
use crate::turns::store::{self as turns, Kind, Request};
use crate::wake::Queue;

/// How long others' agents may take to forget before the user is told that they will.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_LATER: Duration = Duration::from_secs(15);
/// From this age on nobody watches every second.
const WATCHED: Duration = Duration::from_secs(120);

/// What is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    /// Agents of the user that are being deleted.
    agents: i64,
    /// Turns under way, of the user or with their agents.
    turns: i64,
    /// Agents of others that have not forgotten the user yet.
    others: i64,
}

/// Does what is left, and ends once nothing is.
pub(super) async fn attempt(app: &App, errand: &Claimed) -> sqlx::Result<Tried> {
    let user = errand.user_id;
    let mut tx = database::begin(&app.db).await?;
    // Turns before agents, as whoever ends a turn does.
    stop_turns(&mut tx, user).await?;
    // Before its secret is gone with it, an agent that runs elsewhere is told.
    ask_to_forget(&mut tx, app, errand).await?;
    delete_agents(&mut tx, errand).await?;
    let left = left(&mut tx, user).await?;
    let waits = left.agents > 0 || left.turns > 0 || (left.others > 0 && errand.age < PATIENCE);
    if waits {
        if !store::lock(&mut tx, errand).await? {
            return Ok(Tried::Lost);
        }
        show(&mut tx, errand, texts::forgetting(left.agents, left.others)).await?;
        tx.commit().await?;
        for queue in [Queue::Jobs, Queue::Turns] {
            app.wake.wake(queue);
        }
        return Ok(Tried::Later(if errand.age < WATCHED { LOOK_EVERY } else { LOOK_LATER }));
    }
    if !store::end(&mut tx, errand, None).await? {
        return Ok(Tried::Lost);
    }
    purge(&mut tx, errand).await?;
    tell(&mut tx, errand, texts::forgotten(left.others)).await?;
    tx.commit().await?;
    info!(user.id = user, agents.unreached = left.others, "a user was forgotten");
    Ok(Tried::Done)
}

/// Has the user's agents deleted; those that are being deleted go on. No machine of ours goes with one that runs elsewhere, so
/// that it is waited for whether it has forgotten the user.
async fn delete_agents(conn: &mut PgConnection, errand: &Claimed) -> sqlx::Result<()> {
    let user = errand.user_id;
    let agents: Vec<i64> = sqlx::query_scalar(
        "select id from agents a where owner_id = $1 and deleted_at is null and status <> 'deleting'
            and not (external and $2 and exists (select from turns f where f.agent_id = a.id and f.user_id = $1
                                                    and f.kind = 'forget' and not f.done))
          order by id",
    )
    .bind(user)
    .bind(errand.age < PATIENCE)
    .fetch_all(&mut *conn)
    .await?;
    for id in agents {
        // silent-ok: what is refused is being deleted by somebody else.
        if let Err(ServiceError::Database(error)) = service::delete(conn, user, id).await {
            return Err(error);
        }
    }
    Ok(())
}

/// Nobody waits for the user's answers any more.
async fn stop_turns(conn: &mut PgConnection, user: i64) -> sqlx::Result<()> {
    sqlx::query(
        "update turns set cancel_requested = true
          where user_id = $1 and not done and not cancel_requested and kind <> 'forget'",
    )
    .bind(user)
    .execute(conn)
    .await?;
    Ok(())
}

/// Asks agents of others, and the user's that run elsewhere, to forget the chats that the user had with them, once. People talk
/// to agents in private chats, whose ids are theirs.
async fn ask_to_forget(conn: &mut PgConnection, app: &App, errand: &Claimed) -> sqlx::Result<()> {
    let chats = sqlx::query(
        "select distinct t.bot_id, t.chat_id, t.agent_id, a.owner_id = $1 as own
           from (select n.bot_id, n.chat_id, n.agent_id from turns n
                  where n.bot_id in (select b.bot_id from bots b) and n.chat_id = $1 and n.user_id = $1 and n.kind in ('message', 'reset', 'hello')
                  -- Turns are not kept for ever.
                  union select v.bot_id, v.user_id, v.agent_id from visitors v where v.user_id = $1 and v.messages > 0
                  union select o.bot_id, $1, o.id from agents o
                   where o.owner_id = $1 and o.external and o.created_at < now() - make_interval(days => $2)) t
           join agents a on a.id = t.agent_id
          where t.bot_id in (select b.bot_id from bots b) and (a.owner_id <> $1 or a.external)
            and a.deleted_at is null and a.status <> 'deleting'
            and not exists (select from turns f where f.user_id = $1 and f.agent_id = t.agent_id and f.bot_id = t.bot_id
                               and f.chat_id = t.chat_id and f.kind = 'forget'
                               and f.created_at >= (select forgetting_since from users where id = $1))",
    )
    .bind(errand.user_id)
    .bind(app.config.retention_turns)
    .fetch_all(&mut *conn)
    .await?;
    let nothing = Request { message: String::new(), name: String::new(), language_code: None };
    for chat in chats {
        let place = Place { bot_id: chat.get("bot_id"), chat_id: chat.get("chat_id"), thread_id: None };
        let role = if chat.get("own") { Role::Owner } else { Role::Visitor };
        let who = (chat.get("agent_id"), errand.user_id, role);
        turns::enqueue_special(conn, &app.config.vault, place, who, Kind::Forget, &nothing).await?;
    }
    Ok(())
}

async fn left(conn: &mut PgConnection, user: i64) -> sqlx::Result<Left> {
    let row = sqlx::query(
        "select (select count(*) from agents where owner_id = $1 and deleted_at is null) as agents,
                (select count(*) from turns t where not t.done and t.kind <> 'forget'
                    and (t.user_id = $1 or t.agent_id in (select id from agents where owner_id = $1))) as turns,
                (select count(distinct t.agent_id) from turns t join agents a on a.id = t.agent_id
                  where t.user_id = $1 and not t.done and t.kind = 'forget' and a.owner_id <> $1) as others",
    )
    .bind(user)
    .fetch_one(conn)
    .await?;
    Ok(Left { agents: row.get("agents"), turns: row.get("turns"), others: row.get("others") })
}

/// Removes every row of the user and of their agents. What stays goes by itself: `forget` turns that are still to be told (the
/// agent has to be given the chat's number); the rows of handled updates, which hold numbers only and keep Telegram's
/// repetitions from being handled again; and what would otherwise be a way round a limit: that somebody, or an operator, blocked
/// or refused this number, its own limits, and how many messages it sent today. See the janitor's rules.
async fn purge(conn: &mut PgConnection, errand: &Claimed) -> sqlx::Result<()> {
    const STATEMENTS: [&str; 25] = [
        // Dead letters hold what was typed.
        "update updates set body = '', error = 'its user was forgotten' where chat_id in ($1, $2) and done and body <> ''",
        // The message that shows how it goes is still to be changed; whatever else waits is for nobody any more.
        "delete from outbox where chat_id in ($1, $2) and claimed_by is null and id is distinct from $3",
        "delete from errands where user_id = $1 and done",
        "delete from usage where user_id = $1 and day < (now() at time zone 'utc')::date",
        "delete from conversations where chat_id in ($1, $2)",
        "update conversations set agent_id = null where agent_id in (select id from agents where owner_id = $1)",
        "delete from visitors where agent_id in (select id from agents where owner_id = $1)",
        "delete from visitors where user_id = $1 and blocked_at is null
            and coalesce(greatest(asked_at, refused_at) < now() - interval '1 day', true)
            and (day < (now() at time zone 'utc')::date or messages_today = 0)",
        "update visitors set link_id = null, admitted_at = null, messages = 0, first_seen_at = now(), last_seen_at = now()
          where user_id = $1",
        "delete from turns where user_id = $1 and done",
        "delete from turns where agent_id in (select id from agents where owner_id = $1)",
        "delete from links where agent_id in (select id from agents where owner_id = $1)",
        "delete from agent_versions where agent_id in (select id from agents where owner_id = $1)",
        "delete from job_steps where job_id in (select j.id from jobs j join agents a on a.id = j.agent_id where a.owner_id = $1)",
        "delete from jobs where agent_id in (select id from agents where owner_id = $1)",
        "update vms set agent_id = null where agent_id in (select id from agents where owner_id = $1)",
        "update vms set last_agent_id = null where last_agent_id in (select id from agents where owner_id = $1)",
        "delete from agents where owner_id = $1",
        "update invites set used_by = null where used_by = $1",
        "update invites set created_by = 0 where created_by = $1",
        "update users set name = '', username = null, language_code = null, first_seen_at = now(), libertai_key = null,
                key_version = 0, key_connected_at = null, tool_lines = false, invited_at = null, forgetting_since = null
          where id = $1",
        // Of a user's own row the record tells a block and limits, which stay with the row.
        "update audit set before = null, after = null where user_id = $1 and subject_kind <> 'user'",
        // A visitor's subject is `42/7`: the agent, and who.
        "update audit set subject_id = split_part(subject_id, '/', 1) where user_id = $1 and subject_kind = 'visitor'",
        "delete from users where id = $1 and not exists (select from visitors where user_id = $1)
            and blocked_at is null and daily_messages is null and max_agents is null",
        "update audit set user_id = null, before = null, after = null,
                subject_id = case when subject_kind = 'user' then '' else subject_id end
          where user_id = $1 and not exists (select from users where id = $1)",
    ];
    for statement in STATEMENTS {
        let mut query = sqlx::query(statement).bind(errand.user_id);
        if statement.contains("$2") {
            query = query.bind(errand.place.chat_id);
        }
        if statement.contains("$3") {
            query = query.bind(errand.progress);
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}
