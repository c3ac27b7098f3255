//! People's own keys for LibertAI, and which key an agent runs on.
//!
//! `agents.wanted_key` and `deployed_key` are 0 for the operator's key, else the `users.key_version` of the owner's. What is
//! wanted changes together with a new version of what is wanted, so that a job under way takes it up; a job writes down
//! which key it is about to install before it does.
//!
//! A key that was taken back may still be on a machine, though nobody knows that it was installed: `may_hold_key` is set
//! before an owner's key is put there, and only an agent that answers with the operator's clears it. One that may hold a
//! key that was taken back, and that no job works at, is paused.

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{PgConnection, Row as _};

use super::Agent;
use crate::config::Config;
use crate::vault::{Undecryptable, Vault};

/// A user's own key.
pub struct OwnKey {
    /// `users.key_version`: grows with every key that is connected.
    pub version: i32,
    /// Fernet token of the key.
    sealed: Vec<u8>,
}

impl OwnKey {
    /// The key itself.
    pub fn open(&self, vault: &Vault) -> Result<SecretString, Undecryptable> {
        vault.decrypt_text(&self.sealed)
    }
}

/// The key that is connected, if one is.
pub async fn connected(conn: &mut PgConnection, user_id: i64) -> sqlx::Result<Option<OwnKey>> {
    let row = sqlx::query("select key_version, libertai_key from users where id = $1 and libertai_key is not null")
        .bind(user_id)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|row| OwnKey { version: row.get("key_version"), sealed: row.get("libertai_key") }))
}

/// The key that an agent is to be installed with.
pub struct ModelKey {
    /// As in `agents.deployed_key`.
    pub version: i32,
    /// The key itself.
    pub secret: SecretString,
}

/// Why it is not known which key an agent is to run on.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Postgres.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The owner's key was stored under another BOT_ENCRYPTION_KEY.
    #[error(transparent)]
    Undecryptable(#[from] Undecryptable),
}

/// The key that this agent is to run on: its owner's where that is wanted and still connected, else the operator's. A key
/// that was taken back is nowhere any more, so nothing can bring it back.
pub async fn of_agent(conn: &mut PgConnection, config: &Config, agent: &Agent) -> Result<ModelKey, KeyError> {
    let own = connected(conn, agent.owner_id).await?.filter(|own| own.version == agent.wanted_key);
    Ok(match own {
        Some(own) => ModelKey { version: own.version, secret: own.open(&config.vault)? },
        None => ModelKey { version: 0, secret: config.libertai_api_key.clone() },
    })
}

/// Connects a key, unless this user is being forgotten; those of their agents that ran on an earlier one are to run on this
/// one, once they are deployed anew. The user's row is locked from here on.
pub async fn connect(conn: &mut PgConnection, vault: &Vault, user_id: i64, key: &SecretString) -> sqlx::Result<bool> {
    let version: Option<i32> = sqlx::query_scalar(
        "update users set libertai_key = $2, key_version = key_version + 1, key_connected_at = now()
          where id = $1 and forgetting_since is null returning key_version",
    )
    .bind(user_id)
    .bind(vault.encrypt(key.expose_secret().as_bytes()))
    .fetch_optional(&mut *conn)
    .await?;
    let Some(version) = version else { return Ok(false) };
    sqlx::query("update agents set wanted_key = $2 where owner_id = $1 and wanted_key <> 0 and deleted_at is null")
        .bind(user_id)
        .bind(version)
        .execute(conn)
        .await?;
    Ok(true)
}

/// Forgets the key. Whether there was one. The user's row is locked from here on.
pub async fn disconnect(conn: &mut PgConnection, user_id: i64) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update users set libertai_key = null, key_connected_at = null where id = $1 and libertai_key is not null",
    )
    .bind(user_id)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Notes which key was installed with what runs now; an agent that was paused over a key goes on once it has the one that
/// is wanted.
pub async fn set_deployed(conn: &mut PgConnection, agent_id: i64, version: i32) -> sqlx::Result<()> {
    sqlx::query(
        "update agents set deployed_key = $2, may_hold_key = $2 <> 0,
                paused = case when wanted_key = $2 then null else paused end where id = $1",
    )
    .bind(agent_id)
    .bind(version)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that this key is about to be put onto the agent's machine. `false`: it is not the one that is wanted any more,
/// and must not be.
pub async fn about_to_reach(conn: &mut PgConnection, agent_id: i64, version: i32) -> sqlx::Result<bool> {
    let result = sqlx::query(
        "update agents set may_hold_key = may_hold_key or $2 <> 0 where id = $1 and ($2 = 0 or wanted_key = $2)",
    )
    .bind(agent_id)
    .bind(version)
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// A machine of the agent has ended: what was on it is nowhere any more. What other machines had stays known.
pub async fn gone_with_machine(conn: &mut PgConnection, agent_id: i64) -> sqlx::Result<()> {
    sqlx::query(
        "update agents a set may_hold_key = false
          where id = $1 and may_hold_key
            and not exists (select from vms v where v.ended_at is null and a.id in (v.agent_id, v.last_agent_id))",
    )
    .bind(agent_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Wants this key of an agent, which the caller has locked and of which the caller wants a new version too.
pub(super) async fn want(conn: &mut PgConnection, agent_id: i64, version: i32) -> sqlx::Result<()> {
    sqlx::query("update agents set wanted_key = $2 where id = $1").bind(agent_id).bind(version).execute(conn).await?;
    Ok(())
}

/// An agent that does not have the key that is wanted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its number.
    pub id: i64,
    /// What it is called.
    pub name: String,
    /// Whether a job is on its way to that.
    pub moving: bool,
}

/// The user's agents that are to run on key `version` and do not, oldest first. One without a machine has no key at all.
pub async fn behind(conn: &mut PgConnection, user_id: i64, version: i32) -> sqlx::Result<Vec<Behind>> {
    let rows = sqlx::query(
        "select a.id, a.name,
                exists (select from jobs j where j.agent_id = a.id and not j.done
                           and j.step not in ('stop', 'remove', 'end')) as moving
           from agents a
          where a.owner_id = $1 and a.deleted_at is null and a.status <> 'deleting' and a.wanted_key = $2
            and (a.deployed_key <> $2 or ($2 = 0 and a.may_hold_key))
            and exists (select from vms v where v.agent_id = a.id and v.ended_at is null)
          order by a.id",
    )
    .bind(user_id)
    .bind(version)
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().map(|row| Behind { id: row.get("id"), name: row.get("name"), moving: row.get("moving") }).collect())
}

/// Lets no message reach those of these agents that may still have another key than the operator's, until they have that;
/// their numbers and names.
pub async fn pause(conn: &mut PgConnection, ids: &[i64], why: &str) -> sqlx::Result<Vec<(i64, String)>> {
    sqlx::query_as(
        "with paused as (
           update agents set paused = $2 where id = any($1) and wanted_key = 0 and may_hold_key and deleted_at is null
           returning id, name)
         select id, name from paused order by id",
    )
    .bind(ids)
    .bind(why)
    .fetch_all(conn)
    .await
}

/// How many of the user's agents run on a key of theirs, or may have one.
pub async fn agents_on_own(conn: &mut PgConnection, user_id: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from agents where owner_id = $1 and deleted_at is null and status <> 'deleting' and (deployed_key <> 0 or may_hold_key)",
    )
    .bind(user_id)
    .fetch_one(conn)
    .await
}

/// How many of the user's agents could run on the key that is connected and do not.
pub async fn agents_not_on(conn: &mut PgConnection, user_id: i64, version: i32) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from agents where owner_id = $1 and deleted_at is null and status = 'running' and not external and deployed_key <> $2",
    )
    .bind(user_id)
    .bind(version)
    .fetch_one(conn)
    .await
}
