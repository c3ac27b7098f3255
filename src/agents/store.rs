//! Agents as rows.
//!
//! Whoever locks several kinds of rows does it in this order, so that nobody waits in a circle: conversations, users,
//! agents, vms, jobs, hosts, installation.

use sqlx::PgConnection;

use super::model::{Agent, Status, agent_columns};
use super::service::NewAgent;
use crate::config::Visibility;

/// The agent, whatever its status.
pub async fn get(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Agent>> {
    sqlx::query_as(concat!("select ", agent_columns!(""), " from agents where id = $1"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The same, locked until the transaction ends. Rows that refer to the agent can still be inserted meanwhile.
pub async fn lock(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Agent>> {
    sqlx::query_as(concat!("select ", agent_columns!(""), " from agents where id = $1 for no key update"))
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// A user's agents that are not deleted, oldest first.
pub async fn owned(conn: &mut PgConnection, owner_id: i64) -> sqlx::Result<Vec<Agent>> {
    sqlx::query_as(concat!(
        "select ",
        agent_columns!(""),
        " from agents where owner_id = $1 and deleted_at is null order by id"
    ))
    .bind(owner_id)
    .fetch_all(conn)
    .await
}

/// Which agents; what is none does not matter.
#[derive(Debug, Clone, Default)]
pub struct Sought {
    /// Of this user.
    pub owner_id: Option<i64>,
    /// Where they stand.
    pub status: Option<Status>,
    /// Who may open them.
    pub visibility: Option<Visibility>,
    /// Of this model.
    pub model: Option<String>,
    /// Part of the name, whatever the case.
    pub name: Option<String>,
    /// Older than this one.
    pub before: Option<i64>,
}

/// At most `limit` of everybody's agents that are not deleted, newest first.
pub async fn sought(conn: &mut PgConnection, sought: &Sought, limit: i64) -> sqlx::Result<Vec<Agent>> {
    sqlx::query_as(concat!(
        "select ",
        agent_columns!(""),
        " from agents
          where id < $1 and deleted_at is null and ($2::bigint is null or owner_id = $2)
            and ($3::text is null or status = $3) and ($4::text is null or visibility = $4)
            and ($5::text is null or model = $5) and ($6::text is null or strpos(lower(name), lower($6)) > 0)
          order by id desc limit $7",
    ))
    .bind(sought.before.unwrap_or(i64::MAX))
    .bind(sought.owner_id)
    .bind(sought.status.map(Status::as_str))
    .bind(sought.visibility.map(Visibility::as_str))
    .bind(&sought.model)
    .bind(&sought.name)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Locks a user's row until the transaction ends: two agents of one owner are never counted at once.
pub async fn lock_owner(conn: &mut PgConnection, owner_id: i64) -> sqlx::Result<()> {
    sqlx::query("select from users where id = $1 for no key update").bind(owner_id).fetch_one(conn).await?;
    Ok(())
}

/// How many agents count against a user's limit: all that are neither deleted nor being deleted.
pub async fn count(conn: &mut PgConnection, owner_id: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from agents where owner_id = $1 and deleted_at is null and status <> 'deleting'",
    )
    .bind(owner_id)
    .fetch_one(conn)
    .await
}

/// A new row, and the first version of what is wanted: on its owner's key if one is connected. `sealed_secret` is the Fernet
/// token of the bearer secret. The caller has [locked](lock_owner) the owner.
pub async fn insert(conn: &mut PgConnection, new: &NewAgent, sealed_secret: &[u8]) -> sqlx::Result<Agent> {
    sqlx::query_as(concat!(
        "with new as (
           insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, secret, wanted_key)
           select $1, $2, $3, $4, $5, $6, $7, $8,
                  coalesce((select key_version from users where id = $1 and libertai_key is not null), 0)
           returning ",
        agent_columns!(""),
        "),
         version as (
           insert into agent_versions (agent_id, version, name, system_prompt, model)
           select id, wanted_version, name, system_prompt, model from new)
         select ",
        agent_columns!(""),
        " from new",
    ))
    .bind(new.owner_id)
    .bind(new.bot_id)
    .bind(new.chat_id)
    .bind(&new.name)
    .bind(&new.system_prompt)
    .bind(&new.model)
    .bind(new.visibility.as_str())
    .bind(sealed_secret)
    .fetch_one(conn)
    .await
}

/// Versions of an agent that are kept before the one that it has.
pub const VERSIONS: i32 = 50;

/// Wants this of the agent from now on, as a new version; the agent as it is then. The caller has [locked](lock) it.
pub async fn want(
    conn: &mut PgConnection,
    id: i64,
    name: &str,
    system_prompt: &str,
    model: &str,
) -> sqlx::Result<Agent> {
    sqlx::query_as(concat!(
        "with changed as (
           update agents set name = $2, system_prompt = $3, model = $4, wanted_version = wanted_version + 1
            where id = $1 returning ",
        agent_columns!(""),
        "),
         version as (
           insert into agent_versions (agent_id, version, name, system_prompt, model)
           select id, wanted_version, name, system_prompt, model from changed),
         worn as (
           delete from agent_versions v using changed c
            where v.agent_id = c.id and v.version < least(c.deployed_version, c.wanted_version) - $5)
         select ",
        agent_columns!(""),
        " from changed",
    ))
    .bind(id)
    .bind(name)
    .bind(system_prompt)
    .bind(model)
    .bind(VERSIONS)
    .fetch_one(conn)
    .await
}

/// A job is to make it ready again: it has no address until then, and what probes found is of no account any more.
pub async fn set_provisioning(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query(
        "update agents set status = 'provisioning', url = null, health_failures = 0, unwell_since = null where id = $1",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether it has a machine, which may hold what it remembers.
pub async fn has_machine(conn: &mut PgConnection, id: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from vms where agent_id = $1 and ended_at is null)")
        .bind(id)
        .fetch_one(conn)
        .await
}

/// It runs elsewhere, at `url`, and is as it is wanted.
pub async fn set_external(conn: &mut PgConnection, id: i64, url: &str, protocol: i32) -> sqlx::Result<Agent> {
    sqlx::query_as(concat!(
        "update agents set external = true, status = 'running', url = $2, protocol = $3, deployed_version = wanted_version,
                wanted_key = 0 where id = $1 returning ", agent_columns!("")
    ))
    .bind(id)
    .bind(url)
    .bind(protocol)
    .fetch_one(conn)
    .await
}

/// Keeps others from taking in an agent at `url` until the transaction ends. Of two addresses with one hash the second waits
/// in vain, no more.
pub async fn lock_url(conn: &mut PgConnection, url: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('agent at ' || $1, 0))").bind(url).execute(conn).await?;
    Ok(())
}

/// The agent that is known to be at `url`.
pub async fn at(conn: &mut PgConnection, url: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar("select id from agents where url = $1 and deleted_at is null limit 1")
        .bind(url)
        .fetch_optional(conn)
        .await
}

/// Changes the status; what is not running has no address, and nobody probes it.
pub async fn set_status(conn: &mut PgConnection, id: i64, status: Status) -> sqlx::Result<()> {
    sqlx::query(
        "update agents set status = $2, url = case when $2 = 'running' then url end,
                health_failures = case when $2 = 'running' then health_failures else 0 end,
                unwell_since = case when $2 = 'running' then unwell_since end where id = $1",
    )
    .bind(id)
    .bind(status.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// From now on these may open it.
pub async fn set_visibility(conn: &mut PgConnection, id: i64, visibility: Visibility) -> sqlx::Result<()> {
    sqlx::query("update agents set visibility = $2 where id = $1")
        .bind(id)
        .bind(visibility.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// From now on it asks this of its callers; `sealed_secret` is the Fernet token of the bearer secret. For an agent that is on
/// no machine.
pub async fn set_secret(conn: &mut PgConnection, id: i64, sealed_secret: &[u8]) -> sqlx::Result<()> {
    sqlx::query("update agents set secret = $2 where id = $1").bind(id).bind(sealed_secret).execute(conn).await?;
    Ok(())
}

/// It answers at `url`, with version `deployed` of what was wanted.
pub async fn set_running(
    conn: &mut PgConnection,
    id: i64,
    url: &str,
    protocol: i32,
    deployed: i32,
) -> sqlx::Result<()> {
    sqlx::query(
        "update agents set status = 'running', url = $2, protocol = $3, deployed_version = $4,
                health_failures = 0, unwell_since = null where id = $1",
    )
    .bind(id)
    .bind(url)
    .bind(protocol)
    .bind(deployed)
    .execute(conn)
    .await?;
    Ok(())
}

/// It answers, and speaks this protocol.
pub async fn set_protocol(conn: &mut PgConnection, id: i64, protocol: i32) -> sqlx::Result<()> {
    sqlx::query("update agents set protocol = $2 where id = $1").bind(id).bind(protocol).execute(conn).await?;
    Ok(())
}

/// Wants again what is deployed, as a new version, whose number is returned; none if it is not known what is deployed. The
/// agent is locked.
pub async fn restore_deployed(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar(
        "with back as (
           update agents a set name = v.name, system_prompt = v.system_prompt, model = v.model,
                  wanted_version = a.wanted_version + 1
             from agent_versions v where a.id = $1 and v.agent_id = a.id and v.version = a.deployed_version
           returning a.id, a.wanted_version, a.name, a.system_prompt, a.model)
         insert into agent_versions (agent_id, version, name, system_prompt, model)
           select id, wanted_version, name, system_prompt, model from back returning version",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// This version is what runs, though nobody installed it anew.
pub async fn set_deployed(conn: &mut PgConnection, id: i64, version: i32) -> sqlx::Result<()> {
    sqlx::query("update agents set deployed_version = $2 where id = $1").bind(id).bind(version).execute(conn).await?;
    Ok(())
}

/// Nothing of it is anywhere, as its owner wants it: what is set up next is no loss to be told of.
pub async fn set_undeployed(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query("update agents set deployed_version = 0 where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// Nothing of it is left but the row, without its secret: who opened it, and by which links, is gone too.
pub async fn set_deleted(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    for forgotten in ["delete from visitors where agent_id = $1", "delete from links where agent_id = $1"] {
        sqlx::query(forgotten).bind(id).execute(&mut *conn).await?;
    }
    sqlx::query("update agents set status = 'deleted', deleted_at = now(), url = null, secret = '', wanted_key = 0, deployed_key = 0,
                may_hold_key = false, paused = null where id = $1")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Locks a chat's row, if it has one, until the transaction ends.
pub async fn lock_conversation(conn: &mut PgConnection, bot_id: i64, chat_id: i64) -> sqlx::Result<()> {
    sqlx::query("select from conversations where bot_id = $1 and chat_id = $2 for no key update")
        .bind(bot_id)
        .bind(chat_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes the agent the one that its owner's chat talks to, unless that chat already talks to one that is not deleted.
pub async fn introduce(conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<()> {
    sqlx::query(
        "insert into conversations (bot_id, chat_id, agent_id) values ($1, $2, $3)
         on conflict (bot_id, chat_id) do update set agent_id = excluded.agent_id
          where conversations.agent_id is null
             or exists (select from agents a where a.id = conversations.agent_id and a.status in ('deleting', 'deleted'))",
    )
    .bind(agent.bot_id)
    .bind(agent.chat_id)
    .bind(agent.id)
    .execute(conn)
    .await?;
    Ok(())
}

/// The name of the other agent that its owner's chat talks to; none if the chat talks to this one.
pub async fn talked_to_instead(conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "select a.name from conversations c join agents a on a.id = c.agent_id
          where c.bot_id = $1 and c.chat_id = $2 and a.id <> $3",
    )
    .bind(agent.bot_id)
    .bind(agent.chat_id)
    .bind(agent.id)
    .fetch_optional(conn)
    .await
}

/// What its owner is called, and their client's language.
pub async fn owner_of(conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<(String, Option<String>)> {
    sqlx::query_as("select name, language_code from users where id = $1").bind(agent.owner_id).fetch_one(conn).await
}

/// The bot's user name without `@`, for links; none while it is not known.
pub async fn bot_username(conn: &mut PgConnection, bot_id: i64) -> sqlx::Result<Option<String>> {
    let name: Option<String> =
        sqlx::query_scalar("select username from bots where bot_id = $1").bind(bot_id).fetch_optional(conn).await?;
    Ok(name.filter(|name| !name.is_empty()))
}
